"""Request bodies that are passed on while they come: by credit, within a window, at the right one's turn."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import socket
from typing import Any

import pytest

from halfsync.objects import Memory
from halfsync.plan.plan import Kind, RoutePlan
from halfsync.pump.bodies.streamed import WORTH_A_PIECE, read_a_piece
from halfsync.pump.states import BodyState, ExchangeState
from halfsync.pump.transport import PlainTransport
from halfsync.wire.blocks import BLOCK_SIZE
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import (
    BODY_WINDOW,
    FIRST_OF_BODY,
    ClientDisconnected,
    Credit,
    Ending,
    Piece,
    StreamedTask,
    Task,
)
from tests.pump.harness import (
    APP,
    Client,
    Hand,
    Stage,
    get,
    no_descriptor_left,
    parse_answer,
    transport,
)
from tests.pump.transports import BYTES_LATER, RECORD

MIB = 1024 * 1024
DATA = random.Random(6).randbytes(3 * MIB)


def streaming(**settings: Any) -> Stage:
    return Stage(stream_body=True, **settings)


def post(size: int, *lines: str, method: str = "POST", path: str = "/") -> bytes:
    return get(path, f"Content-Length: {size}", *lines, method=method)


def chunked(*lines: str, path: str = "/") -> bytes:
    return get(path, "Transfer-Encoding: chunked", *lines, method="POST")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def begun(stage: Stage, head: bytes = b"", first: bytes = b"") -> tuple[Client, Hand, Task]:
    """A client whose request a worker has; the rest of its body has yet to come."""
    hand, client = stage.hand(), stage.client()
    client.send((head or post(len(DATA))) + first)
    return client, hand, hand.take()


def body_state(stage: Stage) -> BodyState:
    [conn] = stage.pump.connections.values()
    assert conn.exchange is not None
    assert conn.exchange.stream is not None
    return conn.exchange.stream.state


def take_to(stage: Stage, hand: Hand, task: Task, size: int) -> None:
    """Take so much of the body, as a worker does: it gives back each piece before it waits for another. Or
    nobody reads it any more."""

    def is_taken() -> bool:
        before = len(hand.bodies[task.number])
        hand.collect(task)
        now = len(hand.bodies[task.number])
        if now > before:
            hand.ask(task, now - before)
        exchanges = [conn.exchange for conn in stage.pump.connections.values()]
        return now >= size or all(one is None or one.status == 408 for one in exchanges)

    stage.until(is_taken, "the body")


def exchange_state(stage: Stage) -> ExchangeState:
    [conn] = stage.pump.connections.values()
    assert conn.exchange is not None
    return conn.exchange.state


# --- how it comes -----------------------------------------------------------------------------------


def test_the_head_alone_is_enough_to_begin():
    """The task carries what has come of the body, and says that it is not all."""
    with streaming() as stage:
        client, hand, task = begun(stage, post(10), b"abc")
        assert isinstance(task, StreamedTask)
        assert (task.body, task.body_size, task.first) == (None, 10, b"abc")
        client.send(b"defghij")
        assert hand.collect(task) is Ending.UNFINISHED
        assert hand.bodies[task.number] == b"abc", "nobody asked for more"
        hand.ask(task)
        assert hand.collect(task) is Ending.DONE
        assert hand.bodies[task.number] == b"abcdefghij"
        hand.reply(task, b"thanks")
        assert not client.answer().closes
        assert client.quiet()


@pytest.mark.parametrize("head", [post(5), chunked()], ids=["announced", "chunked"])
def test_a_body_that_is_whole_in_time_is_like_any_other(head: bytes):
    with streaming() as stage:
        hand, client = stage.hand(), stage.client()
        client.send(head + (b"hello" if b"Content-Length" in head else chunk(b"hello") + b"0\r\n\r\n"))
        task = hand.take()
        assert type(task) is Task
        assert (task.body, task.body_size) == (b"hello", 5)
        hand.reply(task, b"well")
        assert not client.answer().closes


def test_what_comes_in_the_queue_goes_with_the_task():
    """Up to FIRST_OF_BODY; nobody holds more of a request that waits."""
    with streaming() as stage:
        client = stage.client()
        client.send(post(len(DATA)) + DATA[:1000])
        client.send(DATA[1000:FIRST_OF_BODY])
        client.sock.send(DATA[FIRST_OF_BODY : FIRST_OF_BODY + 20_000])
        stage.settle()
        task = stage.hand().take()
        assert isinstance(task, StreamedTask)
        assert task.first == DATA[:FIRST_OF_BODY]


def test_no_more_is_passed_on_than_there_is_credit_for():
    """And no more is read from the client than that and one read."""
    with streaming() as stage:
        client, hand, task = begun(stage, first=DATA[:100])
        hand.ask(task)
        sent = 100
        for _ in range(100):
            try:
                sent += client.sock.send(DATA[sent : sent + 100_000])
            except BlockingIOError:
                pass
            stage.settle()
        hand.collect(task)
        assert isinstance(task, StreamedTask)
        credit = len(task.first) + BODY_WINDOW
        for more in (0, 70_000, 100_000):
            credit += more
            hand.ask(task, more)
            hand.collect(task)
            got = len(hand.bodies[task.number])
            assert credit - WORTH_A_PIECE < got <= credit
            assert hand.bodies[task.number] == DATA[:got]
        [conn] = stage.pump.connections.values()
        assert len(conn.inbox) <= 64 * 1024


def test_pieces_do_not_become_ever_smaller():
    """Though the handler gives back little by little. (One is no larger than what a read gives.)"""
    most = {"bytes": BYTES_LATER, "records": RECORD}.get(transport(), 64 * 1024)
    with streaming() as stage:
        client, hand, task = begun(stage, first=DATA[:100])
        hand.ask(task)
        sent = pieces = 0
        for _ in range(100):
            with contextlib.suppress(BlockingIOError):
                sent += client.sock.send(DATA[100 + sent :][:100_000])
            stage.settle()
        hand.collect(task)
        for _ in range(150):
            before = len(hand.bodies[task.number])
            hand.ask(task, 1000)
            hand.collect(task)
            pieces += len(hand.bodies[task.number]) > before
        assert 1 <= pieces <= 150_000 // most + 2


def test_while_the_handler_has_some_only_full_blocks_are_passed_on():
    """And what ends the body. The rest comes when the handler has given back all it has, as it does before it
    waits."""
    with streaming() as stage:
        client, hand, task = begun(stage, post(BLOCK_SIZE + 8000))
        hand.ask(task)
        client.send(DATA[:1000])
        stage.until(lambda: hand.collect(task) or hand.bodies[task.number])
        got = len(hand.bodies[task.number])
        for start in range(1000, 4000, 1000):
            client.send(DATA[start : start + 1000])
            assert client.quiet()
            hand.collect(task)
            assert len(hand.bodies[task.number]) == got, "it has some"
        hand.ask(task, got)
        stage.until(lambda: hand.collect(task) or len(hand.bodies[task.number]) > got, "it waits")
        assert hand.bodies[task.number] == DATA[: len(hand.bodies[task.number])]
        client.send(DATA[4000 : BLOCK_SIZE + 8000])
        stage.until(lambda: hand.collect(task) is Ending.DONE, "the end, though it has given nothing back")
        assert hand.bodies[task.number] == DATA[: BLOCK_SIZE + 8000]


def test_a_client_that_leaves_behind_a_held_piece_is_noticed():
    with streaming() as stage:
        client, hand, task = begun(stage, post(8000))
        hand.ask(task)
        client.send(DATA[:1000])
        stage.until(lambda: hand.collect(task) or hand.bodies[task.number])
        client.send(DATA[1000:2000])
        client.leave()
        stage.until(lambda: not stage.pump.connections, "its end")
        assert ClientDisconnected(task.number) in hand.heard() or hand.collect(task) is Ending.ABORTED


class Giving:
    """A connection of which each read gives so much, as long as it has some."""

    def __init__(self, size: int, left: int) -> None:
        self.inbox = b""
        self.readable, self.ended = True, False
        self.transport = self
        self._size, self._left = size, left

    def recv(self, size: int) -> bytes:
        given = min(size, self._size, self._left)
        if not given:
            raise BlockingIOError
        self._left -= given
        return bytes(given)

    def drained(self, _received: int, _size: int) -> bool:
        return not self._left


@pytest.mark.parametrize(
    ("each", "left", "window", "piece"),
    [
        (MIB, MIB, BODY_WINDOW, BLOCK_SIZE),
        (MIB, MIB, BLOCK_SIZE, BLOCK_SIZE),
        (MIB, MIB, BLOCK_SIZE - 1, 64 * 1024),
        (MIB, 1000, BODY_WINDOW, 1000),
        (16 * 1024, MIB, BODY_WINDOW, 64 * 1024),  # as TLS gives records
        (16 * 1024, 40_000, BODY_WINDOW, 40_000),
        (1, MIB, BODY_WINDOW, 4),
        (1, 0, BODY_WINDOW, 0),
    ],
)
def test_a_piece_is_a_block_or_four_records(each: int, left: int, window: int, piece: int):
    """What was read and has no room in the window is no more than one read of elsewhere."""
    conn: Any = Giving(each, left)
    assert read_a_piece(conn, window) == bool(piece)
    assert len(conn.inbox) == piece


@pytest.mark.parametrize("kind", ["announced", "chunked"])
def test_every_byte_comes_once_and_in_order(kind: str):
    """With a next request right behind it, which is answered too."""
    with streaming() as stage:
        head = post(len(DATA)) if kind == "announced" else chunked()
        data = DATA if kind == "announced" else chunk(DATA[:5]) + chunk(DATA[5:]) + b"0\r\n\r\n"
        client, hand, task = begun(stage, head)
        hand.ask(task)
        ending = Ending.UNFINISHED
        rest = memoryview(data + get("/next"))
        while ending is Ending.UNFINISHED:
            if rest:
                try:
                    rest = rest[client.sock.send(rest[:150_000]) :]
                except BlockingIOError:
                    pass
            before = len(hand.bodies[task.number])
            ending = hand.collect(task)
            if taken := len(hand.bodies[task.number]) - before:
                hand.ask(task, taken)
        assert hand.bodies[task.number] == DATA
        hand.reply(task, b"first")
        client.send(bytes(rest))
        hand.reply(hand.take(), b"next")
        assert [client.answer().body, client.answer().body] == [b"first", b"next"]


def test_the_response_goes_out_while_the_body_comes():
    with streaming() as stage:
        client, hand, task = begun(stage, post(9))
        hand.ask(task)
        for number, piece in enumerate((b"abc", b"def", b"ghi")):
            client.send(piece)
            hand.collect(task)
            if not number:
                hand.reply(task, b"<abc>", ending=Ending.UNFINISHED)
            else:
                hand.part(task, Memory(b"<" + piece + b">"))
            hand.ask(task, 3)
            while piece not in client.inbox:
                stage.until(client.receive)
        hand.part(task, ending=Ending.DONE)
        answer = client.answer()
        assert answer.body == b"<abc><def><ghi>"
        assert not answer.closes
        client.send(get())
        hand.take()


# --- Expect: 100-continue ---------------------------------------------------------------------------


def test_the_client_is_told_to_go_on_when_the_handler_reads():
    with streaming() as stage:
        client, hand, task = begun(stage, post(5, "Expect: 100-continue"))
        assert client.quiet()
        hand.ask(task)
        assert client.interim().status == 100
        client.send(b"hello")
        assert hand.collect(task) is Ending.DONE
        hand.reply(task, b"well")
        assert client.answer().body == b"well"


def test_a_client_that_asks_and_does_not_wait_is_not_told():
    with streaming() as stage:
        client, hand, task = begun(stage, post(5, "Expect: 100-continue"), b"he")
        hand.ask(task)
        assert client.quiet()


@pytest.mark.skipif(transport() != "plain", reason="it is about a socket with room for a part of 25 bytes")
@pytest.mark.parametrize("taken", [0, 10])
def test_a_socket_without_room_for_100_continue(monkeypatch: pytest.MonkeyPatch, taken: int):
    """It is full of responses that the client does not read. What is said is whole, or is not said; else a
    part of it would stand before the response."""
    with streaming() as stage:
        client, hand, task = begun(stage, post(5, "Expect: 100-continue"))
        sent = [taken]

        def send(self: PlainTransport, data: bytes, flags: int = 0, /) -> int:
            room = sent.pop() if sent else 0
            if not room:
                raise BlockingIOError
            return socket.socket.send(self, data[:room], flags)

        with monkeypatch.context() as full:
            full.setattr(PlainTransport, "send", send)
            hand.ask(task)
        if taken:
            assert client.rest() == b"HTTP/1.1 1"
            assert isinstance(hand.heard()[-1], ClientDisconnected)
            return
        client.send(b"hello")
        assert hand.collect(task) is Ending.DONE
        hand.reply(task, b"well")
        assert client.interim().body == b"well"


def test_a_refused_upload_is_never_sent():
    """What 100-continue is for: the handler says no, and no body was asked for."""
    with streaming() as stage:
        client, hand, task = begun(stage, post(5, "Expect: 100-continue"))
        hand.reply(task, b"no", status=403, reason="Forbidden")
        answer = client.answer()
        assert (answer.status, answer.closes) == (403, True)


# --- a response before the body is whole ------------------------------------------------------------


@pytest.mark.parametrize("reads", [False, True])
def test_a_response_that_is_over_first_closes_the_connection(reads: bool):
    """In good order: what the client still sends is dropped, and the handler is told, if it reads on."""
    with streaming(access_logfile="-") as stage:
        client, hand, task = begun(stage, first=DATA[:1000])
        if reads:
            hand.ask(task)
        hand.reply(task, b"enough")
        client.send(DATA[1000:200_000])
        answer = client.answer()
        assert (answer.body, answer.closes) == (b"enough", True)
        client.sock.close()
        stage.until(lambda: not stage.pump.connections)
        assert hand.collect(task) is Ending.ABORTED
        assert stage.reasons() == [CloseReason.BODY_NOT_READ]
        assert not CloseReason.BODY_NOT_READ.is_error


def test_a_stream_that_ends_first_closes_too():
    """Its head had promised otherwise, for the body might have come."""
    with streaming() as stage:
        client, hand, task = begun(stage, first=DATA[:1000])
        hand.reply(task, b"a", ending=Ending.UNFINISHED)
        hand.part(task, Memory(b"b"), ending=Ending.DONE)
        assert client.answer().body == b"ab"
        client.send(get("/never"))
        client.finish()
        assert client.rest() == b""
        assert not hand.tasks


# --- what is refused --------------------------------------------------------------------------------


def test_an_announced_size_is_limited_before_anybody_is_asked():
    with streaming(limit_request_body=1000) as stage:
        stage.hand()
        client = stage.client()
        client.send(post(1001))
        assert client.answer().status == 413
        assert not stage.hands[0].tasks


def test_a_chunked_body_is_limited_as_it_comes():
    """The handler, which has a part of it, is told."""
    with streaming(limit_request_body=1000) as stage:
        client, hand, task = begun(stage, chunked(), chunk(DATA[:600]))
        hand.ask(task)
        client.send(chunk(DATA[600:1001]))
        assert client.answer().status == 413
        # (In single bytes, those within the limit were passed on.)
        assert [one for one in hand.heard() if not isinstance(one, Piece)] == [
            ClientDisconnected(task.number)
        ]
        hand.reply(task, b"too late")
        assert client.rest() == b""


def test_a_chunked_body_is_limited_in_the_queue():
    with streaming(limit_request_body=1000) as stage:
        client = stage.client()
        client.send(chunked() + chunk(DATA[:600]))
        client.send(chunk(DATA[:600]))
        assert client.answer().status == 413
        assert not stage.hand().tasks


@pytest.mark.parametrize("when", ["at once", "in the queue", "with a worker"])
def test_a_malformed_chunk_is_refused(when: str):
    with streaming() as stage:
        client = stage.client()
        client.send(chunked() + (b"nonsense\r\n" if when == "at once" else chunk(b"a")))
        if when == "with a worker":
            hand = stage.hand()
            hand.ask(hand.take())
        client.send(b"nonsense\r\n")
        assert client.answer().status == 400
        assert client.rest() == b""


def test_what_goes_wrong_behind_the_responses_head_resets():
    with streaming(access_logfile="-") as stage:
        client, hand, task = begun(stage, chunked(), chunk(b"a"))
        hand.reply(task, b"begun", ending=Ending.UNFINISHED)
        hand.ask(task)
        client.send(b"nonsense\r\n")
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.REFUSED]
        assert hand.heard() == [ClientDisconnected(task.number)]


def test_a_full_queue_refuses_and_closes():
    with streaming(queue_limit=1) as stage:
        stage.client().send(get())
        client = stage.client()
        client.send(post(10) + b"a")
        answer = client.answer()
        assert (answer.status, answer.closes) == (503, True)


# --- whose turn it is -------------------------------------------------------------------------------


def test_a_client_that_stalls_while_it_is_awaited():
    with streaming(body_timeout=10, access_logfile="-", handler_timeout=5) as stage:
        client, hand, task = begun(stage, first=DATA[:10])
        hand.ask(task)
        take_to(stage, hand, task, 10)
        stage.later(9)
        assert client.quiet()
        client.send(DATA[10:20])
        take_to(stage, hand, task, 20)
        stage.later(9)
        assert client.quiet()
        stage.later(3)
        assert client.answer().status == 408
        assert ClientDisconnected(task.number) in hand.heard()
        assert stage.reasons() == [CloseReason.BODY_TIMEOUT]
        assert not stage.hung


def test_no_limit_of_the_clients_runs_while_the_handler_has_to_read():
    with streaming(body_timeout=10, min_rate=1000, rate_grace=1) as stage:
        client, hand, task = begun(stage, first=DATA[:10])
        stage.later(100)
        hand.ask(task)
        client.send(DATA[10:2000])
        assert body_state(stage) is BodyState.OFFERED
        stage.later(100)
        assert client.quiet()
        take_to(stage, hand, task, 2000)
        assert body_state(stage) is BodyState.AWAITED
        stage.later(5)
        assert client.answer().status == 408


@pytest.mark.parametrize("responds", [False, True])
def test_a_client_that_is_too_slow(responds: bool):
    """It drips, and each drop is taken at once: the time counts all the same."""
    with streaming(min_rate=1000, rate_grace=10, access_logfile="-", stream_timeout=5) as stage:
        client, hand, task = begun(stage)
        hand.ask(task)
        if responds:
            hand.reply(task, b"a", ending=Ending.UNFINISHED)
        sent = 0
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not client.over and b"HTTP/1.1 408" not in client.inbox and sent < 3000:
            client.send(DATA[sent : sent + 20])
            sent += 20
            take_to(stage, hand, task, sent)
            client.receive()
            stage.later(0.2)
            client.receive()
        assert 900 < sent < 1500
        assert client.reset if responds else client.answer().status == 408
        assert stage.reasons() == [CloseReason.BODY_TOO_SLOW]


def test_the_handlers_limit_runs_while_it_does_not_read():
    """It counts from when there was something to read."""
    with streaming(handler_timeout=10) as stage:
        client, hand, task = begun(stage)
        hand.ask(task)
        stage.later(30)
        client.send(DATA[:1000])
        stage.later(9)
        assert client.quiet()
        stage.later(3)
        assert client.answer().status == 504
        stage.later(6)
        assert len(stage.hung) == 1
        assert ClientDisconnected(task.number) in hand.heard()


def test_a_pause_of_the_response_is_the_handlers_if_the_body_is_not_awaited():
    with streaming(stream_timeout=10, access_logfile="-") as stage:
        client, hand, task = begun(stage)
        hand.ask(task)
        hand.reply(task, b"a", ending=Ending.UNFINISHED)
        stage.later(30)
        assert not client.over
        client.send(DATA[:100])
        assert exchange_state(stage) is ExchangeState.PRODUCING
        stage.later(9)
        client.receive()
        assert not client.over
        stage.later(3)
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.STREAM_TIMEOUT]


# --- who leaves, who dies ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["half-closes", "resets"])
def test_a_client_that_leaves_in_the_middle(way: str):
    with streaming(access_logfile="-") as stage, no_descriptor_left(stage):
        client, hand, task = begun(stage, first=DATA[:1000])
        hand.ask(task)
        if way == "resets":
            client.leave()
        else:
            client.finish()
        stage.until(lambda: not stage.pump.connections)
        assert ClientDisconnected(task.number) in hand.heard()
        assert stage.reasons() == [CloseReason.CLIENT_DISCONNECTED]
        hand.part(task, ending=Ending.ABORTED)
        client.sock.close()
        hand.die()


def test_a_client_that_leaves_before_its_handler_begins():
    """It is told too: the handler may begin in this very moment, and would wait for ever."""
    with streaming() as stage:
        hand, client = stage.hand(), stage.client()
        client.send(post(1000))
        task = hand.take(begin=False)
        client.leave()
        stage.until(lambda: not stage.pump.connections)
        assert hand.heard() == [ClientDisconnected(task.number)]


def test_a_client_that_closes_its_side_behind_a_whole_body_gets_its_response():
    with streaming() as stage:
        client, hand, task = begun(stage, post(5))
        client.sock.send(b"hello")
        client.finish()
        hand.ask(task)
        assert hand.collect(task) is Ending.DONE
        hand.reply(task, b"well")
        assert client.answer().body == b"well"


def test_a_worker_that_dies_unread_costs_nothing():
    """What came with the task is here still."""
    with streaming() as stage:
        client, hand, task = begun(stage, post(5, method="PUT"), b"he")
        hand.die()
        client.send(b"l")
        hand = stage.hand()
        task = hand.take()
        assert isinstance(task, StreamedTask)
        assert task.first in (b"he", b"hel")
        hand.ask(task)
        client.send(b"lo")
        assert hand.collect(task) is Ending.DONE
        assert hand.bodies[task.number] == b"hello"


def test_a_worker_that_dies_before_it_begins_costs_nothing():
    with streaming() as stage:
        hand, client = stage.hand(), stage.client()
        client.send(post(5) + b"he")
        hand.take(begin=False)
        hand.die()
        task = stage.hand().take()
        assert isinstance(task, StreamedTask)
        assert task.first == b"he"


@pytest.mark.parametrize("more", [b"", b"l", b"llo"])
def test_a_worker_that_dies_reading_is_a_502(more: bytes):
    """Whatever the method: the body is not here any more."""
    with streaming() as stage:
        stage.status = signal.SIGKILL
        client, hand, task = begun(stage, post(5, method="PUT"), b"he")
        hand.ask(task)
        client.send(more)
        hand.die()
        answer = client.answer()
        assert (answer.status, answer.closes) == (502, more != b"llo")
        assert not stage.hand().tasks


def test_a_worker_that_is_replaced_gets_the_rest():
    with streaming() as stage:
        client, hand, task = begun(stage, post(5), b"he")
        hand.ask(task)
        stage.pump.pools.retire(hand.number)
        client.send(b"llo")
        assert hand.collect(task) is Ending.DONE
        hand.reply(task, b"well")
        assert client.answer().body == b"well"
        stage.until(lambda: hand.worker is None)


def test_a_stop_lets_the_body_come():
    with streaming() as stage:
        client, hand, task = begun(stage, post(5), b"he")
        hand.ask(task)
        stage.pump.draining.begin(30)
        client.send(b"llo")
        assert hand.collect(task) is Ending.DONE
        hand.reply(task, b"well")
        assert client.answer().closes


def test_what_has_not_come_at_the_end_of_a_stop_is_cut_off():
    with streaming(access_logfile="-") as stage:
        client, hand, task = begun(stage, post(5), b"he")
        hand.ask(task)
        stage.pump.draining.begin(10)
        stage.later(11)
        assert not stage.pump.draining.is_over()
        client.rest()
        assert client.reset
        assert stage.reasons() == [CloseReason.CUT_OFF]
        assert hand.heard() == [ClientDisconnected(task.number)]


def test_what_waits_at_a_reload_goes_to_a_backend_of_the_other_kind():
    """The worker is told of each request whether its body is whole."""
    with streaming() as stage:
        client = stage.client()
        client.send(post(5) + b"he")
        stage.pump.pools.routes[0].backend.streams = False
        task = stage.hand().take()
        assert isinstance(task, StreamedTask)


# --- workers that say strange things ----------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 0, 2**40])
def test_a_strange_credit_opens_no_wider_window(size: int):
    with streaming() as stage:
        client, hand, task = begun(stage)
        hand.ask(task, size)
        hand.ask(task, size)
        for start in range(0, BODY_WINDOW + 100_000, 50_000):
            try:
                client.sock.send(DATA[start : start + 50_000])
            except BlockingIOError:
                break
            stage.settle()
        hand.collect(task)
        assert len(hand.bodies[task.number]) <= max(0, min(size, BODY_WINDOW))


def test_credit_of_no_task_or_of_one_that_is_not_streamed_is_dropped():
    with streaming() as stage:
        hand, client = stage.hand(), stage.client()
        client.send(get())
        task = hand.take()
        hand.send([Credit(task.number, 5), Credit(task.number + 1024, 5), Credit(0, 5)])
        hand.reply(task, b"well")
        hand.send([Credit(task.number, 5)])
        assert client.answer().body == b"well"
        assert hand.open


def test_a_worker_that_does_not_read_its_messages_loses_none():
    """Its channel is full; all come in order when it reads again."""
    with streaming() as stage:
        hand = stage.hand(threads=8)
        clients = [stage.client() for _ in range(8)]
        for client in clients:
            client.send(post(BODY_WINDOW))
        tasks = [hand.take() for _ in clients]
        for task in tasks:
            hand.ask(task)
        for client in clients:
            client.send(DATA[:BODY_WINDOW])
        clients[0].leave()
        assert not stage.pump.run_queue.due
        said = hand.heard()
        for task in tasks:
            pieces = [one for one in said if isinstance(one, Piece) and one.number == task.number]
            assert b"".join(one.data for one in pieces) == DATA[:BODY_WINDOW]
        assert ClientDisconnected(tasks[0].number) in said or stage.pump.pools.workers


def test_a_worker_with_a_full_channel_that_dies():
    with streaming() as stage, no_descriptor_left(stage):
        hand = stage.hand(threads=8)
        clients = [stage.client() for _ in range(8)]
        for client in clients:
            client.send(post(BODY_WINDOW + 1))
        for task in [hand.take() for _ in clients]:
            hand.ask(task)
        for client in clients:
            client.send(DATA[:BODY_WINDOW])
        hand.die()
        for client in clients:
            assert client.answer().status == 502
            client.leave()


# --- all of it at random ----------------------------------------------------------------------------


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


class Upload:
    """One client that sends one body after the other."""

    def __init__(self, stage: Stage, dice: random.Random) -> None:
        self.dice = dice
        self.client = stage.client()
        self.bodies: list[bytes] = []  # of the requests that were begun and are not answered
        self.unsent = b""

    def ask(self) -> None:
        size = self.dice.choice([0, 1, 5000, FIRST_OF_BODY, BODY_WINDOW + 1, 400_000])
        start = self.dice.randrange(MIB)
        body = DATA[start : start + size]
        if self.dice.random() < 0.5:
            self.unsent += post(size) + body
        else:
            cut = self.dice.randrange(size + 1)
            pieces = [one for one in (body[:cut], body[cut:]) if one]
            self.unsent += chunked() + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
        self.bodies.append(body)

    def send(self) -> None:
        size = self.dice.choice([1, 100, 10_000, 200_000])
        try:
            self.unsent = self.unsent[self.client.sock.send(self.unsent[:size]) :]
        except BlockingIOError:
            pass

    def look(self) -> None:
        """Check all whole responses that came."""
        self.client.receive()
        while (answer := parse_answer(self.client.inbox)) is not None:
            self.client.inbox = self.client.inbox[answer.size :]
            assert answer.status == 200
            assert answer.body == digest(self.bodies.pop(0)), "another request's body"


class Worker:
    """A worker whose handlers read their bodies in pieces, and answer with them."""

    def __init__(self, stage: Stage, dice: random.Random) -> None:
        self.hand = stage.hand(threads=3)
        self.dice = dice
        self.running: dict[int, Task] = {}
        self.granted: dict[int, int] = {}  # how much of a body may have come
        self.got: dict[int, bytes] = {}
        self.whole: set[int] = set()

    def take(self) -> None:
        """What has come."""
        for message in self.hand.heard():
            assert isinstance(message, Piece)
            assert message.offset == len(self.got[message.number])
            self.got[message.number] += message.data
            assert len(self.got[message.number]) <= self.granted[message.number]
            if message.ending is Ending.DONE:
                self.whole.add(message.number)
        while self.hand.tasks:
            task = self.hand.take()
            self.running[task.number] = task
            self.got[task.number] = self.hand.bodies[task.number]
            if not isinstance(task, StreamedTask):
                self.whole.add(task.number)

    def read(self) -> None:
        """Each handler does something; mostly."""
        for number, task in list(self.running.items()):
            if number in self.whole:
                del self.running[number]
                self.hand.reply(
                    task, digest(self.got[number]), handler_ns=self.dice.choice([1000, 5_000_000])
                )
            elif number not in self.granted:
                self.granted[number] = len(self.got[number]) + BODY_WINDOW
                self.hand.ask(task)
            elif self.dice.random() < 0.7:
                taken = len(self.got[number]) + BODY_WINDOW - self.granted[number]
                self.granted[number] += taken
                if taken:
                    self.hand.ask(task, taken)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_order_things_happen_in(seed: int, capfd: pytest.CaptureFixture[str]):
    """Each handler gets the bytes of its own request, once and in order; each response is its request's."""
    dice = random.Random(seed)
    with streaming() as stage:
        worker = Worker(stage, dice)
        uploads = [Upload(stage, dice) for _ in range(5)]
        for step in range(5000):
            upload = dice.choice(uploads)
            if not upload.unsent and len(upload.bodies) < 3 and step < 200:
                upload.ask()
            upload.send()
            dice.choice([worker.take, worker.read])()
            upload.look()
            if step > 200 and not any(one.unsent or one.bodies for one in uploads):
                break
        else:
            raise AssertionError("it does not come to an end")
    assert "Traceback" not in capfd.readouterr().err


def test_a_route_that_does_not_stream_collects():
    """The two ways side by side, by route."""
    routes = (
        RoutePlan("/stream", "app:app", Kind.WSGI, APP, streams=True),
        RoutePlan("", "app:app", Kind.WSGI, APP),
    )
    with Stage(routes=routes) as stage:
        hand = stage.hand()
        one, other = stage.client(), stage.client()
        one.send(post(5, path="/stream") + b"he")
        other.send(post(5, path="/else") + b"he")
        assert isinstance(hand.take(), StreamedTask)
        stage.settle()
        assert not hand.tasks
        other.send(b"llo")
        assert type(hand.take()) is Task
