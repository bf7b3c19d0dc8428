"""The lines of HTTP/1.1 responses (RFC 9112 4, 6, 9.3). No I/O."""

from __future__ import annotations

import re
from functools import lru_cache

from halfsync.wire.phrases import PHRASES

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


@lru_cache(maxsize=256)
def status_line(status: int, reason: str) -> bytes:
    """Raises ValueError for what can't be one: a status that has not three digits, a reason with line
    ends or characters beyond latin-1. A status that nobody knows has an empty reason (RFC 9112 4)."""
    if not 100 <= status <= 999:
        raise ValueError(f"the status {status} is none")
    if "\r" in reason or "\n" in reason:
        raise ValueError(f"the reason {reason!r} is more than one line")
    if not reason:
        reason = PHRASES.get(status, "")
    return f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1")


BODILESS = frozenset({*range(100, 200), 204, 304})
"""RFC 9112 6.3: whatever its fields say, a response with such a status ends with its head."""


def connection_line(keep: bool, minor: int) -> bytes:
    """1.1 keeps unless told otherwise, 1.0 closes unless told otherwise (RFC 9112 9.3)."""
    if keep:
        return b"" if minor else b"Connection: keep-alive\r\n"
    return b"Connection: close\r\n"


@lru_cache(maxsize=512)
def head_start(status: int, reason: str, fields: bytes, length: int) -> bytes:
    """A head with Content-Length, up to its Date. An application's responses differ little in these."""
    return b"".join((status_line(status, reason), fields, b"Content-Length: %d\r\n" % length))


_TRAILERS = re.compile(rb"\r\nte:(?:[^\r\n]*,)?[ \t]*trailers[ \t]*(?:[,;][^\r\n]*)?\r\n", re.IGNORECASE)


def wants_trailers(head: bytes) -> bool:
    """Whether the client takes fields behind a body (`TE: trailers`)."""
    return _TRAILERS.search(head) is not None
