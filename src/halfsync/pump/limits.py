"""Time limits, kept by a sweep over all connections twice a second: no timer object, no heap.

A connection's `expires` says when the sweep has to look at it; until then it costs one comparison
(30 ns: 0.6 ms a second for 10,000 connections). In BODY and SENDING it looks every second, and sees
what moved since; so neither reading nor sending keeps any time.

What a client has *taken* is not what the socket took: a client that reads 500 bytes a second may
not make room in a send buffer of megabytes for an hour. So progress in SENDING is what the peer has
acknowledged: bytes given to the socket, less what it still holds (SIOCOUTQ).
"""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import TYPE_CHECKING

from halfsync.logs.error import log
from halfsync.pump.closes import CloseReason
from halfsync.pump.connection import NEVER, Connection, Exchange
from halfsync.pump.sender import RECHECK
from halfsync.pump.states import State
from halfsync.wire.refusals import Refusal

if TYPE_CHECKING:
    from halfsync.pump.loop import Pump

SWEEP = 0.5
"""Seconds between two sweeps: how late a limit may be."""


class TimeLimits:
    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._settings = pump.settings

    def sweep(self, now: float) -> None:
        due = [conn for conn in self._pump.connections.values() if conn.expires <= now]
        for conn in due:
            if conn.expires <= now and conn.state is not State.CLOSED:
                self._expired(conn, now)

    def _expired(self, conn: Connection, now: float) -> None:
        pump = self._pump
        if conn.state is State.IDLE:
            pump.close_idle(conn, CloseReason.KEEP_ALIVE_TIMEOUT)
        elif conn.state is State.FRESH:
            pump.close(conn, CloseReason.DRAINING if pump.draining else CloseReason.HEAD_TIMEOUT)
        elif conn.state is State.LINGERING:
            pump.close(conn, CloseReason.LINGER_TIMEOUT)
        elif conn.state is State.HEAD:
            self._answer(conn, CloseReason.HEAD_TIMEOUT, "The head did not come in time.")
        elif conn.state is State.BODY:
            self._check_body(conn, now)
        elif conn.state is State.SENDING:
            self._check_sending(conn, now)
        elif conn.state is State.PRODUCING:
            self._end_stream(conn)
        else:
            conn.expires = NEVER

    def _answer(self, conn: Connection, reason: CloseReason, sentence: str) -> None:
        exchange = self._pump.exchange_of(conn)
        conn.inbox = b""
        conn.scanned = 0
        self._pump.sender.refuse(conn, Refusal(408, sentence))
        exchange.reason = reason
        self._pump.drive(conn)

    def _check_body(self, conn: Connection, now: float) -> None:
        exchange = conn.exchange
        assert exchange is not None
        if exchange.spool is not None and exchange.spool.is_behind:
            exchange.progress_at = exchange.checked_at = now  # it is the disk's turn
            conn.expires = now + RECHECK
            return
        stalled, slow = self._progress(exchange, exchange.received, self._settings.body_timeout, now)
        if stalled:
            self._answer(conn, CloseReason.BODY_TIMEOUT, "The body stopped coming.")
        elif slow:
            self._answer(conn, CloseReason.BODY_TOO_SLOW, "The body came too slowly.")
        else:
            conn.expires = now + RECHECK

    def _check_sending(self, conn: Connection, now: float) -> None:
        exchange = conn.exchange
        assert exchange is not None
        taken = exchange.wire_bytes - _unacknowledged(conn.fd)
        # An earlier answer's bytes may be in the socket still: to take those is progress too.
        exchange.queued_before = max(exchange.queued_before, -taken)
        taken += exchange.queued_before
        stalled, slow = self._progress(exchange, taken, self._settings.send_timeout, now)
        if stalled:
            self._pump.sender.abort(conn, CloseReason.SEND_TIMEOUT)
        elif slow:
            self._pump.sender.abort(conn, CloseReason.SEND_TOO_SLOW)
        else:
            conn.expires = now + RECHECK

    def _end_stream(self, conn: Connection) -> None:
        limit = self._settings.stream_timeout
        line = self._pump.exchange_of(conn).request_line
        log("warning", f"{line}: its handler gave nothing for {limit:g} s (stream_timeout): connection reset")
        self._pump.sender.abort(conn, CloseReason.STREAM_TIMEOUT)

    def _progress(self, exchange: Exchange, moved: int, limit: float, now: float) -> tuple[bool, bool]:
        """Whether nothing moved for `limit` seconds, and whether it is slower than min_rate."""
        exchange.timed += now - exchange.checked_at
        exchange.checked_at = now
        if moved > exchange.moved:
            exchange.moved = moved
            exchange.progress_at = now
        stalled = now - exchange.progress_at > limit
        grace_over = exchange.timed > self._settings.rate_grace
        return stalled, grace_over and moved < self._settings.min_rate * exchange.timed


def _unacknowledged(fd: int) -> int:
    """Bytes in the socket's send queue that the peer has not acknowledged (tcp(7), unix(7))."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0
