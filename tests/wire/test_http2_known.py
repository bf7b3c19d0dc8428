"""Header blocks that are known by their bytes mean what they would mean if they were decoded."""

from __future__ import annotations

import random

import pytest
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

from halfsync.wire.hpack import Decoder
from halfsync.wire.http1 import HeadLimits
from halfsync.wire.http2 import MAX_BLOCKS, MAX_GROUPS, Http2Connection
from halfsync.wire.http2_events import Event, RequestReceived
from halfsync.wire.http2_requests import MAX_HELD, Requests
from halfsync.wire.http2_state import Http2Limits
from tests.wire.http2_frames import PREFACE, headers, request, settings


class _Forgetful(Http2Connection):
    """It decodes every block."""

    __slots__ = ()

    def known(self, block: bytes) -> None:
        return None


def begun(requests: Requests, kind: type[Http2Connection] = Http2Connection) -> Http2Connection:
    server = kind(requests, Http2Limits())
    assert server.receive(PREFACE + settings(), 0.0) == []
    return server


def ask(server: Http2Connection, block: bytes) -> str:
    """What a request with that block is to the server, which responds to it at once."""
    events: list[Event] = server.receive(headers(server.last_stream + 2 | 1, block), 0.0)
    [event] = events
    if not isinstance(event, RequestReceived):
        return type(event).__name__
    server.responded(event.stream, 0)
    return repr((event.head.raw, event.head.method, event.head.target, event.head.host, event.refusal))


def a_block(encoder: Encoder, rand: random.Random) -> bytes:
    """As some client may write it: fields come and go, and are indexed or not."""
    path = rand.choice(("/", "/index.html", "/a", "/b", "/c?d", "/" + "x" * 140, f"/{rand.randrange(20)}"))
    fields = [
        (":method", rand.choice(("GET", "GET", "GET", "HEAD"))),
        (":path", path),
        (":scheme", "https"),
        (":authority", "a.example"),
    ]
    if rand.random() < 0.1:
        rand.shuffle(fields)
    if rand.random() < 0.2:
        fields.append(("accept", rand.choice(("*/*", "text/html", "a\nb"))))
    if rand.random() < 0.2:
        fields.append(("cookie", "a=b"))
    if rand.random() < 0.02:
        encoder.header_table_size = rand.choice((0, 100, 4096))
    literal = rand.random() < 0.8
    return bytes(
        encoder.encode(
            [
                NeverIndexedHeaderTuple(*one) if literal and one[0] == ":path" else HeaderTuple(*one)
                for one in fields
            ],
            huffman=rand.random() < 0.9,
        )
    )


@pytest.mark.parametrize("seed", range(20))
def test_known_blocks_mean_the_same(seed: int):
    """Of several connections that share what is remembered; each has a table of its own."""
    rand = random.Random(seed)
    requests, others = Requests(HeadLimits()), Requests(HeadLimits())
    three = [(begun(requests), begun(others, _Forgetful), Encoder()) for _ in range(3)]
    for _ in range(400):
        server, decoding, encoder = rand.choice(three)
        block = a_block(encoder, rand)
        assert ask(server, block) == ask(decoding, block)
        assert len(server.blocks) <= MAX_BLOCKS
        assert len(server._groups) <= MAX_GROUPS


@pytest.mark.parametrize("wrong", [b"", b"\x04", b"\x04\x7f", b"\x04\x85abcde", b"\x04\x05/a"])
def test_a_block_that_begins_like_known_ones_and_is_none(wrong: bytes):
    requests = Requests(HeadLimits())
    server = begun(requests)
    start, end = b"\x82\x86\x41\x01a", b""
    for _ in range(3):
        assert "GET /x HTTP" in ask(server, start[:2] + b"\x01\x01a" + b"\x04\x02/x" + end)
    decoding = begun(requests, _Forgetful)
    block = start[:2] + b"\x01\x01a" + wrong
    told = [
        [type(event).__name__ for event in one.receive(headers(one.last_stream + 2 | 1, block), 0.0)]
        for one in (server, decoding)
    ]
    assert told[0] == told[1]


def test_other_paths_are_not_decoded(monkeypatch: pytest.MonkeyPatch):
    """Not even on a connection where nobody has asked for them."""
    requests = Requests(HeadLimits())
    blocks = [request(path=b"/%d" % number).replace(b"\x00\x05:path", b"\x04") for number in range(500)]
    server = begun(requests)
    expected = [ask(server, block) for block in blocks]
    other = begun(requests)
    ask(other, blocks[3])
    monkeypatch.setattr(Decoder, "decode", None)
    assert [ask(other, block) for block in blocks] == expected


def test_what_is_remembered_is_bounded():
    """And what a connection refers to is let go with it."""
    requests = Requests(HeadLimits())
    servers = [begun(requests) for _ in range(3)]
    more = (b"x-long", b"y" * 120)
    for number in range(8_000):
        block = request(more, path=b"/%d" % number).replace(b"\x00\x05:path", b"\x04")
        ask(servers[number % 3], block)
        assert requests.held <= MAX_HELD
    kept = {id(head) for server in servers for group in server._groups.values() for head in group.values()}
    assert len(kept) <= MAX_HELD // 512
    requests.configure(HeadLimits())
    assert not any(group for server in servers for group in server._groups.values())
