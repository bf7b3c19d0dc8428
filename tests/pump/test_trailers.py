"""Fields behind a response's body: to clients that can take them, and nowhere else."""

from __future__ import annotations

import pytest

from halfsync.handlers.asgi_errors import BrokenRule
from halfsync.handlers.asgi_heads import checked_trailer
from halfsync.wire.http1_responses import wants_trailers
from halfsync.wire.messages import Ending, Part, Task
from tests.pump.harness import Hand, Stage, get
from tests.pump.http2_client import RawHttp2
from tests.wire.http2_frames import block, headers, request

SUM = b"X-Sum: 42\r\n"


def respond(hand: Hand, task: Task, ending: Ending = Ending.DONE, length: int = -1) -> None:
    hand.reply(task, b"summed", ending=Ending.UNFINISHED, length=length)
    hand.send([Part(task.number, [], ending, 0, SUM)])


@pytest.mark.parametrize(
    ("head", "length", "end"),
    [
        (get("/", "TE: trailers"), -1, b"6\r\nsummed\r\n0\r\nX-Sum: 42\r\n\r\n"),
        (get("/"), -1, b"6\r\nsummed\r\n0\r\n\r\n"),
        (get("/", "TE: trailers"), 6, b"summed"),
        (get("/", "TE: trailers", method="HEAD"), -1, b"\r\n\r\n"),
        (get("/", "TE: trailers", "Connection: close", version="1.0"), -1, b"\r\n\r\nsummed"),
    ],
    ids=["wanted", "not wanted", "no chunks", "HEAD", "HTTP/1.0"],
)
def test_http1(head: bytes, length: int, end: bytes):
    with Stage() as stage:
        hand, client = stage.hand(), stage.client()
        client.send(head)
        respond(hand, hand.take(), length=length)
        client.send(get("/next"))
        stage.until(lambda: client.receive() >= 0 and client.inbox.endswith(end), repr(client.inbox))
        if b"HTTP/1.0" not in head:
            client.inbox = b""
            hand.reply(hand.take(), b"next")
            assert client.answer().body == b"next"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("wanted", [True, False])
def test_http2(method: bytes, wanted: bool):
    """A header block ends the stream."""
    te = [(b"te", b"trailers")] if wanted else []
    with Stage() as stage:
        hand = stage.hand()
        client = RawHttp2(stage, headers(1, request(*te, method=method)))
        respond(hand, hand.take())
        frames = [(kind, flags, payload) for kind, flags, number, payload in client.frames() if number == 1]
        if method == b"HEAD":
            assert [(kind, flags) for kind, flags, _ in frames] in ([(1, 4), (0, 1)], [(1, 5)])
        elif wanted:
            assert frames[1:] == [(0, 0, b"summed"), (1, 5, block((b"x-sum", b"42")))]
        else:
            assert b"".join(payload for kind, _, payload in frames if kind == 0) == b"summed"
            assert [kind for kind, _, _ in frames].count(1) == 1
            assert frames[-1][:2] == (0, 1)


def test_a_response_that_is_cut_short_has_none():
    with Stage() as stage:
        hand = stage.hand()
        client = RawHttp2(stage, headers(1))
        respond(hand, hand.take(), Ending.ABORTED)
        assert client.said()[-1] == "RST 1 INTERNAL_ERROR"
        old = stage.client()
        old.send(get("/", "TE: trailers"))
        respond(hand, hand.take(), Ending.ABORTED)
        assert b"X-Sum" not in old.rest()
        assert old.reset


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"Set-Cookie", b"connection"])
def test_what_has_to_be_known_before_the_body_is_no_trailer(name: bytes):
    with pytest.raises(BrokenRule, match="can't be sent behind the body"):
        checked_trailer((name, b"1"))
    assert checked_trailer((b"X-Sum", b" 1 ")) == (b"X-Sum", b"1")


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("TE: trailers", True),
        ("te:trailers", True),
        ("TE: gzip;q=0.5, trailers", True),
        ("TE: trailers, deflate", True),
        ("TE: Trailers ;q=1", True),
        ("TE: gzip", False),
        ("TE: nottrailers", False),
        ("TE: trailersnot", False),
        ("X-TE: trailers", False),
        ("X: y te: trailers", False),
        ("Trailer: trailers", False),
    ],
)
def test_who_wants_them(field: str, wanted: bool):
    assert wants_trailers(get("/", field)) is wanted
    assert wants_trailers(get("/", "A: b", field, "C: d")) is wanted
