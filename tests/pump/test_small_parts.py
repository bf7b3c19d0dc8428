"""The fast path of bodies that come piece by piece: what goes by it, and that it ends where the general road
does."""

from __future__ import annotations

import os
from typing import Any

import pytest

from halfsync.objects import Memory
from halfsync.pump.http1.small_parts import SmallParts
from halfsync.pump.output import Output
from halfsync.pump.states import PRODUCING
from halfsync.wire.messages import (
    ABORTED,
    DONE,
    MEMORY_TAG,
    PART_TAG,
    PIECE_COST,
    RESPONSE_WINDOW,
    UNFINISHED,
    ClientDisconnected,
    Credit,
    Part,
    Reply,
    Taken,
    Task,
    decode_replies,
    encode,
)
from tests.pump.harness import Client, Hand, Stage, get, skip_with_single_bytes
from tests.pump.tls_ends import certificates

EVENT = b"data: 0123456789abcdef\n\n"


def loops(**settings: Any) -> Stage:
    stage = Stage(**settings)
    stage.with_loops = True
    return stage


def begun(stage: Stage, hand: Hand, client: Client, *, version: str = "1.1", length: int = -1) -> Task:
    """A stream, of which the client has what there is."""
    client.send(get("/events", version=version))
    task = hand.take()
    hand.reply(task, b"first", ending=UNFINISHED, length=length)
    stage.until(lambda: client.receive() >= 0 and b"first" in client.inbox, "the beginning")
    return task


def event(task: Task, data: bytes = EVENT) -> Part:
    return Part(task.number, [Memory(data)], UNFINISHED)


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which steps were taken on the general road."""
    taken: list[str] = []
    for name in ("send", "produce"):
        usual = getattr(Output, name)

        def noted(self: Any, conn: Any, usual: Any = usual, name: str = name) -> Any:
            taken.append(name)
            return usual(self, conn)

        monkeypatch.setattr(Output, name, noted)
    return taken


def test_its_columns_are_a_part():
    assert decode_replies(encode([(PART_TAG, 7, ((MEMORY_TAG, b"x"),))])) == [
        Part(7, [Memory(b"x")], UNFINISHED)
    ]


@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_events_go_by_it(version: str, over_tls: bool, general: list[str]):
    with loops(tls=certificates() if over_tls else None) as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client, version=version)
        general.clear()
        for size in (1, 24, 4096, 16 * 1024):
            before = len(client.inbox)
            hand.send([event(task, b"e" * size)])
            stage.until(lambda: client.receive() >= 0 and len(client.inbox) - before >= size, "an event")  # noqa: B023
        if os.environ.get("HALFSYNC_TEST_TRANSPORT", "plain") == "plain" and not over_tls:
            assert not general
        hand.part(task, ending=DONE)
        if version == "1.0":
            assert client.rest().endswith(b"first" + b"e" * (1 + 24 + 4096 + 16 * 1024))
            assert client.ended
        else:
            assert client.answer().body == b"first" + b"e" * (1 + 24 + 4096 + 16 * 1024)


@pytest.mark.parametrize("ending", [DONE, ABORTED])
def test_a_packet_with_all_of_it(ending):
    """The beginning, events, and the end: each goes behind what is before it."""
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(get("/events"))
        task = hand.take()
        other = stage.client()
        second = begun(stage, hand, other)
        hand.send(
            [
                event(second, b"a"),
                Reply(task.number, 200, "OK", b"", -1, b"1", [], UNFINISHED),
                event(task, b"2"),
                event(second, b"b"),
                Credit(second.number, 1),
                event(second, b"c"),
                Part(task.number, [Memory(b"3")], ending),
                Part(second.number, [Memory(b"d"), Memory(b"e")], UNFINISHED),
                event(second, b"f"),
                Part(second.number, [Memory(b"g")], DONE),
            ]
        )
        assert other.answer().body == b"firstabcdefg"
        if ending is DONE:
            assert client.answer().body == b"123"
        else:
            client.rest()
            assert client.reset


def test_what_has_no_bytes_does_not_end_the_body():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client)
        hand.send([event(task, b""), event(task, b"a"), event(task, b"")])
        hand.part(task, ending=DONE)
        assert client.answer().body == b"firsta"


def test_no_more_than_the_announced_length():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client, length=8)
        hand.send([event(task, b"abcdef"), event(task, b"gh"), Part(task.number, [], DONE)])
        assert client.answer().body == b"firstabc"


def test_a_response_without_a_body_has_none():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(get("/events", method="HEAD"))
        task = hand.take()
        hand.reply(task, ending=UNFINISHED, length=-1)
        hand.send([event(task), Part(task.number, [], DONE)])
        assert client.answer("HEAD").body == b""
        assert client.quiet()


def test_a_client_that_takes_a_part(general: list[str]):
    """The rest waits, in order, and what is said to the worker is right in the end."""
    skip_with_single_bytes("it takes too long")
    with loops() as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        task = begun(stage, hand, client)
        sent = b""
        number = said = 0
        while not stage.pump.connections or not _waits(stage):
            piece = b"%06d " % number * 1000
            sent += piece
            number += 1
            said += len(piece) + PIECE_COST
            hand.send([event(task, piece)])
            taken = sum(one.size for one in hand.heard() if isinstance(one, Taken))
            said -= taken
            assert said <= RESPONSE_WINDOW, "the socket has taken it without a word to the worker"
        hand.send([event(task, b"and more"), event(task, b" and more")])
        assert "produce" in general
        hand.part(task, ending=DONE)
        assert client.answer().body == b"first" + sent + b"and more and more"


def _waits(stage: Stage) -> bool:
    [conn] = stage.pump.connections.values()
    return bool(conn.out)


def test_what_is_taken_is_said(general: list[str]):
    skip_with_single_bytes("it takes too long")
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client)
        sizes = [16 * 1024] * 11 + [HALF_LEFT]
        for size in sizes:
            hand.send([event(task, bytes(size))])
            stage.until(lambda: client.receive() == 0, "all of it")
        assert hand.heard() == []
        hand.send([event(task, b"x")])
        assert hand.heard() == [Taken(task.number, RESPONSE_WINDOW // 2 + 1 + PIECE_COST - 1)]


HALF_LEFT = RESPONSE_WINDOW // 2 - 11 * (16 * 1024 + PIECE_COST) - PIECE_COST - 1


def test_a_stream_that_goes_on_is_not_timed_out():
    with loops(stream_timeout=10) as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client)
        for _ in range(5):
            stage.later(7)
            hand.send([event(task)])
        stage.later(7)
        client.receive()
        assert client.inbox.endswith(5 * (b"18\r\n" + EVENT + b"\r\n"))
        stage.later(5)
        client.rest()
        assert client.reset


def test_a_client_that_has_left_gets_nothing_and_the_worker_is_told():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client)
        client.leave()
        hand.send([event(task), event(task)])
        assert set(map(encode, hand.heard())) == {encode(ClientDisconnected(task.number))}
        assert not stage.pump.connections


def test_one_that_has_closed_its_side_counts_as_left_soon():
    with loops() as stage:
        hand = stage.hand()
        client = stage.client()
        task = begun(stage, hand, client)
        client.finish()
        for _ in range(4):
            hand.send([event(task)])
            stage.later(0.5)
        assert set(map(encode, hand.heard())) == {encode(ClientDisconnected(task.number))}


def test_an_error_of_ours_cuts_the_bodies_that_it_had(monkeypatch: pytest.MonkeyPatch):
    with loops() as stage:
        hand = stage.hand()
        client, other = stage.client(), stage.client()
        task, second = begun(stage, hand, client), begun(stage, hand, other)

        def fail(*_: object) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(stage.pump.responses.small_parts, "put_out", fail)
        hand.send([event(task)])
        client.rest()
        assert client.reset
        monkeypatch.undo()
        hand.send([event(second), Part(second.number, [], DONE)])
        assert other.answer().body == b"first" + EVENT


@pytest.mark.parametrize("size", [1, 24, 5000])
def test_it_ends_where_the_general_road_does(size: int, monkeypatch: pytest.MonkeyPatch):
    """What the connection, the exchange and the log have counted."""

    def outcome() -> tuple[Any, ...]:
        with loops(access_logfile="-", stream_timeout=5) as stage:
            hand = stage.hand()
            client = stage.client()
            task = begun(stage, hand, client)
            stage.time.advance(1)
            hand.send([event(task, bytes(size))])
            [conn] = stage.pump.connections.values()
            assert conn.exchange is not None
            assert conn.exchange.state is PRODUCING
            assert not conn.out
            assert hand.worker is not None
            found = (conn.deadline - stage.time.monotonic(), conn.wire_bytes, conn.body_bytes)
            counted = (conn.exchange.window, hand.worker.response_bytes)
            hand.part(task, ending=DONE)
            body = client.answer().body
            [record] = stage.pump.access.records
            return *found, *counted, body, record[3:6], record[9]

    fast = outcome()
    with monkeypatch.context() as without:
        without.setattr(SmallParts, "put_out", lambda _self, _owners, messages: (messages, 0))
        assert fast == outcome()
