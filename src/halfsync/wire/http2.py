"""HTTP/2 on one connection, the server's side (RFC 9113, RFC 9218): bytes in, events out. No I/O, no clock.

Theory of operation
-------------------
`receive` takes what was read, in pieces of any size, and gives events (http2_events.py). What the protocol
itself has to answer (SETTINGS and PING acknowledged, windows opened, streams reset, GOAWAY) it adds to
`out`, whose frames are to be sent in that order. Responses are framed by `headers` and `data`, which give the
bytes to send; nobody else changes windows and states.

A stream is in `streams` from its HEADERS until both sides have closed it or either has reset it:

    open                 neither `remote_closed` nor `local_closed`
    half closed          one of them
    closed               not in `streams`, and its number is at most `last_stream`
    idle                 its number is greater

What still comes for streams that *we* reset is dropped (its windows are given back); for others that are
closed it is an error. The client's errors are of two kinds (section 5.4): one costs a stream, the other the
connection. `StreamFault` and `ConnectionFault` are raised where they are found, and handled in `receive`.

A client's header blocks are much alike. As long as none of them changes the dynamic table, the same bytes
mean the same; so what blocks meant is remembered (`known`), by all of their bytes, and by those around the
path, which clients send as a literal that enters no table. What a path's code meant is remembered for all
connections together.

Against floods there are two buckets. *Resets*: those that the client sends, and those that its errors make us
send. *Idle frames*: all that moves no request and no body: SETTINGS, PING, PRIORITY, empty DATA, frames for
closed streams, WINDOW_UPDATEs beyond what is sent, streams over the limit. Each takes so many at once and
refills with time; `receive` is told the time.
"""

from __future__ import annotations

import re

from halfsync.wire import http2_frames as frames
from halfsync.wire.hpack import Decoder, Field, HpackError
from halfsync.wire.http1 import RequestHead
from halfsync.wire.http2_control import HANDLERS
from halfsync.wire.http2_events import ConnectionFailed, DataReceived, Event, RequestReceived, StreamEnded
from halfsync.wire.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_SIZE,
    HAS_PRIORITY,
    PADDED,
    PREFACE,
    ErrorCode,
)
from halfsync.wire.http2_requests import NOT_HTTP1, Malformed, Requests, check_trailers
from halfsync.wire.http2_state import (
    MAX_SKIPPED,
    ConnectionFault,
    Http2Limits,
    Http2State,
    Limit,
    StreamFault,
    StreamState,
)
from halfsync.wire.refusals import Refusal

MAX_CONTINUATIONS = 8
"""Frames behind a HEADERS frame: with frames of full size more than twice what a head may take."""
MAX_BLOCKS = 32
MAX_KEPT_BLOCK = 256
"""Header blocks, and bytes of each, that a connection remembers: 10 KB at most."""
MAX_GROUPS = 32
"""Kinds of header blocks that a connection remembers that differ in their path alone."""


class Http2Connection(Http2State):
    """See the top of this file."""

    __slots__ = (
        "_block_stream",
        "_continuations",
        "_decoder",
        "_flags",
        "_groups",
        "_preface_left",
        "_requests",
        "_start",
        "block",
        "blocks",
        "buffer",
        "failed",
        "is_settled",
    )

    def __init__(self, requests: Requests, limits: Http2Limits) -> None:
        super().__init__(limits, requests.limits.head)
        self._requests = requests
        self._decoder = Decoder()
        self.blocks: dict[bytes, RequestHead] = {}  # what header blocks mean, if no body follows
        self._start = b""  # of blocks that are known except for their path, up to that
        self._groups: dict[bytes, dict[bytes, RequestHead]] = {}  # by what follows it: see Requests.remember
        self.buffer = b""  # of a frame that is not whole
        self._preface_left = PREFACE
        self.is_settled = False  # the client's preface is complete, SETTINGS and all
        self.block: bytes | None = None  # what has come of a header block that is not whole
        self._block_stream = 0
        self._flags = 0  # of the HEADERS frame that began it
        self._continuations = 0
        self.failed = False

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What `data`, the next bytes from the client, means; `now` in seconds."""
        events: list[Event] = []
        if self.failed:
            return events
        self.now = now
        if self.buffer:
            data = self.buffer + data
        at = 0
        try:
            if self._preface_left:
                at = self._check_preface(data)
            at = self._read_frames(data, at, events)
        except ConnectionFault as error:
            self._fail(error, events)
            return events
        self.buffer = data[at:] if at else data
        return events

    def _check_preface(self, data: bytes) -> int:
        part = data[: len(self._preface_left)]
        if not self._preface_left.startswith(part):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not the preface of HTTP/2")
        self._preface_left = self._preface_left[len(part) :]
        return len(part)

    def preface_began(self, length: int) -> None:
        """So many bytes of the preface were read by somebody else."""
        self._preface_left = PREFACE[length:]

    def _read_frames(self, data: bytes, at: int, events: list[Event]) -> int:
        """All whole frames from `at` on; where they end."""
        size = len(data)
        while size - at >= FRAME_HEADER:
            header = int.from_bytes(data[at : at + FRAME_HEADER], "big")
            length = header >> 48
            if length > FRAME_SIZE:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = at + FRAME_HEADER + length
            if end > size:
                break
            kind = header >> 40 & 0xFF
            stream_id = header & 0x7FFFFFFF
            if self.block is not None and kind != frames.CONTINUATION:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame amid a header block")
            if not self.is_settled:
                self._expect_settings(kind, header)
            handle = _HANDLERS.get(kind) or HANDLERS.get(kind)
            try:
                if handle is None:
                    self.count_idle("frames of unknown kinds")
                else:
                    handle(self, header >> 32 & 0xFF, stream_id, data[at + FRAME_HEADER : end], events)
            except StreamFault as error:
                self._reset_for(error, events)
            at = end
        return at

    def _expect_settings(self, kind: int, header: int) -> None:
        """RFC 9113 3.4."""
        if kind != frames.SETTINGS or header >> 32 & ACK:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self.is_settled = True

    def _fail(self, error: ConnectionFault, events: list[Event]) -> None:
        why = str(error)
        self.failed = True
        self.buffer = b""
        self.block = None
        self.out.append(frames.goaway(self.last_stream, error.code, why))
        events.append(ConnectionFailed(error.code, why, error.limit))

    def say_no_more(self) -> None:
        """It has failed: GOAWAY is the last frame. Streams end with the connection, with no RST_STREAM, and
        what was said since (what came before the mistake may have opened windows) is of no use."""
        self.streams.clear()
        while self.out and self.out[-1][3] != frames.GOAWAY:
            self.out.pop()

    def _reset_for(self, error: StreamFault, events: list[Event]) -> None:
        """The client's mistake. It counts as if the client had reset the stream."""
        self.count_reset()
        stream = self.streams.get(error.stream_id)
        if stream is None:
            self.remember_reset(error.stream_id)
            self.out.append(frames.rst_stream(error.stream_id, error.code))
        else:
            self.reset(stream, error.code)
        events.append(StreamEnded(stream, str(error), error.raw))

    def _on_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        data = _unpadded(payload) if flags & PADDED else payload
        self.receive_window -= size
        if self.receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        stream = self.streams.get(stream_id)
        if stream is None:
            self.check_closed(stream_id)
            self.open_connection(size)
            return
        stream.unconsumed += size
        if stream.remote_closed:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA behind the end of the stream")
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
        if stream.expected >= 0:
            stream.expected -= len(data)
            if stream.expected < 0:
                raise StreamFault(
                    stream_id, ErrorCode.PROTOCOL_ERROR, "the body is longer than content-length says"
                )
        if size != len(data):
            self.consumed(stream, size - len(data))
        if flags & END_STREAM:
            self.end_remote(stream)
        elif not data:
            self.count_idle("empty DATA frames")
        events.append(DataReceived(stream, data, bool(flags & END_STREAM)))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        if flags & (PADDED | HAS_PRIORITY):
            if flags & PADDED:
                payload = _unpadded(payload)
            if flags & HAS_PRIORITY:
                if len(payload) < 5:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without the priority it has")
                depends_on = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
                payload = payload[5:]
                if depends_on == stream_id:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        if flags & END_HEADERS:
            self._headers(flags, stream_id, payload, events)
        else:
            self._check_block(payload)
            self.block, self._block_stream, self._flags = payload, stream_id, flags
            self._continuations = 0

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if self.block is None or stream_id != self._block_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        self._continuations += 1
        if self._continuations > MAX_CONTINUATIONS or (not payload and not flags & END_HEADERS):
            why = "a header block in too many frames" if payload else "an empty CONTINUATION"
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, why, Limit.HEADERS)
        block = self.block + payload
        self._check_block(block)
        if flags & END_HEADERS:
            self.block = None
            self._headers(self._flags, stream_id, block, events)
        else:
            self.block = block

    def _check_block(self, block: bytes) -> None:
        """Before anything is decoded."""
        if len(block) > self._requests.limits.head:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {len(block)} bytes", Limit.HEADERS
            )

    def _headers(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        """A whole header block."""
        if stream_id <= self.last_stream:
            self._further_headers(flags, stream_id, block, events)
            return
        if stream_id >= self.refuses_from:
            self._decode(block)  # for the table's sake
            self.count_idle("streams behind GOAWAY")
            return
        if stream_id > self.last_stream + 2:
            self.skipped = [*self.skipped[1 - MAX_SKIPPED :], (self.last_stream + 1, stream_id - 2)]
        self.last_stream = stream_id
        if len(self.streams) + self.pending_resets >= self.limits.streams:
            self._decode(block)
            self.count_idle("streams over the limit")
            self.remember_reset(stream_id)
            self.out.append(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            return
        ended = bool(flags & END_STREAM)
        head = self.known(block) if ended else None
        refusal = None
        if head is None:
            head, refusal = self._read_head(block, stream_id, ended)
        self.streams[stream_id] = stream = StreamState(stream_id, self.stream_window, ended)
        if head.upgrades:
            stream.grows = False  # small messages in both directions, whose credit is another
        if not ended and refusal is None and head.body_size >= 0 and not head.upgrades:
            stream.expected = head.body_size
        events.append(RequestReceived(stream, head, refusal))

    def _read_head(self, block: bytes, stream_id: int, ended: bool) -> tuple[RequestHead, Refusal | None]:
        fields = self._decode(block)
        if fields is None:
            limits = self._requests.limits
            why = (
                f"The header fields are more than {limits.head} bytes (limit_request_head), or more than "
                f"{limits.fields} (limit_request_fields)."
            )
            return _unread_head(), Refusal(431, why)
        try:
            head = self._requests.head_of(fields, ended=ended)
        except Malformed as malformed:
            raw = _unread_head(fields).raw
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(malformed), raw) from None
        except Refusal as refusal:
            return _unread_head(fields), refusal
        if ended and not self._decoder.inserted and len(block) <= MAX_KEPT_BLOCK:
            self._remember(block, head)
        return head, None

    def known(self, block: bytes) -> RequestHead | None:
        """The head that a block means which no body follows, if a block like it came before."""
        head = self.blocks.get(block)
        start = self._start
        if head is not None or not start or not block.startswith(start):
            return head
        at = len(start)
        end = at + 1 + (block[at] & 0x7F) if at < len(block) else at
        group = self._groups.get(block[end:])
        return None if group is None else group.get(block[at:end])

    def _remember(self, block: bytes, head: RequestHead) -> None:
        if len(self.blocks) >= MAX_BLOCKS:
            self.blocks.clear()
        self.blocks[block] = head
        at = self._decoder.path_at
        size = block[at] & 0x7F
        if not at or size == 0x7F:  # its path is in a table, or long
            return
        end = at + 1 + size
        if self._start != block[:at] or len(self._groups) >= MAX_GROUPS:
            self._start = block[:at]
            self._groups = {}
        self._groups[block[end:]] = self._requests.remember(head, block[at:end])

    def _decode(self, block: bytes) -> list[Field] | None:
        limits = self._requests.limits
        try:
            fields = self._decoder.decode(block, limits.head, self._requests.max_fields)
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        if self._decoder.inserted and self.blocks:
            self.blocks.clear()
            self._start = b""
            self._groups = {}
        return fields

    def _further_headers(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        """Trailers; or too late."""
        stream = self.streams.get(stream_id)
        fields = self._decode(block)
        if stream is None:
            self.check_closed(stream_id)
            return
        if stream.remote_closed:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS behind the end of the stream")
        if not flags & END_STREAM:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "trailers that do not end the stream")
        try:
            check_trailers(fields or [])
        except Malformed as malformed:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(malformed)) from None
        self.end_remote(stream)
        events.append(DataReceived(stream, b"", True))


def _unpadded(payload: bytes) -> bytes:
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its length")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - padding]


def _unread_head(fields: list[Field] | None = None) -> RequestHead:
    """What is shown of a request that is refused: its request line, as far as it is one."""
    named = {name: _LINE_ENDS.sub(b"?", value) for name, value, _ in fields or () if name in _SHOWN}
    shown = b"%b %b HTTP/2.0\r\n" % (named.get(b":method", b"-")[:32], named.get(b":path", b"-")[:512])
    return RequestHead(shown, b"", b"", NOT_HTTP1)


_SHOWN = (b":method", b":path")
_LINE_ENDS = re.compile(rb"[\r\n\0 ]")

_HANDLERS = {
    frames.DATA: Http2Connection._on_data,
    frames.HEADERS: Http2Connection._on_headers,
    frames.CONTINUATION: Http2Connection._on_continuation,
}
