"""Windows for request bodies: they grow for who needs that, and no further than is meant."""

from __future__ import annotations

import random

from halfsync.wire.http1 import HeadLimits
from halfsync.wire.http2 import Http2Connection
from halfsync.wire.http2_events import DataReceived
from halfsync.wire.http2_frames import PREFACE, WINDOW
from halfsync.wire.http2_requests import Requests
from halfsync.wire.http2_state import MOST_GROWN, RECEIVE_WINDOW, Http2Limits, StreamState
from tests.wire.http2_frames import EH, POST, block, data, headers, settings

FRAME = 16_384


class _Upload:
    """A connection whose client sends as much as it may on each of its streams."""

    def __init__(self) -> None:
        self.server = Http2Connection(Requests(HeadLimits()), Http2Limits())
        self.server.receive(PREFACE + settings(), 0.0)
        self.connection = RECEIVE_WINDOW  # what the client may send
        self.streams: dict[int, int] = {}
        self.told()

    def open(self, number: int, head: bytes = POST) -> StreamState:
        self.server.receive(headers(number, head, EH), 0.0)
        self.streams[number] = WINDOW
        return self.server.streams[number]

    def told(self) -> None:
        """Take in the WINDOW_UPDATEs."""
        wire = b"".join(self.server.out)
        self.server.out.clear()
        while wire:
            size = int.from_bytes(wire[:3], "big")
            if wire[3] == 8:
                number, more = int.from_bytes(wire[5:9], "big"), int.from_bytes(wire[9:13], "big")
                if number:
                    self.streams[number] += more
                elif self.server.last_stream:
                    self.connection += more
            wire = wire[9 + size :]

    def send(self, number: int) -> int:
        """All that may be; how much that was."""
        total = 0
        while room := min(self.streams[number], self.connection, FRAME):
            events = self.server.receive(data(number, bytes(room)), 0.0)
            assert [type(event) for event in events] == [DataReceived]
            self.streams[number] -= room
            self.connection -= room
            total += room
        return total

    def consume(self, stream: StreamState, size: int) -> None:
        self.server.consumed(stream, size)
        self.told()


def test_the_window_grows_for_a_body_that_is_consumed_as_it_comes():
    upload = _Upload()
    stream = upload.open(1)
    sizes = []
    for _ in range(12):
        sizes.append(size := upload.send(1))
        upload.consume(stream, size)
    assert sizes[0] == WINDOW
    assert sizes[1] == 2 * WINDOW
    assert sizes[-1] >= (WINDOW + MOST_GROWN) // 2
    assert stream.grown == MOST_GROWN


def test_it_does_not_for_one_that_is_not():
    """What waits for a slow handler is not the line's fault."""
    upload = _Upload()
    stream = upload.open(1)
    waiting = 0
    for _ in range(200):
        waiting += upload.send(1)
        assert waiting <= WINDOW
        upload.consume(stream, 1000)
        waiting -= 1000
    assert stream.grown == 0


def test_streams_that_are_for_messages_do_not_grow():
    upload = _Upload()
    pseudo = ((b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/"))
    stream = upload.open(1, block(*pseudo, (b":authority", b"x")))
    for _ in range(5):
        upload.consume(stream, upload.send(1))
    assert stream.grown == 0


def test_what_a_connection_may_send_is_bounded_and_shrinks_again():
    """However many streams have come and gone."""
    chance = random.Random(1)
    upload = _Upload()
    for number in range(1, 81, 2):
        upload.open(number)
        if len(upload.streams) < 4:
            continue
        for _ in range(chance.randrange(12)):
            one = chance.choice([*upload.streams])
            size = upload.send(one)
            if chance.random() < 0.8:
                upload.consume(upload.server.streams[one], size)
            kept = sum(stream.unconsumed for stream in upload.server.streams.values())
            assert kept + upload.connection <= RECEIVE_WINDOW + 2 * MOST_GROWN
        gone = chance.choice([*upload.streams])
        upload.server.drop(upload.server.streams[gone])
        del upload.streams[gone]
        upload.told()
    for number in [*upload.streams]:
        upload.server.drop(upload.server.streams[number])
    upload.streams.clear()
    upload.told()
    last = upload.open(101)
    for _ in range(20):
        upload.consume(last, upload.send(101))
    upload.server.drop(last)
    upload.told()
    assert upload.server._may_grow == MOST_GROWN
    assert upload.server.receive_window == upload.connection
    assert upload.connection + upload.server._unopened == RECEIVE_WINDOW
