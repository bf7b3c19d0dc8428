"""What a client's frames mean to whoever serves its requests: what `Http2Connection.receive` gives."""

from __future__ import annotations

from halfsync.wire.http1 import RequestHead
from halfsync.wire.http2_frames import ErrorCode
from halfsync.wire.http2_state import Limit, StreamState
from halfsync.wire.refusals import Refusal


class RequestReceived:
    """A request began; it is complete if its `head.body_size` is 0. With a `refusal`, that is the response,
    and `head` is what is known of the request."""

    __slots__ = ("head", "refusal", "stream")

    def __init__(self, stream: StreamState, head: RequestHead, refusal: Refusal | None = None) -> None:
        self.stream = stream
        self.head = head
        self.refusal = refusal


class DataReceived:
    """More of a request's body (maybe nothing); `last`: that was all. (`stream.remote_closed` is set when the
    frames are read, while events of earlier ones have not been looked at yet.) Say `consumed` when it is kept
    or dropped."""

    __slots__ = ("data", "last", "stream")

    def __init__(self, stream: StreamState, data: bytes, last: bool) -> None:
        self.stream = stream
        self.data = data
        self.last = last


class StreamEnded:
    """The stream is no more: the client has reset it, or broken the protocol on it (then `why` says how).
    None: it did so with its very first frame; `raw` is what is shown of that request."""

    __slots__ = ("raw", "stream", "why")

    def __init__(self, stream: StreamState | None, why: str = "", raw: bytes = b"") -> None:
        self.stream = stream
        self.why = why
        self.raw = raw


class WindowsOpened:
    """More may be sent: on one stream, or (None) on any."""

    __slots__ = ("stream",)

    def __init__(self, stream: StreamState | None) -> None:
        self.stream = stream


class PriorityChanged:
    __slots__ = ("stream",)

    def __init__(self, stream: StreamState) -> None:
        self.stream = stream


class PingAnswered:
    """The client has read what was sent before `ping`."""

    __slots__ = ()


class ClientClosing:
    """GOAWAY: it will ask for nothing more, and waits for what it has asked for."""

    __slots__ = ()


class ConnectionFailed:
    """The connection can't go on, and GOAWAY is in `out`. It is the last event."""

    __slots__ = ("code", "limit", "why")

    def __init__(self, code: ErrorCode, why: str, limit: Limit) -> None:
        self.code = code
        self.why = why
        self.limit = limit


Event = (
    RequestReceived
    | DataReceived
    | StreamEnded
    | WindowsOpened
    | PriorityChanged
    | PingAnswered
    | ClientClosing
    | ConnectionFailed
)
