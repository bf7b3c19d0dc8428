"""Request ids (`request_id`): taken from the request or made, and written into its header section.

From there everybody has it who gets the request: the application as a header, the access log with the rest
of its record, the error log. The response has the line that `Exchange.id_line` is.

A header section that differs in each request can't be found by its bytes, neither by the hot path nor by the
fast one. So with ids every request takes the general road; without, none of this is ever reached.
"""

from __future__ import annotations

import itertools
import re
import secrets

from halfsync.http.forwarded import Trust
from halfsync.http.request_ids import MAX_LENGTH
from halfsync.pump.connection import Exchange
from halfsync.settings.table import Settings

_LINES = re.compile(rb"\r\nX-Request-ID:[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_PROPER = re.compile(rb"[!-~]{1,%d}" % MAX_LENGTH)

_SPREAD = 0x9E3779B97F4A7C15
"""Odd, so that to multiply by it, modulo 2 to the 64th, gives each number once: ids of requests that follow
each other look unlike, and none comes twice."""
_MASK = (1 << 64) - 1


class RequestIds:
    def __init__(self, settings: Settings, trust: Trust) -> None:
        """`trust`: whose ids are taken if `request_id` is proxy."""
        self._mode = settings.request_id
        self._trust = trust
        self._prefix = secrets.token_hex(8)  # of this process
        self._numbers = itertools.count(secrets.randbits(63)).__next__

    def name(self, exchange: Exchange) -> None:
        """Give a request its id. (A request that is admitted again keeps what it has.)"""
        if exchange.id_line:
            return
        raw = exchange.raw
        given: list[bytes] = []
        if b"\r\nx-request-id:" in raw.lower():
            given = _LINES.findall(raw)
            raw = _LINES.sub(b"", raw)
        line = b"X-Request-ID: %b\r\n" % (self._taken(exchange, given) or self._made())
        exchange.raw = raw = b"%b%b\r\n" % (raw[:-2], line)
        exchange.head = exchange.head.with_raw(raw)
        exchange.logged = b""
        exchange.id_line = line

    def _taken(self, exchange: Exchange, given: list[bytes]) -> bytes:
        """The one that came with the request; b"" if there is none, if it is none (two of them, or one that
        could break a line of a log), or if its sender is not believed."""
        if len(given) != 1 or self._mode == "own" or not _PROPER.fullmatch(given[0]):
            return b""
        assert exchange.conn is not None
        if self._mode == "proxy" and not self._trust.trusts(exchange.conn.origin.client):
            return b""
        return given[0]

    def _made(self) -> bytes:
        """32 hexadecimal digits."""
        return f"{self._prefix}{self._numbers() * _SPREAD & _MASK:016x}".encode()


def request_ids_of(settings: Settings) -> RequestIds | None:
    """None: there are none."""
    if settings.request_id == "off":
        return None
    return RequestIds(settings, Trust(settings.forwarded_allow_ips, settings.forwarded_headers))
