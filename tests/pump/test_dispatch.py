"""Who gets which request, and what becomes of it when something dies, hangs, or talks nonsense."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfsync.objects import Memory
from halfsync.wire.messages import Ending, Nudge, Part, Recall, Reply, Stacks, Task, encode
from halfsync.wire.task_slots import SCOREBOARD_SLOTS
from tests.pump.harness import Client, Hand, Stage, get

ROOT = Path(__file__).resolve().parents[2]
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def ask_at_once(stage: Stage, count: int) -> list[Client]:
    """So many clients, whose requests the pump sees in one turn."""
    clients = [stage.client() for _ in range(count)]
    stage.settle()
    for number, client in enumerate(clients):
        client.sock.send(get(f"/{number}"))
    stage.settle()
    return clients


def make_fast(stage: Stage, hand: Hand) -> None:
    """Let the pump learn that this pool's handlers are fast."""
    client = stage.client()
    for _ in range(40):
        client.send(get())
        hand.reply(hand.take(), handler_ns=10_000)
        client.answer()
    client.leave()
    hand.packets.clear()
    hand.heard()


# --- death ----------------------------------------------------------------------------------------


def test_a_begun_request_is_tried_once_more_if_that_is_harmless(stage: Stage):
    """GET is idempotent: another worker gets it. Not a third one: it may be what kills them."""
    first, second, third = stage.hand(), None, None
    client = stage.client()
    client.send(get("/x"))
    first.take()
    second = stage.hand()
    first.die()
    assert second.take().head == get("/x")
    third = stage.hand()
    second.die()
    assert client.answer().status == 502
    assert not third.tasks
    third.reply(ask(client, third), b"well")
    assert client.answer().body == b"well"


def ask(client: Client, hand: Hand) -> Task:
    client.send(get())
    return hand.take()


def test_a_begun_post_is_not_repeated(stage: Stage):
    """What a POST did once must not be done twice: 502, and the connection goes on."""
    first = stage.hand()
    client = stage.client()
    client.send(POST)
    first.take()
    second = stage.hand()
    first.die()
    assert client.answer().status == 502
    assert not second.tasks
    second.reply(ask(client, second), b"well")
    assert client.answer().body == b"well"


def test_a_request_that_was_not_begun_goes_to_another(stage: Stage):
    """Even a POST, as often as it takes: the scoreboard says that no handler has seen it."""
    client = stage.client()
    hand = stage.hand()
    client.send(POST)
    for _ in range(4):
        hand.take(begin=False)
        hand.die()
        assert client.quiet()
        hand = stage.hand()
    hand.reply(hand.take(), b"well")
    assert client.answer().body == b"well"


def test_a_large_body_goes_with_it(stage: Stage):
    """A spooled body is there for the second worker too, from its first byte."""
    body = os.urandom(100_000)
    client = stage.client()
    first = stage.hand()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + body)
    assert first.bodies[first.take().number] == body
    second = stage.hand()
    first.die()
    task = second.take()
    assert second.bodies[task.number] == body


def test_a_response_that_had_begun_is_reset(stage: Stage):
    """It can't be tried again, and must not look whole."""
    hand = stage.hand()
    client = stage.client()
    hand.reply(ask(client, hand), b"some", ending=Ending.UNFINISHED)
    hand.die()
    client.rest()
    assert client.reset


def test_a_client_that_left_is_not_worked_for(stage: Stage):
    """A request whose client left while it was queued is given to nobody."""
    client = stage.client()
    client.send(get())
    client.leave()
    stage.until(lambda: not stage.pump.connections)
    hand = stage.hand()
    assert not hand.tasks


def test_a_response_to_nobody_is_dropped(stage: Stage):
    """The client left while a worker had its request; the slot comes free all the same."""
    hand = stage.hand()
    client = stage.client()
    task = ask(client, hand)
    client.leave()
    stage.until(lambda: not stage.pump.connections)
    hand.reply(task, b"for nobody")
    assert hand.worker is not None
    assert hand.worker.outstanding == 0


def test_a_retired_worker_finishes_first(stage: Stage):
    """It gets no more, ends what it has, and then sees its channel close."""
    old = stage.hand()
    client = stage.client()
    task = ask(client, old)
    new = stage.hand()
    stage.pump.pools.retire(old.number)
    other = stage.client()
    new.reply(ask(other, new), b"new")
    assert other.answer().body == b"new"
    assert old.open
    old.reply(task, b"old")
    assert client.answer().body == b"old"
    stage.settle()
    assert not old.open


# --- overload -------------------------------------------------------------------------------------


def test_queue_limit():
    """Past queue_limit: 503 at once, with Retry-After, and the connection is kept."""
    with Stage(queue_limit=2) as stage:
        waiting = ask_at_once(stage, 2)
        late = stage.client()
        answer = late.ask("/late")
        assert answer.status == 503
        assert int(answer.fields["retry-after"]) > 0
        assert not answer.closes
        hand = stage.hand(answers=True)
        assert [client.answer().status for client in waiting] == [200, 200]
        assert late.ask("/now").status == 200
        assert len(hand.packets) == 3


def test_queue_timeout():
    """A request that waited longer than queue_timeout: 503; one that has not goes on waiting."""
    with Stage(queue_timeout=10) as stage:
        [early] = ask_at_once(stage, 1)
        stage.later(6)
        [late] = ask_at_once(stage, 1)
        stage.later(5)
        answer = early.answer()
        assert answer.status == 503
        assert "retry-after" in answer.fields
        assert late.quiet()
        stage.hand(answers=True)
        assert late.answer().status == 200


def test_handler_timeout():
    """Past the deadline: 504, the thread's stack is asked for, the worker is to be replaced and gets
    no more; its late response goes to nobody, least of all to the next request."""
    with Stage(handler_timeout=5, handler_grace=0) as stage:
        hand = stage.hand()
        client = stage.client()
        task = ask(client, hand)
        stage.later(4)
        assert client.quiet()
        stage.later(2)
        assert client.answer().status == 504
        assert hand.heard() == [Stacks(task.number)]
        assert [worker.id for worker in stage.hung] == [hand.number]
        client.send(get("/next"))
        assert not hand.tasks
        other = stage.hand()
        hand.reply(task, b"late")
        assert client.quiet()
        other.reply(other.take(), b"next")
        assert client.answer().body == b"next"
        stage.later(20)
        assert len(stage.hung) == 1
        assert not hand.open


def test_handler_timeout_is_not_for_the_queue():
    """A task that was handed over and not begun is not past any deadline."""
    with Stage(handler_timeout=5, queue_timeout=100) as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(get())
        hand.take(begin=False)
        stage.later(10)
        assert client.quiet()
        assert not stage.hung


# --- look-ahead -----------------------------------------------------------------------------------


def test_a_pool_has_to_earn_its_look_ahead(stage: Stage):
    """Until its handlers were fast, a worker gets one task a packet and no more than it has threads."""
    hand = stage.hand(threads=3)
    ask_at_once(stage, 10)
    hand.work()
    assert [len(packet) for packet in hand.packets] == [1, 1, 1]
    hand.reply(hand.take())
    assert [len(packet) for packet in hand.packets] == [1, 1, 1, 1]


def test_fast_pools_get_one_packet_a_turn(stage: Stage):
    """All that is due in a turn comes in one packet, in order, beyond the number of threads."""
    hand = stage.hand(threads=3)
    make_fast(stage, hand)
    clients = ask_at_once(stage, 10)
    hand.work()
    assert [len(packet) for packet in hand.packets] == [10]
    paths = [task.head.split(b" ")[1] for task in hand.tasks]
    assert sorted(paths) == [b"/%d" % number for number in range(10)]
    tasks, hand.tasks = hand.tasks, []
    hand.send([Reply(task.number, 200, "OK", b"", 1, b"%d" % number) for number, task in enumerate(tasks)])
    bodies = {task.head.split(b" ")[1]: b"%d" % number for number, task in enumerate(tasks)}
    for number, client in enumerate(clients):
        assert client.answer().body == bodies[b"/%d" % number]


def test_one_slow_handler_ends_the_look_ahead(stage: Stage):
    """A pool whose handlers have become slow is treated as such at once."""
    hand = stage.hand(threads=3)
    make_fast(stage, hand)
    client = stage.client()
    hand.reply(ask(client, hand), handler_ns=50_000_000)
    hand.packets.clear()
    ask_at_once(stage, 5)
    hand.work()
    assert [len(packet) for packet in hand.packets] == [1, 1, 1]


def test_nudge(stage: Stage):
    """Tasks that are not begun after some milliseconds: a sibling thread is woken, again and again
    until they are, at growing intervals; and replies that wait to be batched are asked for."""
    hand = stage.hand(threads=3)
    make_fast(stage, hand)
    ask_at_once(stage, 3)
    first, second, third = hand.tasks
    hand.begin(first)
    stage.settle()
    assert hand.nudges == 0
    for count, silence in ((1, 0.005), (1, 0.004), (2, 0.005), (2, 0.008), (3, 0.010)):
        stage.time.advance(silence)
        stage.settle()
        assert hand.nudges == count
    assert hand.heard() == [Nudge(), Nudge(), Nudge()]
    hand.begin(second)
    hand.begin(third)
    stage.time.advance(1)
    stage.settle()
    stage.time.advance(1)
    stage.settle()
    assert hand.nudges == 3


def test_recall(stage: Stage):
    """Where all threads of a worker are busy and another worker has room, what is not begun is
    recalled and given to the other."""
    hand = stage.hand(threads=1)
    make_fast(stage, hand)
    clients = ask_at_once(stage, 2)
    slow, waiting = hand.tasks
    hand.begin(slow)
    stage.time.advance(0.005)
    stage.settle()
    other = stage.hand(threads=1)
    stage.time.advance(0.010)
    stage.settle()
    assert Recall() in hand.heard()
    hand.send([Part(waiting.number, [], Ending.NOT_BEGUN)])
    task = other.take()
    assert task.head == waiting.head
    other.reply(task, b"quick")
    number = int(task.head.split(b" ")[1][1:])
    assert clients[number].answer().body == b"quick"


# --- nonsense -------------------------------------------------------------------------------------

GARBAGE = {
    "no message": b"\xc1",
    "less behind it than it says": b"\xc1\x0b\0\0\0" + encode([Part(0, [Memory(b"", 99)], Ending.DONE)]),
    "cut short": encode([Reply(0, 200, "OK", b"", 0)])[:-3],
    "an unknown tag": b"\x91\x92\x63\x00",
    "a map": b"\x80",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_malformed_message(stage: Stage, name: str, capfd: pytest.CaptureFixture[str]):
    """What is no message costs the worker its channel, for it can't be told whom else it concerns. The
    parent is told of it; nobody waits for ever."""
    hand = stage.hand()
    client = stage.client()
    client.send(POST)
    hand.take()
    hand.send_packet(GARBAGE[name])
    hand.work()
    assert not hand.open
    assert "malformed message" in capfd.readouterr().err
    assert stage.lost == [hand.number]
    assert client.answer().status == 502
    other = stage.hand(answers=True)
    assert stage.client().ask("/x").status == 200
    assert len(other.packets) == 1


def test_a_response_to_no_task_is_ignored(stage: Stage):
    """Whether it names a slot that is not in use, one that is, or a task that has ended; and so is a
    second response to the same task."""
    hand = stage.hand()
    client = stage.client()
    task = ask(client, hand)
    for number in (7, 5000, -1, task.number - SCOREBOARD_SLOTS, task.number % SCOREBOARD_SLOTS, 1 << 62):
        hand.send([Reply(number, 200, "OK", b"", 3, b"bad")])
    hand.reply(task, b"good")
    hand.reply(task, b"evil")
    hand.send([Part(task.number, [Memory(b"evil")], Ending.DONE)])
    assert client.answer().body == b"good"
    assert client.quiet()
    assert hand.open


def test_no_response_at_all_is_502(stage: Stage):
    """A worker that ends a task without a head."""
    hand = stage.hand()
    client = stage.client()
    hand.part(ask(client, hand), ending=Ending.ABORTED)
    assert client.answer().status == 502


# --- descriptors ----------------------------------------------------------------------------------

SHORT = """
import os
import resource
from tests.pump.harness import Client, Stage, get

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 4096))

def hog(left):
    \"\"\"Take all descriptors but so many.\"\"\"
    hogs = []
    try:
        while True:
            hogs.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for _ in range(left):
            os.close(hogs.pop())
    return hogs

with Stage() as stage:
    stage.hand(answers=True)
    idle = [stage.client() for _ in range(3)]
    for client in idle:
        assert client.ask("/").status == 200
        stage.time.advance(1)
    hogs = hog(1)  # for a client's end, not for ours
    late = Client(stage)
    late.send(get("/late"))
    assert late.answer().status == 200
    assert idle[0].rest() == b"", "the oldest idle one makes room"
    assert len(stage.pump.connections) == 1, len(stage.pump.connections)
    idle[1].rest()
    idle[2].rest()
    late.sock.close()
    for fd in hogs:
        os.close(fd)

with Stage() as stage:
    busy = [stage.client() for _ in range(3)]
    for client in busy:
        client.send(get("/"))
    hogs = hog(1)
    late = Client(stage, in_clear=True)  # with TLS, a handshake would wait for its turn
    stage.settle()
    assert stage.turn() == 0, "it spins"
    assert len(stage.pump.connections) == 3, "nobody who is busy is closed"
    for fd in hogs:
        os.close(fd)
    late.send(get("/late"))
    assert late.quiet()
    stage.later(1)
    assert len(stage.pump.connections) == 4, "accepting goes on"
    stage.hand(answers=True)
    for client in busy:
        assert client.answer().status == 200
    assert late.answer().status == (200 if stage.tls is None else 400)
print("all well")
"""


def test_out_of_descriptors():
    """The oldest idle connections make room; if none is idle, accepting pauses without spinning, and
    goes on when there is room again."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", SHORT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "all well\n", done.stderr
    assert done.stderr.count("not accepted for now") == 2  # once a pump
