"""Why a connection, or a response on it, ended: one table with text and whether it is an error.

The value goes into log records (`LogRecord.ending`), so it is part of the seam.
"""

from __future__ import annotations

from enum import IntEnum


class CloseReason(IntEnum):
    KEPT = 0
    ANSWERED = 1
    CLIENT_CLOSED = 2
    KEEP_ALIVE_TIMEOUT = 3
    DRAINING = 4
    DESCRIPTORS_SHORT = 5
    LINGER_TIMEOUT = 6
    CLIENT_DISCONNECTED = 7
    HEAD_TIMEOUT = 8
    BODY_TIMEOUT = 9
    BODY_TOO_SLOW = 10
    SEND_TIMEOUT = 11
    SEND_TOO_SLOW = 12
    REFUSED = 13
    REPLY_CUT_SHORT = 14
    WORKER_DIED = 15
    FILE_SHRANK = 16
    INTERNAL_ERROR = 17
    CUT_OFF = 18
    STREAM_TIMEOUT = 19
    FILE_CHANGED = 20
    BODY_NOT_READ = 21
    TUNNEL_ENDED = 22
    TUNNEL_TIMEOUT = 23
    HANDSHAKE_TIMEOUT = 26
    HANDSHAKE_FAILED = 27
    STREAM_RESET = 28
    HTTP2_ERROR = 29
    TOO_MANY_RESETS = 30
    TOO_MANY_IDLE_FRAMES = 31
    HEADER_BLOCK_TOO_LARGE = 32
    HANDSHAKES_FULL = 33
    BAD_PROXY_HEADER = 40
    WEBSOCKET_CLOSED = 50
    WEBSOCKET_FAILED = 51
    PING_TIMEOUT = 52

    @property
    def text(self) -> str:
        return _TABLE[self][0]

    @property
    def is_error(self) -> bool:
        """Whether the client, or what it asked for, got less than it should."""
        return _TABLE[self][1]


def name_of(number: int) -> str:
    """As the access log has it. A version before an upgrade may have counted others."""
    try:
        return CloseReason(number).name.lower()
    except ValueError:
        return "other"


_TABLE: dict[CloseReason, tuple[str, bool]] = {
    CloseReason.KEPT: ("not closed: the connection is kept for the next request", False),
    CloseReason.ANSWERED: ("complete, and the client or the response asked for a close", False),
    CloseReason.CLIENT_CLOSED: ("the client closed between requests", False),
    CloseReason.KEEP_ALIVE_TIMEOUT: ("no further request came within keep_alive", False),
    CloseReason.DRAINING: ("the server is stopping", False),
    CloseReason.DESCRIPTORS_SHORT: ("without a request, and its descriptor was needed", False),
    CloseReason.LINGER_TIMEOUT: (
        "the client did not close within linger_timeout after the last response",
        False,
    ),
    CloseReason.CLIENT_DISCONNECTED: (
        "the client disconnected before its request or its response was complete",
        True,
    ),
    CloseReason.HEAD_TIMEOUT: ("the headers were not complete within head_timeout", True),
    CloseReason.BODY_TIMEOUT: ("nothing of the body came within body_timeout", True),
    CloseReason.BODY_TOO_SLOW: ("the body came slower than min_rate", True),
    CloseReason.SEND_TIMEOUT: ("the client read nothing of the response within send_timeout", True),
    CloseReason.SEND_TOO_SLOW: ("the client read the response slower than min_rate", True),
    CloseReason.REFUSED: ("the request was refused and where the next one begins is not certain", True),
    CloseReason.REPLY_CUT_SHORT: ("the handler did not deliver the complete body", True),
    CloseReason.WORKER_DIED: ("the worker died after the response had started", True),
    CloseReason.FILE_SHRANK: ("the file became shorter while it was sent", True),
    CloseReason.FILE_CHANGED: ("the file was written into while it was sent", True),
    CloseReason.INTERNAL_ERROR: ("an internal error of the server", True),
    CloseReason.STREAM_TIMEOUT: ("the handler gave nothing more within stream_timeout", True),
    CloseReason.BODY_NOT_READ: ("complete, before all of the request's body had come", False),
    CloseReason.TUNNEL_ENDED: ("both ways of the tunnel were ended", False),
    CloseReason.TUNNEL_TIMEOUT: ("nothing went through the tunnel within tunnel_timeout", True),
    CloseReason.HANDSHAKE_TIMEOUT: (
        "the TLS handshake, or the PROXY header before it, was not complete within handshake_timeout",
        True,
    ),
    CloseReason.HANDSHAKES_FULL: (
        "its TLS handshake was half open for a second or longer, and max_handshakes were under way",
        True,
    ),
    CloseReason.HANDSHAKE_FAILED: ("the TLS handshake failed", True),
    CloseReason.STREAM_RESET: ("the client reset the HTTP/2 stream before its response was complete", True),
    CloseReason.HTTP2_ERROR: ("the client broke the rules of HTTP/2", True),
    CloseReason.TOO_MANY_RESETS: ("more HTTP/2 streams were reset than http2_max_resets lets", True),
    CloseReason.TOO_MANY_IDLE_FRAMES: (
        "the client sent more HTTP/2 frames without a request or body than http2_max_idle_frames lets",
        True,
    ),
    CloseReason.HEADER_BLOCK_TOO_LARGE: (
        "an HTTP/2 header block was larger than limit_request_head, or in too many frames",
        True,
    ),
    CloseReason.BAD_PROXY_HEADER: (
        "where proxy_protocol is on, it did not begin with a good PROXY header from forwarded_allow_ips",
        True,
    ),
    CloseReason.WEBSOCKET_CLOSED: ("the WebSocket was closed, by either side", False),
    CloseReason.WEBSOCKET_FAILED: (
        "the client broke the rules of WebSocket, or sent a message larger than ws_max_size",
        True,
    ),
    CloseReason.PING_TIMEOUT: ("the client of a WebSocket did not answer a Ping in ws_ping_timeout", True),
    CloseReason.CUT_OFF: ("the server stopped, and graceful_timeout was over", True),
}

KEPT = CloseReason.KEPT  # by name, because every request needs it (see states.py)
