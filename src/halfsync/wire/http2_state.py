"""The state of an HTTP/2 connection: streams, windows, what a client may do how often, and what we send.

See http2.py, of which this is the lower half: all that does not depend on what a frame looks like.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from halfsync.wire import http2_frames as frames
from halfsync.wire.http2_frames import END_STREAM, FRAME_SIZE, MAX_STREAM, WINDOW, ErrorCode, Setting
from halfsync.wire.priorities import DEFAULT_URGENCY

RECEIVE_WINDOW = 1024 * 1024
"""Bytes of bodies that may be under way on a connection, or kept and not yet consumed; on a stream WINDOW, at
first."""
MOST_GROWN = 1024 * 1024
"""Bytes by which the windows of a connection's streams may grow together, and its own with them. With WINDOW
alone a client that is 50 ms away can upload no more than 1.3 MB a second on any line: 10 MB took 15.4 s here,
and take 1.7 s."""
MAX_RESET = 128
"""Streams that we have reset and still drop frames for; of older ones no honest client still sends any."""
MAX_SKIPPED = 8
"""Gaps in the numbers of streams that are remembered, only to call a later use of them by its right name."""
UPDATES_A_FRAME = 2
"""WINDOW_UPDATEs that each DATA frame may be answered with: for its stream, and for the connection."""
MOST_UPDATES = 10_000
NO_TABLE = b"\x20"
"""The beginning of a header block: its dynamic table has room for nothing (RFC 7541 6.3)."""
RESETS_REFILL = 3.0
IDLE_FRAMES_REFILL = 10.0
"""Seconds in which an empty bucket is full again."""
ROUNDING = 1e-6


class Http2Limits(msgspec.Struct, frozen=True):
    """`streams`: that a client may have open. `resets`, `idle_frames`: how many at once; of resets a third of
    that a second more, of idle frames a tenth."""

    streams: int = 100
    resets: int = 100
    idle_frames: int = 1000


class Limit(Enum):
    """Which limit the client broke, if it was one; the value is the setting's name, or ""."""

    NONE = ""
    RESETS = "http2_max_resets"
    IDLE_FRAMES = "http2_max_idle_frames"
    HEADERS = "limit_request_head"


class ConnectionFault(Exception):
    """A mistake of the client's, or a limit that it broke, that costs the connection (RFC 9113 5.4.1)."""

    def __init__(self, code: ErrorCode, why: str, limit: Limit = Limit.NONE) -> None:
        super().__init__(why)
        self.code = code
        self.limit = limit


class StreamFault(Exception):
    """A mistake of the client's that costs a stream (RFC 9113 5.4.2). `raw`: what is shown of a request that
    was malformed."""

    def __init__(self, stream_id: int, code: ErrorCode, why: str, raw: bytes = b"") -> None:
        super().__init__(why)
        self.raw = raw
        self.stream_id = stream_id
        self.code = code


class StreamState:
    """What the protocol knows of one stream. `owner` is the caller's to use."""

    __slots__ = (
        "answered",
        "expected",
        "grown",
        "grows",
        "id",
        "incremental",
        "local_closed",
        "owner",
        "receive_window",
        "remote_closed",
        "unconsumed",
        "unopened",
        "urgency",
        "window",
    )

    def __init__(self, stream_id: int, window: int, remote_closed: bool) -> None:
        self.id = stream_id
        self.window = window  # bytes that may be sent
        self.receive_window = WINDOW
        self.grown = 0  # bytes by which that is larger than WINDOW at the beginning
        self.grows = True  # it may be
        self.remote_closed = remote_closed
        self.local_closed = False
        self.answered = False  # the head of its response was sent
        self.expected = -1  # bytes of the body that have yet to come; -1: that was not said
        self.unconsumed = 0  # bytes that came and are not consumed
        self.unopened = 0  # bytes that were consumed and of which the client was not told
        self.urgency = DEFAULT_URGENCY
        self.incremental = False
        self.owner: object = None


class Http2State:
    """`pending_resets` is the caller's to count: streams that were reset and whose request is still worked
    on; they count as open ones."""

    __slots__ = (
        "_idle_until",
        "_may_grow",
        "_reset",
        "_resets_until",
        "_unopened",
        "last_stream",
        "limits",
        "now",
        "out",
        "pending_resets",
        "receive_window",
        "refuses_from",
        "says_no_table",
        "sent",
        "skipped",
        "stream_window",
        "streams",
        "updates",
        "uses_no_table",
        "window",
    )

    def __init__(self, limits: Http2Limits, max_head: int) -> None:
        self.limits = limits
        self.now = self._idle_until = self._resets_until = 0.0
        self.updates = 0  # WINDOW_UPDATEs that are the response to what was sent
        self.sent = 0  # bytes of DATA, without those of responses from leases
        self.window = WINDOW  # bytes that may be sent
        self.stream_window = WINDOW  # the same, with which a stream begins
        self.receive_window = RECEIVE_WINDOW
        self._may_grow = MOST_GROWN
        self._unopened = (
            0  # bytes that were consumed and of which the client was not told; or < 0: one too many
        )
        self._reset: dict[int, None] = {}  # streams that we have reset, of late
        self.skipped: list[tuple[int, int]] = []  # numbers of streams that were never opened, of late
        self.streams: dict[int, StreamState] = {}
        self.last_stream = 0
        self.refuses_from = MAX_STREAM + 1  # streams from this number on are ignored: GOAWAY said so
        self.pending_resets = 0
        self.says_no_table = False  # in the next header block of ours
        self.uses_no_table = False  # and the client knows
        values = {
            Setting.MAX_CONCURRENT_STREAMS: limits.streams,
            Setting.MAX_HEADER_LIST_SIZE: max_head,
            Setting.ENABLE_CONNECT_PROTOCOL: 1,
            Setting.NO_RFC7540_PRIORITIES: 1,
        }
        self.out = [frames.settings(values), frames.window_update(0, RECEIVE_WINDOW - WINDOW)]

    def count_idle(self, what: str) -> None:
        """A frame that moves no request and no body."""
        refill = IDLE_FRAMES_REFILL
        self._idle_until = max(self._idle_until, self.now) + refill / self.limits.idle_frames
        if self._idle_until - self.now > refill + ROUNDING:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}", Limit.IDLE_FRAMES)

    def count_reset(self) -> None:
        """A stream that the client reset, or that its mistake made us reset."""
        refill = RESETS_REFILL
        self._resets_until = max(self._resets_until, self.now) + refill / self.limits.resets
        if self._resets_until - self.now > refill + ROUNDING:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams are reset", Limit.RESETS)

    def check_closed(self, stream_id: int) -> None:
        """A frame came for a stream that is not in `streams`. Returns if that is no mistake."""
        if stream_id > self.last_stream or stream_id % 2 == 0:
            if stream_id >= self.refuses_from and stream_id % 2:
                self.count_idle("frames for streams behind GOAWAY")
                return
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} is idle")
        self.count_idle("frames for closed streams")
        if stream_id not in self._reset:
            if any(first <= stream_id <= last for first, last in self.skipped):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} was never opened")
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"stream {stream_id} is closed")

    def remember_reset(self, stream_id: int) -> None:
        if len(self._reset) >= MAX_RESET:
            del self._reset[next(iter(self._reset))]
        self._reset[stream_id] = None

    def drop(self, stream: StreamState) -> None:
        """It is closed. What of its body nobody consumed is no more."""
        if self.streams.pop(stream.id, None) is None:
            return
        if stream.grown:  # the connection's window shrinks by that, as bodies are consumed
            self._unopened -= stream.grown
            self._may_grow += stream.grown
            stream.grown = 0
        if stream.unconsumed:
            self.open_connection(stream.unconsumed)
            stream.unconsumed = 0

    def end_remote(self, stream: StreamState) -> None:
        if stream.expected > 0 and not stream.answered:  # else it may well stop
            why = f"the body is {stream.expected} bytes shorter than content-length says"
            raise StreamFault(stream.id, ErrorCode.PROTOCOL_ERROR, why)
        stream.remote_closed = True
        if stream.local_closed:
            self.drop(stream)

    def shrink_table(self) -> None:
        """The client has a smaller dynamic table than it has by default. Our header blocks have no entries in
        one; but the next of them has to say that it is no larger (RFC 9113 4.3.1), and then none has to any
        more, as it can't be smaller."""
        if not self.uses_no_table:
            self.says_no_table = self.uses_no_table = True

    def headers(self, stream: StreamState, block: bytes, *, end: bool) -> bytes:
        """The frames of a header block of ours: of a response, or of its trailers."""
        if self.says_no_table:
            self.says_no_table = False
            block = NO_TABLE + block
        wire = frames.headers(stream.id, block, end_stream=end)
        if end:
            self._end_local(stream)
        return wire

    def room(self, stream: StreamState) -> int:
        """Bytes of DATA that may be sent on a stream now, in one frame."""
        return min(self.window, stream.window, FRAME_SIZE)

    def data(self, stream: StreamState, size: int, *, end: bool) -> bytes:
        """The header of a DATA frame of `size` bytes, which are to follow it."""
        self.window -= size
        self.sent += size
        stream.window -= size
        if self.updates < MOST_UPDATES:
            self.updates += UPDATES_A_FRAME
        wire = frames.frame_header(size, frames.DATA, END_STREAM if end else 0, stream.id)
        if end:
            self._end_local(stream)
        return wire

    def responded(self, stream: StreamState, size: int) -> None:
        """A whole response with a body of `size` bytes was framed for a request that is whole."""
        self.window -= size
        if size and self.updates < MOST_UPDATES:
            self.updates += UPDATES_A_FRAME
        stream.local_closed = True
        self.drop(stream)

    def _end_local(self, stream: StreamState) -> None:
        stream.local_closed = True
        if stream.remote_closed:
            self.drop(stream)

    def reset(self, stream: StreamState, code: ErrorCode) -> None:
        """End a stream: nothing more of it is sent, nor is what may come of it of any use."""
        if stream.id in self.streams:
            self.drop(stream)
            self.remember_reset(stream.id)
            self.out.append(frames.rst_stream(stream.id, code))

    def consumed(self, stream: StreamState, size: int) -> None:
        """So many bytes of a body need no room any more: the client may send as many again. It is told when
        that is half of the window, and not if all that is to come fits the window. If there is nothing that
        waits to be consumed, it is the window that the client waits for, so it grows."""
        if stream.id not in self.streams:
            return  # given back when it was closed
        stream.unconsumed -= size
        self.open_connection(size)
        stream.unopened += size
        if stream.remote_closed or 0 <= stream.expected <= stream.receive_window:
            return
        window = WINDOW + stream.grown
        if stream.unopened >= window // 2:
            if stream.grows and self._may_grow and stream.unconsumed < window // 4:
                self._grow(stream, min(window, self._may_grow))
            stream.receive_window += stream.unopened
            self.out.append(frames.window_update(stream.id, stream.unopened))
            stream.unopened = 0

    def _grow(self, stream: StreamState, size: int) -> None:
        """By so many bytes, its window and that of the connection. The client is told with what else it is
        told."""
        self._may_grow -= size
        stream.grown += size
        stream.unopened += size
        self.open_connection(size)

    def dropped(self, stream: StreamState, size: int) -> None:
        """So many bytes of a body were of no use, and nothing more of it is."""
        if stream.id in self.streams:
            stream.unconsumed -= size
            self.open_connection(size)

    def open_connection(self, size: int) -> None:
        self._unopened += size
        if self._unopened >= RECEIVE_WINDOW // 2:
            self.receive_window += self._unopened
            self.out.append(frames.window_update(0, self._unopened))
            self._unopened = 0

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """No further streams: those that the client has opened by now are the last."""
        self.refuses_from = self.last_stream + 1
        self.out.append(frames.goaway(self.last_stream, code))

    def announce_going_away(self) -> None:
        """No further streams, please; but those that are under way are served. What responds to the PING
        behind it is PingAnswered: then `go_away` loses nothing (RFC 9113 6.8)."""
        self.out += (frames.goaway(MAX_STREAM, ErrorCode.NO_ERROR), frames.ping(bytes(8)))
