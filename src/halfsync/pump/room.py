"""Making room when file descriptors are short: connections that idle are closed, the oldest first."""

from __future__ import annotations

import heapq
import resource

from halfsync.logs.error import log
from halfsync.pump.clock import Clock
from halfsync.pump.closes import CloseReason
from halfsync.pump.endings import Endings
from halfsync.pump.states import IDLE

ROOM_FOR = 16
"""Idle connections that are closed at once when there is no room."""
QUIET = 10.0
"""Seconds after which a shortage is another one, which is told again."""


class Room:
    def __init__(self, clock: Clock, endings: Endings) -> None:
        self._clock = clock
        self._endings = endings
        self._quiet_at = 0.0  # when a shortage is told again

    def make(self, why: str) -> int:
        """Close some connections that idle, the oldest first; how many that were."""
        self._tell(why)
        idle = (conn for conn in self._endings.connections.values() if conn.state is IDLE)
        oldest = heapq.nsmallest(ROOM_FOR, idle, key=lambda conn: conn.deadline)
        for conn in oldest:
            self._endings.close(conn, CloseReason.DESCRIPTORS_SHORT)
        return len(oldest)

    def _tell(self, why: str) -> None:
        """Once a shortage, which is over when nothing has been short for a while."""
        now = self._clock.now
        if now >= self._quiet_at:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            count = len(self._endings.connections)
            log(
                "warning",
                f"out of file descriptors ({count} connections, limit {limit} open files): {why}. "
                "Idle connections are closed, and then clients are not accepted for now; "
                "raise the limit (ulimit -n, LimitNOFILE).",
            )
        self._quiet_at = now + QUIET
