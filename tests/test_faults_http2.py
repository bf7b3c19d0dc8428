"""The judge of `make faults`, with a client that speaks HTTP/2."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import hpack
import pytest

from faults.content import content
from faults.http2_wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    Http2Connection,
    frame,
)
from faults.judge import Judge
from faults.requests import Request

LONG = 60.0


@contextmanager
def responding(*frames: bytes) -> Iterator[Http2Connection]:
    """A connection whose other end says these, whatever it is asked, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked = threading.Event()

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(frame(SETTINGS, 0, 0))
            got = b""
            while got.count(b"/get?n=") < 2 and (data := peer.recv(1 << 20)):  # both are sent
                got += data
            asked.set()
            peer.sendall(b"".join(frames))
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(1 << 20):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    connection = Http2Connection(listener.getsockname()[1])
    try:
        yield connection
    finally:
        connection.close()
        thread.join(LONG)
        listener.close()
    assert asked.is_set()


def a_get(number: int) -> Request:
    wire = f"GET /get?n={number} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    fields = {"x-number": str(number)}
    return Request(wire, "GET", f"/get?n={number}", 200, content(number, 50), fields)


TWO = [a_get(1), a_get(2)]  # on the streams 1 and 3
_encoder = hpack.Encoder()
_encoder.header_table_size = 0  # each block can stand where it wants


def head(
    stream: int, number: int, *more: tuple[str, str], status: str = "200", flags: int = END_HEADERS
) -> bytes:
    block = _encoder.encode([(":status", status), ("x-number", str(number)), *more])
    return frame(HEADERS, flags, stream, block)


def right(stream: int, number: int) -> bytes:
    return head(stream, number) + frame(DATA, END_STREAM, stream, content(number, 50))


def test_responses_in_any_order_and_in_pieces_are_right():
    judge = Judge()
    pieces = [frame(DATA, 0, 1, content(1, 50)[:20]), frame(DATA, END_STREAM, 1, content(1, 50)[20:])]
    with responding(head(1, 1), pieces[0], right(3, 2), pieces[1]) as connection:
        judge.exchange_at_once(connection, TWO)
    assert (judge.requests, judge.right, judge.wrong, judge.hung) == (2, 2, [], [])


@pytest.mark.parametrize(
    "lie",
    [
        right(1, 2) + right(3, 1),  # swapped
        head(1, 1) + frame(DATA, END_STREAM, 1, content(2, 50)) + right(3, 2),  # another's body
        head(1, 1)
        + frame(DATA, END_STREAM, 1, content(1, 50)[:20])
        + right(3, 2),  # a part that looks complete
        head(1, 1, ("content-length", "50")) + frame(DATA, END_STREAM, 1, b"x") + right(3, 2),
        right(1, 1) + frame(DATA, END_STREAM, 1, b"more") + right(3, 2),
        right(1, 1) + right(1, 1) + right(3, 2),
        right(5, 1) + right(3, 2),  # a stream that nobody has opened
        frame(DATA, END_STREAM, 1, content(1, 50)) + right(3, 2),
        head(1, 1, flags=0) + frame(DATA, 0, 1, b"") + right(3, 2),
        frame(CONTINUATION, END_HEADERS, 1, b"") + right(3, 2),
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") + right(3, 2),
        head(1, 1, status="404") + frame(DATA, END_STREAM, 1) + right(3, 2),
    ],
)
def test_the_judge_sees_a_wrong_response(lie: bytes):
    judge = Judge()
    with responding(lie) as connection:
        judge.exchange_at_once(connection, TWO)
    assert judge.wrong
    assert judge.hung == []


@pytest.mark.parametrize(
    ("frames", "right_ones", "aborted"),
    [
        (b"", 0, 2),
        (right(1, 1), 1, 1),
        (right(1, 1) + head(3, 2) + frame(DATA, 0, 3, content(2, 50)), 1, 1),
        (right(1, 1) + right(3, 2)[:-1], 1, 1),
        (right(1, 1) + frame(RST_STREAM, 0, 3, b"\0\0\0\2"), 1, 1),
        (right(1, 1) + frame(GOAWAY, 0, 0, b"\0\0\0\3" + bytes(4)), 1, 1),  # begun, and closed
    ],
)
def test_an_end_before_the_end_is_aborted(frames: bytes, right_ones: int, aborted: int):
    judge = Judge()
    with responding(frames) as connection:
        assert not judge.exchange_at_once(connection, TWO) or b"\0\0\0\2" in frames
    assert judge.wrong == judge.hung == []
    assert (judge.requests, judge.right, judge.aborted) == (2, right_ones, aborted)


@pytest.mark.parametrize(
    "goodbye",
    [frame(GOAWAY, 0, 0, b"\0\0\0\1" + bytes(4)), frame(RST_STREAM, 0, 3, b"\0\0\0\7")],
    ids=["GOAWAY", "REFUSED_STREAM"],
)
def test_what_was_not_begun_is_no_request(goodbye: bytes):
    judge = Judge()
    with responding(goodbye + right(1, 1)) as connection:
        judge.exchange_at_once(connection, TWO)
    assert (judge.requests, judge.right, judge.aborted, judge.wrong) == (1, 1, 0, [])


def test_an_honest_error_is_an_error():
    judge = Judge()
    with responding(head(1, 0, status="503", flags=END_HEADERS | END_STREAM) + right(3, 2)) as connection:
        judge.exchange_at_once(connection, TWO)
    assert (judge.right, judge.errors, judge.wrong) == (1, {"503": 1}, [])
