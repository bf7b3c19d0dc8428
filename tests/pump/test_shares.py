"""No client gets more of a turn than its share, whatever it sends: pipelined requests, small chunks,
a large body, a head that drips in. And what it sent beyond its share is neither lost nor overtaken."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest import mock

import pytest

from halfsync.pump import loop
from halfsync.pump.connection import Connection
from halfsync.pump.http1 import protocol as http1_module
from halfsync.pump.http1 import protocol as http1_of_pump
from halfsync.pump.loop import STEPS_A_TURN
from halfsync.pump.reading import READS_A_TURN
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import ConnectionState, ExchangeState
from halfsync.wire import http1
from halfsync.wire.chunked import MAX_CHUNKS
from halfsync.wire.http1 import HeadLimits, check_partial
from halfsync.wire.messages import Lease
from halfsync.wire.refusals import Refusal
from tests.pump.harness import Client, Stage, get, skip_with_records
from tests.pump.tls_ends import certificates

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def lease_of(stage: Stage, body: bytes) -> None:
    """Have the pump hold a lease on `/`."""
    hand = stage.hand()
    client = stage.client()
    client.send(get())
    hand.reply(hand.take(), body, lease=Lease(1000, ()))
    assert client.answer().body == body
    assert client.ask("/").body == body
    hand.answers = True


def send_in(client: Client, writes: list[bytes], turns: int) -> None:
    """Send each piece at once, with so many turns between two of them and no more."""
    for data in writes:
        while data:
            data = data[client.sock.send(data) :]
        for _ in range(turns):
            client.stage.turn()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("first", [1, STEPS_A_TURN - 1, STEPS_A_TURN, STEPS_A_TURN + 1, 100, 200])
def test_pipelined_requests_in_two_writes_are_answered_in_order(first: int, turns: int):
    """Leased and other requests, more of them than one turn's share; the rest comes a turn or so later,
    when the socket is empty and the pump still has some in hand."""
    with Stage() as stage:
        lease_of(stage, b"leased")
        client = stage.client()
        requests = [get() if number % 3 else get(f"/{number}") for number in range(first + 40)]
        expected = [b"leased" if n % 3 else f"GET /{n} HTTP/1.1\n".encode() for n in range(first + 40)]
        send_in(client, [b"".join(requests[:first]), b"".join(requests[first:])], turns)
        assert [client.answer().body for _ in requests] == expected


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_turn_serves_no_more_than_a_share_of_what_one_client_pipelines(over_tls: bool):
    """Also where each read leaves something, and says so: a client that sends without pause would have all
    turns for itself."""
    with Stage(tls=certificates() if over_tls else None) as stage:
        lease_of(stage, b"leased")
        client = stage.client()
        stage.settle()
        requests = 10 * STEPS_A_TURN
        client.sock.sendall(get() * requests)
        steps = 0
        [*_, conn] = stage.pump.connections.values()
        step = conn.protocol.step

        def count(conn: Connection) -> Any:
            nonlocal steps
            steps += 1
            return step(conn)

        with mock.patch.object(conn.protocol, "step", count):
            stage.turn()
        assert 0 < steps <= STEPS_A_TURN
        for _ in range(requests):
            assert client.answer().body == b"leased"


def test_a_connection_with_buffered_requests_is_not_idle():
    """While it waits for its next turn's share, its state says that the next request is here."""
    skip_with_records("is never buffered here: each request is one")
    with Stage() as stage:
        lease_of(stage, b"leased")
        client = stage.client()
        client.sock.send(get() * 300)
        seen: set[ConnectionState] = set()
        stage.until(lambda: not stage.pump.run_queue.is_empty)
        while not stage.pump.run_queue.is_empty:
            stage.turn()
            for conn in stage.pump.connections.values():
                if conn.state is ConnectionState.IDLE:
                    assert not conn.inbox
                elif conn.inbox:
                    seen.add(conn.state)
        [*_, conn] = stage.pump.connections.values()
        assert ConnectionState.HEAD in seen or not conn.transport.tells_of_more  # then they wait there
        assert [client.answer().body for _ in range(300)] == [b"leased"] * 300


def test_empty_lines_behind_a_body_leave_the_connection_idle():
    """Some clients send one after a POST. It is no beginning of a request, so head_timeout does not run."""
    with Stage() as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\r\n")
        assert client.answer().body.endswith(b"hi")
        stage.later(40)
        assert client.ask("/").status == 200


@pytest.mark.parametrize("first", [b"hi", b"hi\r", b"hi\r\n\r"])
def test_an_empty_line_behind_a_body_may_come_in_pieces(first: bytes):
    """And head_timeout does run for a head behind it."""
    with Stage() as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n" + first)
        assert client.answer().body.endswith(b"hi")
        for piece in (b"\n",) if first != b"hi" else (b"\r", b"\n"):
            client.send(piece)
        stage.later(40)
        assert client.ask("/").status == 200
        client.send(b"\r")
        client.send(b"\nGET / HT")
        stage.later(40)
        assert client.answer().status == 408


@pytest.mark.parametrize("size", [1, 2, 15, 16])
def test_small_chunks_are_taken_in_by_shares(size: int):
    """A turn decodes as many chunks as one call does, and no more; another client is answered in between;
    all arrives."""
    with Stage() as stage:
        stage.hand(answers=True)
        other = stage.client()
        client = stage.client()
        count = 60_000 // (size + 5)
        body = b"".join(b"%x\r\n%s\r\n" % (size, bytes([65 + n % 26]) * size) for n in range(count))
        client.sock.send(CHUNKED + body)
        stage.turn()
        [conn] = [
            one
            for one in stage.pump.connections.values()
            if one.exchange and one.exchange.state is ExchangeState.RECEIVING
        ]
        assert conn.exchange is not None
        assert conn.exchange.spool is not None
        taken = conn.exchange.spool.size
        assert 0 < taken <= MAX_CHUNKS * size
        other.sock.send(get("/other"))
        for _ in range(3):
            stage.turn()
        other.receive()
        assert b"/other" in other.inbox
        client.send(b"0\r\n\r\n")
        expected = b"".join(bytes([65 + n % 26]) * size for n in range(count))
        assert client.answer().body == b"POST / HTTP/1.1\n" + expected


def test_a_large_body_is_taken_in_by_shares(monkeypatch: pytest.MonkeyPatch):
    """However much is there to read, a turn reads 1 MiB of one connection."""
    with Stage() as stage:
        stage.hand(answers=True)
        client = stage.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        [conn] = stage.pump.connections.values()
        reads = 0

        def endless(conn: Connection) -> bytes:
            nonlocal reads
            reads += 1
            conn.inbox = bytes(64 * 1024)
            return conn.inbox

        monkeypatch.setattr(http1_module, "read_more", lambda conn: bool(endless(conn)))
        stage.pump.drive(conn)
        assert reads == READS_A_TURN
        assert not stage.pump.run_queue.is_empty


def chunks(client: Client, number: int) -> None:
    client.sock.send(CHUNKED + b"1\r\n%d\r\n" % number * 3000 + b"0\r\n\r\n")


def pipeline(client: Client, _number: int) -> None:
    client.sock.send(get() * 1000)


def upload(client: Client, number: int) -> None:
    body = b"%d" % number * 100_000
    client.sock.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


LONG = {"chunks": chunks, "pipeline": pipeline, "upload": upload}


@pytest.mark.parametrize("work", LONG)
def test_however_many_have_long_work_a_turn_serves_them_for_a_bounded_time(
    work: str, monkeypatch: pytest.MonkeyPatch
):
    """The time is over at once here: then one share a turn, of them all. They have theirs one after the
    other; who comes meanwhile is served in between; and all is right in the end."""
    monkeypatch.setattr(loop, "SHARES_TIME", 0.0)
    monkeypatch.setattr(http1_of_pump, "READS_A_TURN", 1)
    with Stage() as stage:
        lease_of(stage, b"leased")
        clients = [stage.client() for _ in range(8)]
        other = stage.client()
        for number, client in enumerate(clients):
            LONG[work](client, number)
        shares: Counter[Connection] = Counter()
        take_carried = stage.pump.run_queue.take_carried

        def counted() -> Connection | None:
            if (conn := take_carried()) is not None:
                shares[conn] += 1
            return conn

        monkeypatch.setattr(stage.pump.run_queue, "take_carried", counted)
        stage.turn()
        for asked in range(1, 17):
            other.sock.send(get(f"/{asked}") if asked % 2 else get())
            before = shares.total()
            turns = 0
            while not other.receive():
                stage.turn()
                turns += 1
            assert shares.total() - before <= turns <= 4
        assert len(shares) == 8
        assert max(shares.values()) - min(shares.values()) <= 1
        for number, client in enumerate(clients):
            if work == "pipeline":
                assert [client.answer().body for _ in range(1000)] == [b"leased"] * 1000
            else:
                size = 3000 if work == "chunks" else 100_000
                assert client.answer().body == b"POST / HTTP/1.1\n" + b"%d" % number * size


def test_however_many_large_responses_a_turn_sends_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch):
    """A small response among them goes out with the next turn."""
    monkeypatch.setattr(loop, "SHARES_TIME", 0.0)
    with Stage() as stage:
        body = bytes(120_000)
        lease_of(stage, body)
        clients = [stage.client() for _ in range(8)]
        other = stage.client()
        for client in clients:
            client.sock.send(get())
        for asked in range(16):
            other.sock.send(get(f"/{asked}"))
            turns = 0
            while not other.receive():
                stage.turn()
                turns += 1
            assert turns <= 4
        assert [client.answer().body for client in clients] == [body] * 8


def test_a_head_that_drips_in_is_not_checked_again_with_each_byte(monkeypatch: pytest.MonkeyPatch):
    """What a byte costs does not grow with what came before it: the checks of all lines are made when a line
    ends, not when a byte comes."""
    checks = 0
    check_sizes = http1._check_sizes

    def counted(head: bytes | bytearray, limits: HeadLimits) -> None:
        nonlocal checks
        checks += 1
        check_sizes(head, limits)

    monkeypatch.setattr(http1, "_check_sizes", counted)
    limits = HeadLimits()
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%02d: %s\r\n" % (n, b"y" * 4000) for n in range(15))
    for end in range(1, len(head)):
        check_partial(head[:end], limits, end - 1)
    assert checks <= 3 * head.count(b"\n")


def test_a_dripping_head_meets_every_limit_as_a_whole_one_does():
    """With each byte by itself, the refusal comes, and is the same, as with one write."""
    limits = HeadLimits(line=100, fields=5, field_size=200, head=600)
    cases = {
        b"GET /" + b"x" * 200: 414,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 300: 431,
        b"GET / HTTP/1.1\r\n" + b"X: yyyyyyyyyyyyyyy\r\n" * 8: 431,
        b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 190 + b"\r\n") * 4: 431,
    }
    for head, status in cases.items():
        with pytest.raises(Refusal) as whole:
            check_partial(head, limits, 0)
        assert whole.value.status == dripped(head, limits) == status


def dripped(head: bytes, limits: HeadLimits) -> int:
    """The status of the refusal that comes when each byte comes by itself."""
    for end in range(1, len(head) + 1):
        try:
            check_partial(head[:end], limits, end - 1)
        except Refusal as refusal:
            return refusal.status
    return 0


def test_an_idle_connection_that_is_ready_does_not_wait_for_a_share():
    """The loop has read a part of a request from it; the next part that it read would take its place."""

    class Conn:
        def __init__(self, state: ConnectionState) -> None:
            self.state = state

    queue = RunQueue()
    idle: Any = Conn(ConnectionState.IDLE)
    busy: Any = Conn(ConnectionState.BUSY)
    for conn in (busy, idle):
        queue.again(conn)
    queue.begin_turn()
    for conn in (busy, idle):
        queue.ready(conn)
    assert queue.take() == [idle]
    assert queue.take_carried() is busy
    assert queue.take_carried() is None
