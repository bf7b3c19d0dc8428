"""The connections on which a step may be taken.

Whoever learns something that a connection waits for says `ready(conn)`; the loop takes the steps, later in
the same turn, and nobody else does. So a step is never entered from within another one, and has one caller.
A connection that had its share of the turn says `again(conn)`: it goes on in the next one, when the
others had theirs.
"""

from __future__ import annotations

from halfsync.pump.connection import Connection


class RunQueue:
    def __init__(self) -> None:
        self._ready: dict[Connection, None] = {}  # a dictionary, for its order: each is in it once
        self._again: dict[Connection, None] = {}

    def ready(self, conn: Connection) -> None:
        """Take steps on it, later in this turn."""
        self._ready[conn] = None

    def again(self, conn: Connection) -> None:
        """Take further steps on it, in the next turn."""
        self._again[conn] = None

    @property
    def is_empty(self) -> bool:
        return not (self._again or self._ready)

    def begin_turn(self) -> None:
        """Those that had their share of the last turn have one of this."""
        if self._again:
            self._ready, self._again = self._again | self._ready, {}

    def take(self) -> list[Connection]:
        """All that are ready now, in the order in which that was said."""
        taken = list(self._ready)
        self._ready.clear()
        return taken
