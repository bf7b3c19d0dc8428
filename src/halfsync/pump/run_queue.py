"""The connections on which a step may be taken.

Whoever learns something that a connection waits for says `ready(conn)`; the loop takes the steps, later in
the same turn, and nobody else does. So a step is never entered from within another one, and has one caller.
A connection that had its share of the turn says `again(conn)`: it goes on in a later one, when the
others had theirs. Those that wait so are served in their order, and only for a bounded time a turn (see
`Pump._take_shares`).
"""

from __future__ import annotations

from halfsync.pump.connection import Connection
from halfsync.pump.states import IDLE


class RunQueue:
    """`due`: those that are ready in this turn; `later`: those that had their share of it; `carried`: those
    that wait for another share since an earlier turn, the longest first. (Dictionaries, for their order:
    each connection is in them once.)"""

    def __init__(self) -> None:
        self.due: dict[Connection, None] = {}
        self.later: dict[Connection, None] = {}
        self.carried: dict[Connection, None] = {}

    def ready(self, conn: Connection) -> None:
        """Take steps on it, later in this turn."""
        self.due[conn] = None

    def again(self, conn: Connection) -> None:
        """Take further steps on it, in a later turn."""
        self.later[conn] = None

    @property
    def is_empty(self) -> bool:
        return not (self.later or self.due or self.carried)

    def begin_turn(self) -> None:
        """Those that had their share of the last turn wait for another."""
        self.carried |= self.later
        self.later = {}

    def take(self) -> list[Connection]:
        """All that are ready now and do not wait for a share, in the order in which that was said. One in
        IDLE never waits when it is ready: the loop has just read a part of a request, and would put the next
        part that it reads in its place."""
        carried, later = self.carried, self.later
        if not (carried or later):
            taken = list(self.due)
        else:
            # (Over TLS a read that leaves something says `ready`, in the midst of a share.)
            taken = [
                conn for conn in self.due if conn not in later and (conn not in carried or conn.state is IDLE)
            ]
            for conn in taken:
                carried.pop(conn, None)
        self.due.clear()
        return taken

    def take_carried(self) -> Connection | None:
        """The one that waits longest for another share."""
        for conn in self.carried:
            del self.carried[conn]
            return conn
        return None
