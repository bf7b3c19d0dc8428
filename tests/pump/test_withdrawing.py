"""Workers that begin nothing: what they hold goes to others, in order, and runs once."""

from __future__ import annotations

import contextlib
import signal

import pytest

from halfsync.pump.connection import Exchange
from halfsync.pump.pools.workers import Worker
from halfsync.wire.messages import Ending, Part, Recall, Task, decode_tasks
from halfsync.wire.task_slots import SCOREBOARD_SLOTS
from tests.pump.harness import Client, Hand, Stage, get
from tests.pump.test_dispatch import ask_at_once, make_fast

POST = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


def withdrawn(hand: Hand, task: Task) -> bool:
    """What the worker sees on the scoreboard when it gets at the task."""
    assert hand.worker is not None
    return hand.worker.scoreboard[SCOREBOARD_SLOTS + task.number % SCOREBOARD_SLOTS] == task.number


def side(hand: Hand) -> Worker:
    """The pump's."""
    assert hand.worker is not None
    return hand.worker


def target(exchange: Exchange) -> bytes:
    assert exchange.head is not None
    return exchange.head.target


def pass_by(stage: Stage, seconds: float) -> None:
    """Time, as it passes for a pump that looks at its scoreboards."""
    for _ in range(round(seconds / 0.005)):
        stage.time.advance(0.005)
        stage.settle()


def paths(tasks: list[Task]) -> list[bytes]:
    return [task.head.split(b" ")[1] for task in tasks]


def post_at_once(stage: Stage, count: int) -> list[Client]:
    clients = [stage.client() for _ in range(count)]
    stage.settle()
    for number, client in enumerate(clients):
        client.sock.send(POST % number)
    stage.settle()
    return clients


def test_what_a_frozen_worker_does_not_begin_goes_to_another():
    """Even a POST: when the worker wakes up it finds it withdrawn. Meanwhile it gets nothing more."""
    with Stage() as stage:
        frozen = stage.hand()
        clients = post_at_once(stage, 3)
        tasks = [frozen.take(begin=False) for _ in range(3)]
        other = stage.hand()
        pass_by(stage, 0.07)
        other.work()
        assert sorted(paths(other.tasks)) == sorted(paths(tasks))
        assert paths(other.tasks) == paths(tasks), "in their order"
        assert all(withdrawn(frozen, task) for task in tasks)
        for _ in range(3):
            other.reply(other.take(), b"well")
        assert [client.answer().body for client in clients] == [b"well"] * 3
        late = stage.client()
        late.send(get("/late"))
        other.reply(other.take())
        assert late.answer().status == 200
        frozen.work()
        assert not frozen.tasks
        # It wakes up, drops them, and is as good as before.
        for task in tasks:
            frozen.begin(task)
        frozen.send([Part(task.number, [], Ending.NOT_BEGUN) for task in tasks])
        assert frozen.worker is not None
        assert frozen.worker.outstanding == 0
        assert frozen.worker.room == 8
        assert len(frozen.worker.free) == SCOREBOARD_SLOTS


def test_what_it_has_begun_by_then_stays_with_it():
    """Withdrawn in one moment and begun in the same: the second look decides, and nothing runs twice."""
    with Stage() as stage:
        slow = stage.hand()
        [client] = post_at_once(stage, 1)
        task = slow.take(begin=False)
        other = stage.hand()
        while not withdrawn(slow, task):
            pass_by(stage, 0.005)
        slow.begin(task)  # it had read the word before it was written
        pass_by(stage, 0.2)
        assert not other.tasks
        slow.reply(task, b"mine")
        assert client.answer().body == b"mine"
        assert slow.worker is not None
        assert slow.worker.room == 8


def test_it_may_also_drop_it_after_it_has_begun():
    """It wrote its word and read that the task is withdrawn, before the pump looked again."""
    with Stage() as stage:
        slow = stage.hand()
        [client] = post_at_once(stage, 1)
        task = slow.take(begin=False)
        other = stage.hand()
        while not withdrawn(slow, task):
            pass_by(stage, 0.005)
        slow.begin(task)
        slow.send([Part(task.number, [], Ending.NOT_BEGUN)])
        other.work(), slow.work()
        [again] = other.tasks + slow.tasks
        (other if other.tasks else slow).reply(again, b"once")
        assert client.answer().body == b"once"


def test_a_late_reply_to_a_withdrawn_task_is_nobodys():
    """Whatever the worker says of it, even if it did run it against the rules: one client, one response."""
    with Stage() as stage:
        frozen = stage.hand()
        [client] = post_at_once(stage, 1)
        task = frozen.take(begin=False)
        other = stage.hand()
        pass_by(stage, 0.07)
        frozen.reply(task, b"late")
        assert client.quiet()
        other.reply(other.take(), b"right")
        assert client.answer().body == b"right"
        assert client.quiet()


def test_where_nobody_else_has_room_it_keeps_them():
    with Stage() as stage:
        only = stage.hand()
        [client] = post_at_once(stage, 1)
        task = only.take(begin=False)
        pass_by(stage, 0.5)
        assert not withdrawn(only, task)
        assert client.quiet()
        only.begin(task)
        only.reply(task, b"well")
        assert client.answer().body == b"well"


def test_queue_timeout_counts_until_the_handler_begins():
    """A single worker, and it does not begin: 503 in time, and what it says later is nobody's."""
    with Stage(queue_timeout=5) as stage:
        only = stage.hand()
        [client] = post_at_once(stage, 1)
        task = only.take(begin=False)
        stage.later(4)
        assert client.quiet()
        stage.later(2)
        answer = client.answer()
        assert answer.status == 503
        assert "retry-after" in answer.fields
        assert withdrawn(only, task)
        only.send([Part(task.number, [], Ending.NOT_BEGUN)])
        client.send(get("/next"))
        only.reply(only.take(), b"next")
        assert client.answer().body == b"next"


def test_a_client_that_leaves_takes_its_task_with_it():
    """What is not begun when its client leaves need not be."""
    with Stage() as stage:
        hand = stage.hand()
        [client] = post_at_once(stage, 1)
        task = hand.take(begin=False)
        client.leave()
        stage.until(lambda: not stage.pump.connections)
        assert withdrawn(hand, task)
        hand.send([Part(task.number, [], Ending.NOT_BEGUN)])
        assert hand.worker is not None
        assert hand.worker.outstanding == 0
        assert stage.pump.pools.pools[1].waiting == 0


# --- order ----------------------------------------------------------------------------------------


def take_back_by_death(stage: Stage, hand: Hand) -> None:
    hand.die()


def take_back_by_recall(stage: Stage, hand: Hand) -> None:
    assert Recall() in hand.heard()
    for task in hand.tasks:  # one by one, as threads drop them
        hand.send([Part(task.number, [], Ending.NOT_BEGUN)])
    hand.tasks = []


def take_back_by_recall_in_one_packet(stage: Stage, hand: Hand) -> None:
    hand.send([Part(task.number, [], Ending.NOT_BEGUN) for task in reversed(hand.tasks)])
    hand.tasks = []


@pytest.mark.parametrize(
    "take_back", [take_back_by_death, take_back_by_recall, take_back_by_recall_in_one_packet]
)
def test_what_is_taken_back_keeps_its_order(take_back):
    """Before those that came later, and among themselves as they came."""
    with Stage() as stage:
        hand = stage.hand(threads=1)
        make_fast(stage, hand)
        blocker = stage.client()
        blocker.send(POST % 99)
        slow = hand.take()
        post_at_once(stage, 10)
        assert len(hand.tasks) == 10
        before = paths(hand.tasks)
        side(hand).retiring = True  # so that later ones wait in the queue
        later = stage.client()
        later.send(get("/later"))
        if take_back is not take_back_by_death:
            other = stage.hand(threads=1)
            other.work()
            other.tasks = []
            side(other).stalled = False
            pass_by(stage, 0.02)
        pool = stage.pump.pools.pools[1]
        for worker in pool.workers:
            worker.retiring = True
        take_back(stage, hand)
        queued = [target(exchange) for exchange in pool.queue]
        assert [path for path in queued if path != b"/later"] == before
        if b"/later" in queued:
            assert queued[-1] == b"/later"
        assert slow.number


def take_past(hand: Hand, filler: bytes) -> None:
    """What a worker's thread does, past what the test has stuffed its socket with."""
    with contextlib.suppress(BlockingIOError):
        packet = hand.tasks_sock.recv(1 << 20)
        if packet != filler:
            hand.tasks += [task for task in decode_tasks(packet) if isinstance(task, Task)]


def test_a_batch_that_could_not_be_sent_keeps_its_order():
    """Its socket was full."""
    with Stage() as stage:
        hand = stage.hand(threads=4)
        make_fast(stage, hand)
        side(hand).full = True
        clients = [stage.client() for _ in range(10)]
        for number, client in enumerate(clients):
            client.sock.send(get(f"/{number}"))
            stage.settle()
        # Nothing reads on the other side until the socket takes no more.
        filler = b"x" * 60_000
        side(hand).tasks.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                side(hand).tasks.send(filler)
        side(hand).full = False
        stage.pump.pools.tasks.due.add(side(hand).pool)
        stage.pump._turn()
        pool = stage.pump.pools.pools[1]
        assert side(hand).full
        assert [target(exchange) for exchange in pool.queue] == [b"/%d" % number for number in range(10)]
        while not hand.tasks:
            take_past(hand, filler)
            stage.pump._turn()
        assert paths(hand.tasks) == [b"/%d" % number for number in range(10)]


# --- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE]
)
def test_a_request_that_crashed_its_worker_is_not_tried_again(number):
    check_not_retried(number)


def test_nor_one_whose_worker_left_of_its_own_accord_or_nobody_knows_how():
    check_not_retried(0)  # exit status 0
    check_not_retried(7 << 8)
    check_not_retried(-1)


def check_not_retried(status: int = signal.SIGKILL, *, retry: bool = True) -> None:
    with Stage(retry=retry) as stage:
        stage.status = status
        hand = stage.hand()
        client = stage.client()
        client.send(get())
        hand.take()
        other = stage.hand()
        hand.die()
        assert client.answer().status == 502
        assert not other.tasks


def test_nothing_is_tried_again_with_retry_off():
    check_not_retried(retry=False)


def test_nothing_is_decided_before_it_is_known_how_the_worker_ended():
    """Its channel ended; the process may live yet. Without a word from the parent: 502 after a while."""
    with Stage() as stage:
        stage.status = None
        hand = stage.hand()
        client, waiting = stage.client(), stage.client()
        client.send(get())
        hand.take()
        waiting.send(POST % 1)
        hand.take(begin=False)
        other = stage.hand()
        hand.die()
        assert stage.lost == [hand.number]
        assert client.quiet()
        assert not other.tasks
        stage.pump.pools.ended(hand.number, signal.SIGKILL)
        stage.settle()
        assert len(other.tasks) == 1
        other.die()
        stage.later(6)
        third = stage.hand(answers=True)
        assert {client.answer().status, waiting.answer().status} <= {200, 502}
        assert third.open


def test_a_retry_gets_a_worker_for_itself():
    """One with nothing else to do, and nothing else is handed to it meanwhile; another request waits."""
    with Stage() as stage:
        first = stage.hand(threads=4)
        second = stage.hand(threads=4)
        busy = stage.client()
        busy.send(get("/busy"))
        stage.settle()
        holder = first if first.tasks else second
        dying = second if holder is first else first
        busy_task = holder.take()
        # The next goes to the idle one.
        poisoned = stage.client()
        poisoned.send(get("/poisoned"))
        dying.take()
        dying.die()
        assert not holder.tasks, "it has another's request"
        holder.reply(busy_task, b"done")
        assert busy.answer().body == b"done"
        task = holder.take()
        assert task.head.startswith(b"GET /poisoned")
        late = stage.client()
        late.send(get("/late"))
        assert not holder.tasks
        holder.reply(task, b"harmless")
        assert poisoned.answer().body == b"harmless"
        holder.reply(holder.take(), b"late")
        assert late.answer().body == b"late"


def test_a_slow_retry_does_not_keep_all_others_waiting():
    with Stage() as stage:
        first = stage.hand()
        client = stage.client()
        client.send(get("/slow"))
        first.take()
        second = stage.hand()
        first.die()
        slow = second.take()
        late = stage.client()
        late.send(get("/late"))
        stage.later(1)
        assert not second.tasks
        stage.later(2)
        second.reply(second.take(), b"late")
        assert late.answer().body == b"late"
        second.reply(slow, b"slow")
        assert client.answer().body == b"slow"


def test_a_worker_that_is_kept_free_is_free_again_when_the_client_leaves():
    with Stage() as stage:
        first, second = stage.hand(), stage.hand()
        clients = ask_at_once(stage, 2)
        first.work(), second.work()
        kept = [hand.take() for hand in (first, second)]
        first.die()
        stage.settle()
        number = int(kept[0].head.split(b" ")[1][1:])
        clients[number].leave()
        second.reply(kept[1])
        stage.settle()
        late = stage.client()
        late.send(get("/late"))
        second.reply(second.take(), b"late")
        assert late.answer().body == b"late"
