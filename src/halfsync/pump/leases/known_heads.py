"""Heads that a lease has a response for, by their very bytes: what the hot path looks up."""

from __future__ import annotations

from halfsync.pump.leases.leased import Leased
from halfsync.wire.http1 import RequestHead

MAX_CUT_HEAD = 8190
"""Bytes. In a longer one the cookie may be longer than a field is allowed to be."""

_COOKIE_VALUE = bytes([9, *range(32, 127), *range(128, 256)])  # what llhttp lets stand in a value


class KnownHeads:
    """Of one listener: the same bytes at another address or scheme may be another site's request. A
    connection that may not be served on the hot path has one of its own that stays empty.

    `read_at_once`: a read of less than was wanted leaves nothing, so the fast path may take a request in."""

    __slots__ = ("http2", "last", "read_at_once", "uncookied", "whole")

    def __init__(self, *, read_at_once: bool = True) -> None:
        self.read_at_once = read_at_once
        self.whole: dict[bytes, Leased] = {}
        self.uncookied: dict[bytes, Leased] = {}  # with their Cookie line cut out (see cut_cookie)
        self.last: dict[bytes, Leased] = {}  # of requests behind which their connection is closed
        # Of HTTP/2, whose heads are the same object if they are the same; with what stands in the access log.
        self.http2: dict[RequestHead, tuple[Leased, bytes]] = {}

    def __len__(self) -> int:
        return len(self.whole) + len(self.uncookied) + len(self.last) + len(self.http2)

    def clear(self) -> None:
        self.whole.clear()
        self.uncookied.clear()
        self.last.clear()
        self.http2.clear()

    def drop_expired(self, now: float) -> None:
        for table in (self.whole, self.uncookied, self.last):
            for raw in [raw for raw, leased in table.items() if leased.expires <= now]:
                del table[raw]
        for head in [head for head, (leased, _) in self.http2.items() if leased.expires <= now]:
            del self.http2[head]


def cut_cookie(raw: bytes) -> bytes:
    """`raw` without its Cookie line; empty if it has none, or one that would not pass as a field.

    With a proper line put back in after the request line, a checked head is a checked head still.
    Not so when the line stands behind the empty line: then it is the next request's (bad) beginning.
    """
    start = raw.find(b"\r\nCookie: ")
    if start < 0:
        start = raw.find(b"\r\ncookie: ")
    if start < 0 or len(raw) > MAX_CUT_HEAD:
        return b""
    end = raw.find(b"\r\n", start + 10)
    if end < 0 or raw[start - 2 : start] == b"\r\n" or raw[start + 10 : end].translate(None, _COOKIE_VALUE):
        return b""
    return raw[:start] + raw[end:]
