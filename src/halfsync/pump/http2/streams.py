"""What the pump holds of HTTP/2 connections: a `Session` for each, and a `Stream` for each exchange on it.

Theory of operation
-------------------
To whoever serves a request (workers, leases, time limits, a stop), a *stream is a connection* that carries
one exchange: it has the same slots, the same queue `out`, the same protocol calls. So all that is written for
one exchange on a connection holds for many, and knows nothing of HTTP/2. What is different lies below:

 - Its `out` is given to the connection, frame by frame, as windows and turns allow (output.py).
 - To close it is to reset it: the connection goes on, and so do the other streams.
 - Its bytes count when the connection's transport took them. Frames of many streams lie in one queue, so
   beside that queue stand *marks*: when so many bytes of the connection are taken, so many of them were this
   stream's.

A stream that its client has reset is gone, but its worker may be busy with it for long. Whoever opens and
resets streams would so have any number of requests worked on; hence a `StreamPlace`, which such an exchange
holds, and with it keeps one of the connection's streams taken until the worker is done.
"""

from __future__ import annotations

from collections import deque
from typing import cast

from halfsync.pump.connection import NEVER, Connection, Exchange, Record, WireProtocol
from halfsync.pump.sendables import Framing
from halfsync.pump.states import BUSY
from halfsync.pump.transport import Transport
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1 import RequestHead
from halfsync.wire.http2 import Http2Connection
from halfsync.wire.http2_frames import ErrorCode
from halfsync.wire.http2_state import StreamState
from halfsync.wire.priorities import priority_of

TURN = 1024 * 1024
"""Bytes that a response gets before others of its urgency, if parts of it are of no use by themselves."""


class Block(Framing):
    """A header block, at the head of a stream's queue."""

    __slots__ = ()


class Stream(Connection):
    """One exchange on an HTTP/2 connection."""

    __slots__ = (
        "carrier",
        "error_code",
        "has_all",
        "others",
        "others_before",
        "parts",
        "share",
        "state_of",
        "stop_at",
        "window_shut",
    )

    def __init__(
        self, carrier: Connection, session: Session, state: StreamState, protocol: WireProtocol
    ) -> None:
        # Not by Connection.__init__: there is one of these a request.
        self.transport = cast(Transport, _StreamEnd(self))
        self.fd = -1
        self.protocol = protocol
        self.origin = carrier.origin
        self.known = carrier.known
        self.state = BUSY
        self.deadline = NEVER
        self.exchange = None
        self.session = None
        self.inbox = b""
        self.scanned = 0
        self.out = None
        self.readable = self.ended = False
        self.request_count = carrier.request_count
        self.wire_bytes = self.body_bytes = 0  # that the connection's transport took
        self.when = carrier.when
        self.first_byte = carrier.first_byte
        self.carrier = carrier
        self.state_of = state
        self.parts: list[bytes] = []  # of the request's body, not yet in its spool
        self.has_all = False  # nothing comes behind `parts`
        self.window_shut = False  # nothing more can be sent until the client opens a window
        self.others = 0  # see taken_by_others
        self.others_before = session.wire.sent  # bytes of other responses, when it was looked at last
        self.share = TURN
        self.stop_at = 0.0  # when a client that has its response is told to stop sending; 0: it is not to
        self.error_code = ErrorCode.INTERNAL_ERROR  # if it has to be reset
        state.owner = self

    @property
    def is_idle(self) -> bool:
        return False

    @property
    def is_framed(self) -> bool:
        """Nothing more is to be framed of it."""
        return self.state_of.local_closed and not self.stop_at

    @property
    def is_read_to_end(self) -> bool:
        return self.ended and not self.parts

    @property
    def is_clients_turn(self) -> bool:
        """Not while it waits for its turn among other streams: see Http2.expired."""
        return self.window_shut

    def taken_by_others(self) -> int:
        """If the connection's window alone keeps it back, what the client opens of that goes to more urgent
        ones first. (To be called once in a while.)"""
        session = self.carrier.session
        if isinstance(session, Session):
            before, self.others_before = self.others_before, session.wire.sent - self.body_bytes
            if self.window_shut and self.state_of.window > 0:
                self.others += max(0, self.others_before - before)
        return self.others

    def cut_for(self, reason: CloseReason) -> None:
        self.error_code = _CODES.get(reason, ErrorCode.INTERNAL_ERROR)

    @property
    def may_send_body(self) -> bool:
        """Not while bodies that are not read yet, of other streams, fill the window of the connection."""
        session = self.carrier.session
        return not isinstance(session, Session) or session.wire.receive_window > 0


class _StreamEnd:
    """As much of a transport as a stream needs of one."""

    __slots__ = ("_stream",)
    ends_by_close = True

    def __init__(self, stream: Stream) -> None:
        self._stream: Stream | None = stream

    def unsent(self) -> int:
        return 0  # what is not taken does not count yet

    def reset_at_close(self, _wanted: bool) -> None:
        """It is always so."""

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            cast(StreamCloser, stream.protocol).stream_closed(stream)


class StreamCloser:
    def stream_closed(self, stream: Stream) -> None:
        """Its exchange is over."""
        raise NotImplementedError


class TakenMark:
    """When the connection's transport has taken `position` bytes in all, `wire` of them were this stream's,
    and `body` of these were of the body. With `ends`, the exchange is over. Or, without a stream, there is a
    log record: a response from a lease."""

    __slots__ = ("body", "ends", "position", "record", "stream", "wire")

    def __init__(
        self,
        position: int,
        stream: Stream | None,
        wire: int,
        body: int,
        ends: bool,
        record: Record | None = None,
    ) -> None:
        self.position = position
        self.stream = stream
        self.wire = wire
        self.body = body
        self.ends = ends
        self.record = record


UNNAMED = b"\0"
"""What no request has as its host."""


class Session:
    """See halfsync.pump.connection.Multiplexing."""

    __slots__ = (
        "admitted",
        "announced_until",
        "block_since",
        "checked_at",
        "closing",
        "controls",
        "framed",
        "marks",
        "moved",
        "progress_at",
        "ready",
        "shut",
        "streams",
        "taken",
        "timed",
        "wire",
    )

    def __init__(self, wire: Http2Connection) -> None:
        self.wire = wire
        self.admitted: bytes | None = None
        """The host of the last request that was admitted, or UNNAMED; None: requests for all hosts are (see
        Http2.look_at_hosts)."""
        self.streams: dict[Stream, None] = {}
        self.ready: dict[Stream, None] = {}  # have something to send
        self.shut: dict[Stream, None] = {}  # the same, and a window keeps it back
        self.framed = 0  # bytes that were put on the connection's queue, in all
        self.marks: deque[TakenMark] = deque()
        self.controls = 0  # frames of the protocol's own on the queue, since it was empty
        self.closing = Closing.NO
        self.announced_until = 0.0  # if ANNOUNCED
        self.block_since = 0.0  # when the header block began that is not whole; 0: there is none
        # What the sweep saw last (see timeouts.py)
        self.moved = 0  # bytes of the connection when it began to have something unsent
        self.taken = 0  # of those behind
        self.progress_at = 0.0
        self.checked_at = 0.0
        self.timed = 0.0

    @property
    def is_idle(self) -> bool:
        return not self.streams and not self.marks

    def closed(self, reason: CloseReason) -> tuple[list[Connection], list[Record]]:
        unsent = [mark.record for mark in self.marks if mark.record is not None]
        self.marks.clear()
        records = [(*one[:3], one[3], 0, 0, *one[6:9], int(reason), one[10]) for one in unsent]
        return list(self.streams), records

    def most_urgent(self) -> Stream:
        """Of those that are ready, whose turn it is. (There is one.)"""
        ready = self.ready
        if len(ready) == 1:
            return next(iter(ready))
        return min(ready, key=_urgency)


def _urgency(stream: Stream) -> int:
    return stream.state_of.urgency


class Closing:
    """How far a connection is with its end."""

    NO = 0
    ANNOUNCED = 1  # the client was told that no further streams are wanted
    LAST = 2  # no further streams are served; when those that are open have ended, it is closed
    FAILED = 3  # nothing more is served


class StreamPlace:
    """One of a connection's streams, which stays taken while this lives."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Http2Connection) -> None:
        self._wire = wire
        wire.pending_resets += 1

    def __del__(self) -> None:
        self._wire.pending_resets -= 1


def set_priority(state: StreamState, head: RequestHead) -> None:
    """As the request's own field says (RFC 9218 section 5)."""
    raw = head.raw
    start = raw.find(b"\r\npriority: ")
    if start >= 0:
        state.urgency, state.incremental = priority_of(raw[start + 12 : raw.index(b"\r\n", start + 12)])


_CODES = {
    CloseReason.CLIENT_DISCONNECTED: ErrorCode.CANCEL,
    CloseReason.STREAM_RESET: ErrorCode.CANCEL,
    CloseReason.SEND_TIMEOUT: ErrorCode.CANCEL,
    CloseReason.SEND_TOO_SLOW: ErrorCode.CANCEL,
    CloseReason.CUT_OFF: ErrorCode.CANCEL,
}
"""What a stream is reset with; INTERNAL_ERROR for all other reasons."""


def stream_of(exchange: Exchange) -> Stream:
    assert isinstance(exchange.conn, Stream)
    return exchange.conn
