"""Workers with an event loop, as the pump sees them: the window of a response, clients that leave,
deadlines."""

from __future__ import annotations

import os
import signal
import struct
from typing import Any

import pytest

from halfsync.objects import Memory
from halfsync.wire.messages import (
    DONE,
    PIECE_COST,
    RESPONSE_WINDOW,
    UNFINISHED,
    Cancel,
    ClientDisconnected,
    EarlyHints,
    Nudge,
    Part,
    Reply,
    Taken,
    Task,
)
from halfsync.wire.task_slots import SCOREBOARD_SLOTS
from tests.pump.harness import Client, Hand, Stage, get, skip_with_single_bytes

HALF = RESPONSE_WINDOW // 2


def loops(**settings: Any) -> Stage:
    stage = Stage(**settings)
    stage.with_loops = True
    return stage


def ask(client: Client, hand: Hand, path: str = "/") -> Task:
    client.send(get(path))
    turn(hand)
    return hand.take()


def turn(hand: Hand) -> None:
    """The loop turns."""
    now = struct.pack("Q", hand.stage.time.monotonic_ns())
    os.pwrite(hand._scoreboard_fd, now, 2 * SCOREBOARD_SLOTS * 8)


# --- tasks -----------------------------------------------------------------------------------------


def test_all_that_waits_comes_in_one_packet():
    with loops() as stage:
        hand = stage.hand(threads=100)
        clients = [stage.client() for _ in range(20)]
        for client in clients:
            client.sock.send(get())  # none of them is read before all are there
        stage.settle()
        assert len(hand.tasks) == 20
        assert len(hand.packets) < 20
        assert hand.heard() == []


def test_a_worker_gets_no_more_than_it_takes():
    with loops() as stage:
        hand = stage.hand(threads=2)
        clients = [stage.client() for _ in range(4)]
        for client in clients:
            client.send(get())
        stage.settle()
        assert len(hand.tasks) == 2
        hand.reply(hand.take(), b"first")
        stage.settle()
        assert len(hand.tasks) == 2


def test_a_worker_that_begins_nothing_gets_no_nudge_and_others_get_its_requests():
    with loops() as stage:
        blocked = stage.hand(threads=100)
        clients = [stage.client() for _ in range(5)]
        clients[0].send(get())
        blocked.take()  # begun
        for client in clients[1:]:
            client.send(get())
        stage.settle()
        assert len(blocked.tasks) == 4
        other = stage.hand(threads=100)
        stage.later(2)
        assert not any(isinstance(message, Nudge) for message in blocked.heard())
        assert len(other.tasks) == 4


def test_requests_of_a_killed_worker_are_tried_again_all_at_once():
    with loops() as stage:
        first = stage.hand(threads=100)
        clients = [stage.client() for _ in range(5)]
        for client in clients:
            ask(client, first)
        stage.status = signal.SIGKILL
        first.die()
        second = stage.hand(threads=100)
        stage.settle()
        assert len(second.tasks) == 5


# --- the window of a response ----------------------------------------------------------------------


def begun(stage: Stage, hand: Hand, client: Client) -> Task:
    task = ask(client, hand)
    hand.reply(task, b"", ending=UNFINISHED)
    return task


def test_a_client_that_has_taken_all_makes_room_for_more():
    skip_with_single_bytes("it takes too long")
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client)
        sizes = [100_000, HALF - 100_000 - 2 * PIECE_COST - 1]  # each fits a packet
        for size in sizes:
            hand.part(task, Memory(bytes(size)))
        stage.until(lambda: client.receive() >= 0 and len(client.inbox) > sum(sizes), "the pieces")
        assert hand.heard() == []  # not worth a message yet
        hand.part(task, Memory(bytes(1000)))
        stage.until(lambda: client.receive() >= 0 and len(client.inbox) > sum(sizes) + 1000, "the last one")
        assert hand.heard() == [Taken(task.number, HALF - 1 + 1000 + PIECE_COST)]
        hand.part(task, ending=DONE)
        assert len(client.answer().body) == sum(sizes) + 1000


def test_a_client_that_takes_nothing_makes_none():
    skip_with_single_bytes("it takes too long")
    with loops() as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        task = begun(stage, hand, client)
        for _ in range(2):
            hand.part(task, Memory(bytes(100_000)))
        assert hand.heard() == []


def test_more_than_the_window_costs_the_response():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        task = begun(stage, hand, client)
        for _ in range(8):
            hand.part(task, Memory(bytes(128 * 1024)))
        assert client.rest()
        assert client.reset
        assert hand.worker is not None


def test_a_stream_may_be_of_any_length(stage_of_loops: Stage):
    """What it counted, reply_memory among it, is given back as it is taken."""
    skip_with_single_bytes("it takes too long")
    stage = stage_of_loops
    hand = stage.hand()
    client = stage.client()
    task = begun(stage, hand, client)
    for _ in range(30):
        hand.part(task, Memory(bytes(128 * 1024)))
        stage.until(lambda: client.receive() == 0, "all of it")
        client.inbox = b""
    assert hand.worker is not None
    assert not client.over
    assert sum(isinstance(message, Taken) for message in hand.heard()) > 10


@pytest.fixture
def stage_of_loops():
    with loops(reply_memory=0) as stage:
        yield stage


# --- hints -----------------------------------------------------------------------------------------


def test_hints_go_before_a_response_that_comes_in_the_same_packet():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = ask(client, hand)
        reply = Reply(task.number, 200, "OK", b"", 2, b"ok")
        hand.send([EarlyHints(task.number, b"Link: </a>\r\n"), reply])
        hints, answer = client.interim(), client.answer()
        assert (hints.status, hints.fields, answer.body) == (103, {"link": "</a>"}, b"ok")


def test_hints_behind_the_beginning_of_a_response_are_dropped():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client)
        hand.send([EarlyHints(task.number, b"Link: </a>\r\n"), Part(task.number, [Memory(b"x")], DONE)])
        assert client.answer().body == b"x"


# --- leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_client_that_closes_its_side_counts_as_left_after_a_moment(has_begun):
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client) if has_begun else ask(client, hand)
        client.finish()
        assert hand.heard() == []
        stage.later(1.5)
        assert hand.heard() == [ClientDisconnected(task.number)]
        hand.part(task, ending=DONE)
        assert hand.worker is not None
        assert hand.worker.outstanding == 0


def test_until_then_it_gets_its_response():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = ask(client, hand)
        client.finish()
        stage.settle()
        hand.reply(task, b"in time")
        assert client.answer().body == b"in time"


def test_one_that_sends_on_is_there():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = ask(client, hand)
        client.send(get("/next"))
        stage.later(5)
        assert hand.heard() == []
        hand.reply(task, b"first")
        assert client.answer().body == b"first"


# --- deadlines -------------------------------------------------------------------------------------


def test_a_handler_that_merely_waits_too_long_is_cancelled():
    with loops(handler_timeout=5) as stage:
        hand = stage.hand()
        client = stage.client()
        task = ask(client, hand)
        stage.later(4)
        assert client.quiet()
        turn(hand)
        stage.later(2)
        assert client.answer().status == 504
        assert hand.heard() == [Cancel(task.number)]
        assert stage.hung == []
        hand.reply(ask(client, hand, "/next"), b"goes on")
        assert client.answer().body == b"goes on"
        hand.part(task, ending=DONE)
        assert hand.worker is not None
        assert hand.worker.outstanding == 0


def test_a_loop_that_is_blocked_later_is_noticed_too():
    """The request that blocks it may have passed its deadline already."""
    with loops(handler_timeout=5) as stage:
        hand = stage.hand()
        client = stage.client()
        ask(client, hand)
        stage.later(2)
        turn(hand)
        stage.later(4)
        assert client.answer().status == 504
        assert stage.hung == []
        stage.later(3)
        assert [worker.id for worker in stage.hung] == [hand.number]


def test_a_loop_without_tasks_need_not_turn():
    with loops(handler_timeout=5) as stage:
        hand = stage.hand()
        turn(hand)
        stage.later(20)
        assert stage.hung == []
        client = stage.client()
        client.send(get())
        hand.reply(hand.take(begin=False), b"x")
        assert client.answer().body == b"x"
        assert stage.hung == []


def test_a_worker_whose_loop_is_blocked_is_replaced():
    with loops(handler_timeout=5) as stage:
        hand = stage.hand()
        client = stage.client()
        ask(client, hand)
        stage.later(6)
        assert client.answer().status == 504
        assert [worker.id for worker in stage.hung] == [hand.number]
        assert hand.heard() == []
        client.send(get("/next"))
        stage.settle()
        assert not hand.tasks
