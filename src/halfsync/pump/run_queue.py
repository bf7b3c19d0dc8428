"""The connections on which a step may be taken.

Whoever learns something that a connection waits for says `ready(conn)`; the loop takes the steps, later in
the same turn, and nobody else does. So a step is never entered from within another one, and has one caller.
A connection that had its share of the turn says `again(conn)`: it goes on in the next one, when the
others had theirs.
"""

from __future__ import annotations

from halfsync.pump.connection import Connection


class RunQueue:
    """`due`: those that are ready in this turn; `later`: those that go on in the next. (Dictionaries, for
    their order: each connection is in them once.)"""

    def __init__(self) -> None:
        self.due: dict[Connection, None] = {}
        self.later: dict[Connection, None] = {}

    def ready(self, conn: Connection) -> None:
        """Take steps on it, later in this turn."""
        self.due[conn] = None

    def again(self, conn: Connection) -> None:
        """Take further steps on it, in the next turn."""
        self.later[conn] = None

    @property
    def is_empty(self) -> bool:
        return not (self.later or self.due)

    def begin_turn(self) -> None:
        """Those that had their share of the last turn have one of this."""
        self.due, self.later = self.later | self.due, {}

    def take(self) -> list[Connection]:
        """All that are ready now, in the order in which that was said."""
        taken = list(self.due)
        self.due.clear()
        return taken
