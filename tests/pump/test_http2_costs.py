"""What small frames of one client cost the server, counted: none costs much more than a request does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from halfsync.objects import Memory
from halfsync.pump.http2 import streams as http2_streams
from halfsync.wire.http1 import HeadLimits
from halfsync.wire.http2 import Http2Connection
from halfsync.wire.http2_events import RequestReceived, WindowsOpened
from halfsync.wire.http2_frames import MAX_WINDOW
from halfsync.wire.http2_requests import Requests
from halfsync.wire.http2_state import Http2Limits, StreamState
from halfsync.wire.messages import Ending
from tests.pump.harness import Stage
from tests.pump.http2_client import RawHttp2
from tests.wire.http2_frames import EH, GET, POST, PREFACE, data, headers, said, settings, window
from tests.wire.http2_frames import parse as parsed


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def connection(*frames: bytes) -> Http2Connection:
    server = Http2Connection(Requests(HeadLimits()), Http2Limits())
    server.receive(PREFACE + settings() + b"".join(frames), 0.0)
    server.out.clear()
    return server


class Walks(dict[int, StreamState]):
    """Streams, and how often somebody has gone through all of them."""

    count = 0

    def values(self) -> Any:
        self.count += 1
        return super().values()


def test_settings_walk_the_streams_once():
    """However many windows one frame sets."""
    server = connection(*[headers(number) for number in range(1, 201, 2)])
    server.streams = walks = Walks(server.streams)
    events = server.receive(settings(*[(4, size) for size in range(70_000, 70_032)]), 0.0)
    assert walks.count == 1
    assert [type(event) for event in events] == [WindowsOpened]
    assert {stream.window for stream in server.streams.values()} == {70_031}


@pytest.mark.parametrize(
    ("sizes", "opened", "fails"),
    [
        ((100, MAX_WINDOW, 200), 0, False),
        ((100, MAX_WINDOW, 200), 1, True),  # it is too much for a moment
        ((MAX_WINDOW - 1, 0), 1, False),
        ((0, MAX_WINDOW), 1, True),
    ],
)
def test_every_window_of_a_frame_counts(sizes: tuple[int, ...], opened: int, fails: bool):
    """They take effect one after the other (RFC 9113 6.5.3)."""
    server = connection(headers(1), *([window(1, opened)] if opened else []))
    server.receive(settings(*[(4, size) for size in sizes]), 0.0)
    assert said(parsed(b"".join(server.out))) == (
        ["GOAWAY FLOW_CONTROL_ERROR"] if fails else ["SETTINGS ACK"]
    )
    if not fails:
        assert server.streams[1].window == sizes[-1] + opened


@pytest.mark.parametrize("count", [2, 3, 16_000])
def test_new_sizes_of_the_table_in_one_block(count: int):
    """Two at most (RFC 7541 4.2). They are no fields, so no limit of fields would count them."""
    server = connection()
    events = server.receive(headers(1, b"\x20" * count + GET), 0.0)
    assert [type(event) for event in events if isinstance(event, RequestReceived)] == [RequestReceived] * (
        count <= 2
    )
    assert server.failed == (count > 2)
    if server.failed:
        assert said(parsed(b"".join(server.out))) == ["GOAWAY COMPRESSION_ERROR"]


@pytest.mark.parametrize("kind", ["HEADERS", "DATA"])
def test_streams_behind_goaway_are_a_flood(kind: str):
    """They are ignored, since they may have been under way; but not without end."""
    server = connection(headers(1))
    server.go_away()
    server.out.clear()
    flood = [headers(number) if kind == "HEADERS" else data(number) for number in range(3, 1803, 2)]
    assert server.receive(b"".join(flood), 0.0) == []
    assert not server.failed
    server.receive(b"".join(flood), 0.0)
    assert said(parsed(b"".join(server.out))) == ["GOAWAY ENHANCE_YOUR_CALM"]


def test_a_window_of_one_byte_for_a_hundred_streams(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """The connection's window is opened by single bytes, and a hundred responses wait for it. Each byte makes
    the server select one of them, and not all of them one after the other."""
    hand = stage.hand(threads=100)
    client = RawHttp2(stage, settings((4, 2**20)), *[headers(number) for number in range(1, 201, 2)])
    for _ in range(100):
        task = hand.take()
        hand.reply(task, length=2000, body=b"x" * 2000)
    frames = client.frames()
    assert sum(len(payload) for kind, _, _, payload in frames if kind == 0) == 65_535
    compared = 0
    urgency = http2_streams._urgency

    def counted(stream: http2_streams.Stream) -> int:
        nonlocal compared
        compared += 1
        return urgency(stream)

    monkeypatch.setattr(http2_streams, "_urgency", counted)
    for _ in range(5):
        compared = 0
        client.send(window(0, 1))
        assert [len(payload) for kind, _, _, payload in client.frames() if kind == 0] == [1]
        assert compared <= 200


def test_what_needs_no_window_is_sent_while_it_is_shut(stage: Stage):
    """Headers, and the ends of bodies that are complete; in the order of their urgency."""
    hand = stage.hand(threads=100)
    client = RawHttp2(stage, settings((4, 2**20)), headers(1), headers(3), headers(5, POST, EH))
    tasks = [hand.take(), hand.take()]
    hand.reply(tasks[0], length=70_000, body=b"x" * 70_000)
    hand.reply(tasks[1], ending=Ending.UNFINISHED)
    client.frames()
    hand.part(tasks[1], Memory(b"y"))
    assert client.frames() == []
    client.send(data(5, b"z", 1), headers(7), headers(9))
    for status in (204, 304):
        hand.reply(hand.take(), status=status)
    hand.reply(hand.take(), body=b"")
    assert sorted((kind, flags & 1, number) for kind, flags, number, _ in client.frames()) == [
        (1, 1, 5),
        (1, 1, 7),
        (1, 1, 9),
    ]
    client.send(window(0, 2**20))
    bodies = [(number, len(payload)) for kind, _, number, payload in client.frames() if kind == 0]
    assert sum(size for number, size in bodies if number == 1) == 70_000 - 65_535
    assert sum(size for number, size in bodies if number == 3) == 1
