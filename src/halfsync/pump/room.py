"""Making room when file descriptors are short: connections on which nothing is in flight are closed.

First those that wait for their next request, the oldest first. Then those whose client reads nothing more
(it has its last response), and those on which no request has come, or only a part of its headers, for longer
than most take: under a shortage, head_timeout would leave the server to clients who connect and say nothing.
"""

from __future__ import annotations

import heapq
import resource
from collections.abc import Callable

from halfsync.logs.error import log
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Connection
from halfsync.pump.endings import Endings
from halfsync.pump.states import FRESH, HEAD, LINGERING
from halfsync.wire.closes import CloseReason

ROOM_FOR = 16
"""Connections that are closed at once when there is no room."""
SILENT = 0.5
"""Seconds for which a client that has just connected may send nothing, while others wait for its descriptor.
(Of 500 who say nothing, twenty at a time, the last is gone after 12 s.)"""
PART_OF_HEAD = 1.0
"""Seconds that headers may take to come, likewise."""
QUIET = 10.0
"""Seconds after which a shortage is another one, which is told again."""


class Room:
    head_timeout = 0.0  # the acceptor's

    def __init__(self, clock: Clock, endings: Endings) -> None:
        self._clock = clock
        self._endings = endings
        self._quiet_at = 0.0  # when a shortage is told again

    def make(self, why: str) -> int:
        """Close some connections on which nothing is in flight; how many that were."""
        self._tell(why)
        found = self._oldest(_is_idle) or self._oldest(self._is_overdue)
        for conn in found:
            self._endings.close(conn, CloseReason.DESCRIPTORS_SHORT)
        return len(found)

    def _oldest(self, matches: Callable[[Connection], bool]) -> list[Connection]:
        connections = filter(matches, self._endings.connections.values())
        return heapq.nsmallest(ROOM_FOR, connections, key=lambda conn: conn.deadline)

    def _is_overdue(self, conn: Connection) -> bool:
        state = conn.state
        waited = self._clock.now - (conn.deadline - self.head_timeout)
        return (
            state is LINGERING
            or (state is FRESH and waited > SILENT)
            or (state is HEAD and waited > PART_OF_HEAD)
        )

    def _tell(self, why: str) -> None:
        """Once a shortage, which is over when nothing has been short for a while."""
        now = self._clock.now
        if now >= self._quiet_at:
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            count = len(self._endings.connections)
            log(
                "warning",
                f"out of file descriptors ({count} connections, limit {limit} open files): {why}. "
                "Connections without a request are closed, and then clients are not accepted for now; "
                "raise the limit (ulimit -n, LimitNOFILE).",
            )
        self._quiet_at = now + QUIET


def _is_idle(conn: Connection) -> bool:
    return conn.is_idle
