"""Random frames, fed to the HTTP/2 protocol: whole, byte by byte, and in pieces of any size.

The invariants: what is said does not depend on the pieces in which frames come; every byte of a body that
came is in exactly one account (not consumed, not told to the client, or given back); what is kept of a
connection is bounded; and no exception but those of the protocol is raised.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from halfsync.wire.http1 import HeadLimits
from halfsync.wire.http2 import MAX_BLOCKS, Http2Connection
from halfsync.wire.http2_events import DataReceived, RequestReceived
from halfsync.wire.http2_frames import MAX_WINDOW
from halfsync.wire.http2_requests import Requests
from halfsync.wire.http2_state import (
    MAX_RESET,
    MAX_SKIPPED,
    MOST_GROWN,
    RECEIVE_WINDOW,
    Http2Limits,
)
from tests.wire.http2_frames import (
    EH,
    ES,
    GET,
    PAD,
    POST,
    PREFACE,
    PRIO,
    block,
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    priority,
    priority_update,
    request,
    rst,
    settings,
    window,
)

INDEXED = b"\x82\x86\x84\x41\x01a\x40\x03x-y\x01z"
"""GET / with a field that goes into the dynamic table."""


class Script:
    """What a client sends: mostly right, about streams that it may know."""

    def __init__(self, seed: int, wrong: float) -> None:
        self.random = random.Random(seed)
        self.wrong = wrong
        self.next = 1

    def stream(self) -> int:
        """One that has begun; seldom another number."""
        if self.random.random() < self.wrong:
            return self.random.choice((0, 2, self.next, self.next + 2, 2**31 - 1))
        return self.random.randrange(1, max(2, self.next), 2)

    def begin(self) -> int:
        number, self.next = self.next, self.next + self.random.choice((2, 2, 2, 4))
        return number

    def frames(self, count: int) -> bytes:
        return b"".join(self.random.choice(KINDS)(self) for _ in range(count))


def some_request(script: Script) -> bytes:
    rand = script.random
    number = script.begin()
    head = rand.choice((GET, GET, INDEXED, request(path=b"/%d" % number)))
    split = rand.randrange(len(head))
    return rand.choice(
        (
            headers(number, head),
            headers(number, b"\x02" + head + b"\0\0", EH | ES | PAD),
            headers(number, b"\0\0\0\0\x0f" + head, EH | ES | PRIO),
            headers(number, head[:split], ES) + continuation(number, head[split:]),
            headers(number, POST, EH),
            headers(number, POST, EH) + data(number, bytes(rand.randrange(3000)), ES),
            headers(number, POST + block((b"content-length", b"100")), EH),
        )
    )


def some_body(script: Script) -> bytes:
    rand = script.random
    payload = bytes(rand.choice((0, 1, 100, 100, 3000, 16_384)))
    if rand.random() < 0.2 and len(payload) < 3000:
        return data(script.stream(), b"\x03" + payload + b"\0\0\0", PAD | rand.choice((0, ES)))
    return data(script.stream(), payload, rand.choice((0, 0, 0, ES)))


def some_trailers(script: Script) -> bytes:
    return headers(script.stream(), block((b"x-sum", b"1")), rand_flags(script, (EH | ES, EH | ES, EH)))


def rand_flags(script: Script, flags: tuple[int, ...]) -> int:
    return script.random.choice(flags)


def some_window(script: Script) -> bytes:
    sizes = (1, 100, 65_535, 2**20) if script.random.random() > script.wrong else (0, 2**31 - 1, 2**31)
    return window(script.random.choice((0, script.stream())), script.random.choice(sizes))


def some_settings(script: Script) -> bytes:
    right = ((4, 0), (4, 1), (4, 65_535), (4, 2**20), (1, 0), (3, 7), (0x42, 9), (5, 16_384), (2, 0))
    wrong = ((4, 2**31), (5, 16_383), (2, 2))
    pick = right if script.random.random() > script.wrong else wrong
    return settings(*script.random.sample(pick, script.random.randrange(len(pick))))


def nonsense(script: Script) -> bytes:
    rand = script.random
    if rand.random() > script.wrong:
        return b""
    kind, flags = rand.choice((*range(12), 16, 0x42)), rand.randrange(256)
    return frame(kind, flags, rand.choice((0, script.stream())), rand.randbytes(rand.randrange(40)))


KINDS: list[Callable[[Script], bytes]] = [
    *[some_request] * 4,
    *[some_body] * 4,
    some_trailers,
    *[some_window] * 2,
    some_settings,
    nonsense,
    lambda script: rst(script.stream()),
    lambda script: priority(script.stream(), 0),
    lambda script: priority_update(script.stream() | 1, b"u=1, i"),
    lambda script: ping(flags=script.random.choice((0, 1))),
    lambda script: b"" if script.random.random() > 0.02 else goaway(0),
    lambda _script: frame(0x42, 0xFF, 0, b"unknown"),
]


def connection() -> Http2Connection:
    return Http2Connection(Requests(HeadLimits()), Http2Limits(resets=20, idle_frames=200))


def heard(wire: bytes, cut: Callable[[bytes], list[bytes]]) -> tuple[list[str], bytes, Http2Connection]:
    """What a server that never responds is told, and says."""
    server = connection()
    events = []
    for piece in cut(PREFACE + settings() + wire):
        for event in server.receive(piece, 0.0):
            stream = getattr(event, "stream", None)
            told = [type(event).__name__, stream.id if stream is not None else 0]
            if isinstance(event, RequestReceived):
                told += [event.head.raw, event.refusal is None]
            elif isinstance(event, DataReceived):
                told.append(event.data)
            events.append(repr(told))
        check(server)
    return events, b"".join(server.out), server


def check(server: Http2Connection) -> None:
    if server.failed:
        return
    kept = sum(stream.unconsumed for stream in server.streams.values())
    grown = sum(stream.grown for stream in server.streams.values())
    assert grown + server._may_grow == MOST_GROWN
    assert server.receive_window + kept + server._unopened == RECEIVE_WINDOW + grown
    assert server.window <= MAX_WINDOW
    assert all(stream.window <= MAX_WINDOW for stream in server.streams.values())
    assert len(server.streams) <= server.limits.streams
    assert len(server.buffer) <= 9 + 16_384
    assert len(server._reset) <= MAX_RESET
    assert len(server.skipped) <= MAX_SKIPPED
    assert len(server.blocks) <= MAX_BLOCKS


def whole(wire: bytes) -> list[bytes]:
    return [wire]


def single_bytes(wire: bytes) -> list[bytes]:
    return [wire[at : at + 1] for at in range(len(wire))]


def random_pieces(wire: bytes) -> list[bytes]:
    rand = random.Random(len(wire))
    pieces = []
    while wire:
        size = rand.choice((1, 5, 9, 10, 100, 3000, 70_000))
        pieces.append(wire[:size])
        wire = wire[size:]
    return pieces


@pytest.mark.parametrize("wrong", [0.0, 0.03, 0.5])
def test_pieces_do_not_matter(wrong: float):
    failed = 0
    for seed in range(150):
        wire = Script(seed, wrong).frames(40)
        events, out, server = heard(wire, whole)
        assert heard(wire, random_pieces)[:2] == (events, out), seed
        if len(wire) < 20_000:
            assert heard(wire, single_bytes)[:2] == (events, out), seed
        failed += server.failed
    assert (0 < failed < 150) or wrong == 0.5, "both kinds are to be tried"


@pytest.mark.parametrize("wrong", [0.0, 0.03])
def test_a_server_that_responds_keeps_its_accounts(wrong: float):
    """It consumes bodies in part, responds in part, resets: the windows stay what they should be."""
    for seed in range(150):
        script = Script(seed, wrong)
        server, rand = connection(), random.Random(-seed)
        pieces = random_pieces(PREFACE + settings() + script.frames(60))
        for piece in pieces:
            for event in server.receive(piece, 0.0):
                if isinstance(event, DataReceived) and rand.random() < 0.7:
                    server.consumed(event.stream, len(event.data))
            for stream in list(server.streams.values()):
                act(server, stream.id, rand)
            check(server)


def act(server: Http2Connection, number: int, rand: random.Random) -> None:
    stream = server.streams[number]
    what = rand.random()
    if what < 0.2 and not stream.local_closed:
        if not stream.answered:
            stream.answered = True
            server.headers(stream, b"\x88", end=rand.random() < 0.3)
        elif (room := server.room(stream)) >= 0:
            server.data(stream, rand.randrange(room + 1), end=rand.random() < 0.5)
    elif what < 0.25:
        server.reset(stream, 8)  # type: ignore[arg-type]


# --- every frame in every state of a stream ---------------------------------------------------------

IGNORED = ""
STREAM_CLOSED, PROTOCOL = "GOAWAY 5", "GOAWAY 1"

STATES: dict[str, tuple[bytes, str]] = {
    "idle": (b"", ""),
    "open": (headers(1, POST, EH), ""),
    "half closed": (headers(1), ""),
    "closed": (headers(1), "responds"),
    "reset by the client": (headers(1, POST, EH) + rst(1), ""),
    "reset by the server": (headers(1, POST, EH), "resets"),
    "refused numbers": (headers(1), "goes"),
}
FRAMES: dict[str, bytes] = {
    "DATA": data(1, b"x"),
    "HEADERS": headers(1, block((b"x", b"y"))),
    "PRIORITY": priority(1),
    "RST_STREAM": rst(1),
    "WINDOW_UPDATE": window(1, 1),
    "CONTINUATION": continuation(1, b""),
    "PUSH_PROMISE": frame(5, EH, 1, b"\0\0\0\x02" + GET),
    "SETTINGS": settings(stream=1),
    "PING": ping(stream=1),
    "GOAWAY": goaway(stream=1),
    "PRIORITY_UPDATE": priority_update(1, b"", stream=1),
    "unknown": frame(0x42, 0, 1, b"x"),
}
EVERYWHERE = {
    "PRIORITY": IGNORED,
    "CONTINUATION": PROTOCOL,
    "PUSH_PROMISE": PROTOCOL,
    "SETTINGS": PROTOCOL,
    "PING": PROTOCOL,
    "GOAWAY": PROTOCOL,
    "PRIORITY_UPDATE": PROTOCOL,
    "unknown": IGNORED,
}
EXPECTED: dict[str, dict[str, str]] = {
    "idle": {"DATA": PROTOCOL, "HEADERS": "RST 1", "RST_STREAM": PROTOCOL, "WINDOW_UPDATE": PROTOCOL},
    "half closed": {"DATA": "RST 5", "HEADERS": "RST 5"},
    "closed": {"DATA": STREAM_CLOSED, "HEADERS": STREAM_CLOSED},
    "reset by the client": {"DATA": STREAM_CLOSED, "HEADERS": STREAM_CLOSED},
}
"""RFC 9113 5.1. What does not stand here and above is ignored, or as it should be. (HEADERS on an idle stream
are a request, and these are malformed.)"""


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("state", STATES)
def test_every_frame_in_every_state(state: str, kind: str):
    server = connection()
    before, then = STATES[state]
    server.receive(PREFACE + settings() + before, 0.0)
    for stream in list(server.streams.values()):
        if then == "responds":
            server.headers(stream, b"\x88", end=True)
        elif then == "resets":
            server.reset(stream, 8)  # type: ignore[arg-type]
    server.out.clear()
    sent = FRAMES[kind]
    if then == "goes":
        server.go_away()
        server.out.clear()
        sent = sent[:5] + b"\0\0\0\x09" + sent[9:]
        expected = EVERYWHERE.get(kind, IGNORED)
    else:
        expected = {**EVERYWHERE, **EXPECTED.get(state, {})}.get(kind, IGNORED)
    server.receive(sent, 0.0)
    said = [(one[3], int.from_bytes(one[-4:] if one[3] == 3 else one[13:17], "big")) for one in server.out]
    names = {3: "RST", 7: "GOAWAY"}
    assert [f"{names[kind]} {code}" for kind, code in said] == ([expected] if expected else [])
    if not server.failed and then != "goes":
        [event] = server.receive(headers(11), 0.0)  # others are served
        assert isinstance(event, RequestReceived)
