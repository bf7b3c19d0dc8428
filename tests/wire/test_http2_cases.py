"""The HTTP/2 cases, fed to the protocol alone: whole, byte by byte, and with bytes behind them."""

from __future__ import annotations

import pytest

from halfsync.wire.http1 import HeadLimits
from halfsync.wire.http2 import Http2Connection
from halfsync.wire.http2_events import ConnectionFailed, DataReceived, Event, RequestReceived
from halfsync.wire.http2_requests import Requests
from halfsync.wire.http2_responses import response_block
from halfsync.wire.http2_state import Http2Limits
from tests.wire.http2_cases import CASES, Http2Case
from tests.wire.http2_frames import PREFACE, frame, parse, said, settings

BEGIN = PREFACE + settings()
UNKNOWN = frame(0x42, 0, 0, b"behind")


class Server:
    """A connection whose words are collected in the order in which they are said."""

    def __init__(self, *, answers: bool) -> None:
        self.connection = Http2Connection(Requests(HeadLimits()), Http2Limits())
        self.answers = answers
        self.words: list[str] = []
        self.whole: set[int] = set()
        self.frames: list[tuple[int, int, int, bytes]] = []

    def feed(self, data: bytes) -> None:
        for event in self.connection.receive(data, 0.0):
            self._take(event)
        self._flush()

    def _take(self, event: Event) -> None:
        if not isinstance(event, RequestReceived | DataReceived):
            return
        stream = event.stream
        if isinstance(event, RequestReceived) and event.refusal is not None:
            self.words.append(f"refused {stream.id} {event.refusal.status}")
        elif (stream.remote_closed or not head_size(event)) and stream.id not in self.whole:
            self.whole.add(stream.id)
            self.words.append(f"request {stream.id}")
            if self.answers and stream.id in self.connection.streams:
                self.frames += parse(self.connection.headers(stream, response_block(200, b"", 0), end=True))

    def _flush(self) -> None:
        frames = parse(b"".join(self.connection.out))
        self.connection.out.clear()
        self.words += said(frames)


def head_size(event: RequestReceived | DataReceived) -> int:
    return event.head.body_size if isinstance(event, RequestReceived) else -1


def serve(case: Http2Case, pieces: list[bytes]) -> list[str]:
    server = Server(answers=case.answered)
    for piece in pieces:
        server.feed(piece)
    words = server.words
    for own in ("SETTINGS", "WINDOW 0 983041", "SETTINGS ACK"):
        words.remove(own)
    return words


def frames_of(data: bytes) -> list[bytes]:
    """One by one: so what is said of each stands behind it."""
    found = []
    while len(data) >= 9:
        end = 9 + int.from_bytes(data[:3], "big")
        found.append(data[:end])
        data = data[end:]
    return [*found, data] if data else found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said(case: Http2Case):
    assert serve(case, [BEGIN, *frames_of(case.sent)]) == list(case.said)


@pytest.mark.parametrize(
    "case", [case for case in CASES if len(case.sent) < 3000], ids=lambda case: case.name
)
def test_the_same_byte_by_byte(case: Http2Case):
    whole = BEGIN + case.sent
    assert serve(case, [whole[at : at + 1] for at in range(len(whole))]) == list(case.said)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_in_one_piece_with_bytes_behind(case: Http2Case):
    """Only the order may differ in which the server's own frames and requests are told."""
    if not case.answered:
        words = serve(case, [BEGIN + case.sent + (("CONTINUATION" not in case.name and UNKNOWN) or b"")])
        assert sorted(words) == sorted(case.said)


def test_the_cases_are_many_and_differ():
    assert len(CASES) > 150
    assert len({case.name for case in CASES}) == len(CASES)
    assert (
        len({(case.sent, case.answered) for case in CASES}) > len(CASES) - 8
    )  # some are told twice, by two sections


@pytest.mark.parametrize(
    "preface",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        PREFACE + b"\0\0\x08\x06\0\0\0\0\0" + b"12345678",
        PREFACE + settings(flags=1),
        PREFACE + b"\0" * 9,
    ],
    ids=["not to its end", "HTTP/1.1", "PING first", "ACK first", "DATA first"],
)
def test_a_preface_that_is_none(preface: bytes):
    """RFC 9113 3.4."""
    for pieces in ([preface], [preface[at : at + 1] for at in range(len(preface))]):
        server = Server(answers=False)
        for piece in pieces:
            server.feed(piece)
        assert server.words == ["SETTINGS", "WINDOW 0 983041", "GOAWAY PROTOCOL_ERROR"]


def test_a_failed_connection_says_why():
    connection = Http2Connection(Requests(HeadLimits()), Http2Limits())
    events = connection.receive(BEGIN + frame(6, 0, 0, b"1"), 0.0)
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].why == "PING of 1 bytes"
    assert b"PING of 1 bytes" in connection.out[-1]  # the client's people read it too
    assert connection.receive(b"anything", 1.0) == []
