"""Handlers that pass their deadline, step by step: the client's response, the exception, the worker's end."""

from __future__ import annotations

import os
import re
import signal
import struct
from dataclasses import replace

from halfsync.plan.plan import Kind, Limits, RoutePlan
from halfsync.pump.pools.workers import Worker
from halfsync.pump.status import overview
from halfsync.settings.table import Settings
from halfsync.wire.messages import ABORTED, DONE, UNFINISHED, Cancel, Stacks, Task
from halfsync.wire.task_slots import SCOREBOARD_SLOTS
from tests.pump.harness import APP, Client, Hand, Stage, get


def hanging(stage: Stage, hand: Hand, path: str = "/") -> tuple[Client, Task]:
    client = stage.client()
    client.send(get(path))
    return client, hand.take()


def ids(workers: list[Worker]) -> list[int]:
    return [worker.id for worker in workers]


def test_one_that_ends_when_it_is_told_to_leaves_its_worker_in_service(capfd):
    with Stage(handler_timeout=5, handler_grace=3) as stage:
        hand = stage.hand(threads=1)
        client, task = hanging(stage, hand, "/slow")
        stage.later(6)
        assert client.answer().status == 504
        assert hand.heard() == [Stacks(task.number, 3.0)]
        assert stage.hung == stage.interrupted == []
        stage.later(1)
        hand.reply(task, b"late")
        stage.later(1)
        assert (ids(stage.interrupted), stage.hung) == ([hand.number], [])
        client.send(get("/next"))
        hand.reply(hand.take(), b"next")
        assert client.answer().body == b"next"
        stage.later(20)
        assert (ids(stage.interrupted), stage.hung) == ([hand.number], [])
        assert re.search(r"GET '/slow' ended within \d\.\d s of its deadline\.", capfd.readouterr().err)


def test_it_is_shown_by_name_until_it_ends():
    with Stage(handler_timeout=5, handler_grace=60) as stage:
        hand = stage.hand(threads=2)
        assert hand.worker is not None
        hand.worker.rows = range(2)  # of the scoreboard, as the parent gives them
        client, task = hanging(stage, hand, "/stuck")
        stage.later(1)
        stage.later(5)
        assert client.answer().status == 504
        [shown] = overview.tasks_of(stage.pump, hand.worker)
        assert (shown["request"], shown["host"], shown["client"]) == (
            "GET '/stuck' (given up)", "a", "127.0.0.1"
        )  # fmt: skip
        letters = [(one["letter"], one.get("request")) for one in overview.slots_of(stage.pump, hand.worker)]
        assert letters == [("W", "GET '/stuck' (given up)"), ("_", None)]
        hand.reply(task, b"late")
        stage.later(1)
        assert overview.tasks_of(stage.pump, hand.worker) == []


def test_one_that_goes_on_costs_its_worker_and_no_request_beside_it(capfd):
    with Stage(handler_timeout=5, handler_grace=4) as stage:
        hand = stage.hand(threads=3)
        client, _ = hanging(stage, hand, "/stuck")
        stage.later(4)
        beside, other = hanging(stage, hand, "/other")
        stage.later(2)
        assert client.answer().status == 504
        client.send(get("/during"))  # it is in service until the time is over
        during = hand.take()
        stage.later(2)
        assert stage.hung == []
        hand.reply(other, b"other")
        assert beside.answer().body == b"other"
        stage.later(1)
        assert (ids(stage.hung), stage.interrupted) == ([hand.number], [])
        late = stage.client()
        late.send(get("/after"))
        assert not hand.tasks
        hand.reply(during, b"during")
        assert client.answer().body == b"during"
        stage.hand(answers=True)
        assert late.answer().status == 200
        stage.later(20)
        assert ids(stage.hung) == [hand.number]
    said = capfd.readouterr().err
    assert "GET '/stuck' goes on 4.0 s after its deadline (handler_grace): the worker gets no more" in said


def test_without_grace_nothing_is_raised_and_the_worker_goes_at_once():
    with Stage(handler_timeout=5, handler_grace=0) as stage:
        hand = stage.hand()
        client, task = hanging(stage, hand)
        stage.later(6)
        assert client.answer().status == 504
        assert hand.heard() == [Stacks(task.number)]
        assert ids(stage.hung) == [hand.number]


def test_a_route_may_have_a_grace_of_its_own():
    usual = Limits.of(Settings(handler_timeout=5))
    routes = (
        RoutePlan("/now", "app:app", Kind.WSGI, APP, limits=replace(usual, handler_grace=0)),
        RoutePlan("", "app:app", Kind.WSGI, APP, limits=replace(usual, handler_grace=8)),
    )
    with Stage(routes=routes) as stage:
        first, second = stage.hand(threads=1), stage.hand(threads=1)
        asked = [stage.client() for _ in range(2)]
        for client, path in zip(asked, ("/now", "/"), strict=True):
            client.send(get(path))
        hands = {task.head: hand for hand in (first, second) for task in [hand.take()]}
        stage.later(6)
        assert [client.answer().status for client in asked] == [504] * 2
        assert ids(stage.hung) == [hands[get("/now")].number]
        stage.later(8)
        assert ids(stage.hung) == [hands[get("/now")].number, hands[get("/")].number]


def test_several_in_one_worker_cost_it_once():
    with Stage(handler_timeout=5, handler_grace=2) as stage:
        hand = stage.hand(threads=4)
        found = [hanging(stage, hand) for _ in range(3)]
        stage.later(6)
        assert [client.answer().status for client, _ in found] == [504] * 3
        hand.reply(found[0][1])
        stage.later(10)
        assert ids(stage.hung) == [hand.number]


def test_a_worker_that_dies_meanwhile_is_not_reported():
    with Stage(handler_timeout=5, handler_grace=3) as stage:
        hand = stage.hand()
        client, _ = hanging(stage, hand)
        stage.later(6)
        assert client.answer().status == 504
        stage.status = signal.SIGKILL
        hand.die()
        stage.later(10)
        assert stage.hung == stage.interrupted == []


def test_a_client_that_left_does_not_keep_its_handler_from_being_ended():
    """The thread is as lost as with a client."""
    with Stage(handler_timeout=5, handler_grace=3) as stage:
        hand = stage.hand()
        client, task = hanging(stage, hand)
        client.leave()
        stage.later(6)
        assert Stacks(task.number, 3.0) in hand.heard()
        stage.later(4)
        assert ids(stage.hung) == [hand.number]


def test_a_task_that_swallows_its_cancellation_costs_the_worker_of_its_loop():
    with Stage(handler_timeout=5, handler_grace=3) as stage:
        stage.with_loops = True
        hand = stage.hand(threads=100)
        client, task = hanging(stage, hand)
        other, its = hanging(stage, hand)

        def passes(seconds: int) -> None:
            for _ in range(2 * seconds):
                turned(hand, stage)
                stage.later(0.5)

        passes(6)
        assert [client.answer().status, other.answer().status] == [504] * 2
        assert hand.heard() == [Cancel(task.number), Cancel(its.number)]
        hand.part(its, ending=DONE)
        passes(1)
        assert stage.hung == []
        passes(2)
        assert (ids(stage.hung), stage.interrupted) == ([hand.number], [])


def turned(hand: Hand, stage: Stage) -> None:
    """The loop goes on."""
    now = struct.pack("Q", stage.time.monotonic_ns())
    os.pwrite(hand._scoreboard_fd, now, 2 * SCOREBOARD_SLOTS * 8)


def test_those_that_a_handler_keeps_from_beginning_are_given_to_others():
    """A handler that holds the interpreter lock: nothing of its worker moves, and nothing waits for it."""
    with Stage(handler_timeout=5, handler_grace=1) as stage:
        hand = stage.hand(threads=2)
        client, _ = hanging(stage, hand)
        behind = stage.client()
        behind.send(get("/behind"))
        hand.take(begin=False)
        stage.hand(answers=True)
        stage.later(2)
        assert behind.answer().status == 200
        stage.later(7)
        assert client.answer().status == 504
        assert ids(stage.hung) == [hand.number]


def test_a_stream_whose_client_leaves_late_has_its_time_from_then_on():
    """It learns of it when it goes on: that it has streamed for longer than handler_timeout is no fault."""
    with Stage(handler_timeout=5, handler_grace=3) as stage:
        hand = stage.hand()
        client, task = hanging(stage, hand)
        hand.reply(task, b"first", ending=UNFINISHED)
        client.receive()
        stage.later(30)
        client.leave()
        stage.later(4)
        assert not any(isinstance(one, Stacks) for one in hand.heard())
        assert stage.hung == stage.interrupted == []
        stage.later(2)
        assert Stacks(task.number, 3.0) in hand.heard()
        stage.later(4)
        assert ids(stage.hung) == [hand.number]


def test_a_stream_that_pauses_too_long_does_not_keep_its_thread_for_good(capfd):
    """With stream_timeout alone: its client is cut off, and then its handler is ended as any other is."""
    with Stage(stream_timeout=5, handler_grace=3) as stage:
        hand = stage.hand(threads=2)
        client, task = hanging(stage, hand, "/stream")
        hand.reply(task, b"first", ending=UNFINISHED)
        client.receive()
        beside, other = hanging(stage, hand, "/other")  # this one has no limit
        stage.later(8)
        stage.until(lambda: client.receive() == 0 and client.reset)
        assert not any(isinstance(one, Stacks) for one in hand.heard())
        stage.later(3)
        assert Stacks(task.number, 3.0) in hand.heard()
        stage.later(4)
        assert ids(stage.hung) == [hand.number]
        hand.reply(other, b"other")
        assert beside.answer().body == b"other"
    said = capfd.readouterr().err
    assert "GET '/stream': its handler gave nothing for 5 s (stream_timeout): connection reset" in said
    assert "past its deadline: GET '/stream'" in said


def test_one_that_ends_when_its_client_is_cut_off_is_not_interrupted():
    with Stage(stream_timeout=5, handler_grace=3) as stage:
        hand = stage.hand(threads=2)
        client, task = hanging(stage, hand, "/stream")
        hand.reply(task, b"first", ending=UNFINISHED)
        stage.later(7)
        stage.until(lambda: client.receive() == 0 and client.reset)
        hand.part(task, ending=ABORTED)
        stage.later(30)
        assert not any(isinstance(one, Stacks) for one in hand.heard())
        assert stage.hung == stage.interrupted == []
