"""Tells in the error log what HTTP/2 clients do wrong, and which limit they broke."""

from __future__ import annotations

from halfsync.pump.connection import Connection
from halfsync.pump.quiet_log import QuietLog
from halfsync.wire.closes import CloseReason
from halfsync.wire.http2_events import ConnectionFailed
from halfsync.wire.http2_state import Limit

_REASONS = {
    Limit.NONE: CloseReason.HTTP2_ERROR,
    Limit.RESETS: CloseReason.TOO_MANY_RESETS,
    Limit.IDLE_FRAMES: CloseReason.TOO_MANY_IDLE_FRAMES,
    Limit.HEADERS: CloseReason.HEADER_BLOCK_TOO_LARGE,
}


def reason_of(limit: Limit) -> CloseReason:
    return _REASONS[limit]


class FaultLog:
    def __init__(self) -> None:
        self._log = QuietLog()

    def connection(self, conn: Connection, failed: ConnectionFailed, now: float) -> None:
        """A connection is closed for it."""
        setting = f" ({failed.limit.value})" if failed.limit.value else ""
        level = "warning" if setting else "info"
        self._log.say(
            level,
            f"HTTP/2 connection of {conn.origin} closed ({failed.code.name}): {failed.why}{setting}.",
            now,
        )

    def stream(self, conn: Connection, why: str, now: float) -> None:
        """A stream is reset for it."""
        self._log.say("info", f"HTTP/2 request of {conn.origin} refused: {why}.", now)
