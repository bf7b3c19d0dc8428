"""Half-open TLS handshakes: those for which OpenSSL holds memory, and whose clients have yet to say the rest.

A client that has sent a whole ClientHello costs 45 KiB until it goes on. So no more than `max_handshakes` are
under way. If there are as many, one that has kept us waiting for longer than SILENCE is ended, the oldest
first: on most networks a client needs a tenth of that. If none has, the next client waits, with its
ClientHello and nothing else. (So 1,000 a second are begun in any case, which is all that one core can do;
and whoever opens more and says nothing is ended after a second.)
"""

from __future__ import annotations

from halfsync.pump.clock import Clock
from halfsync.pump.connection import Connection
from halfsync.pump.endings import Endings
from halfsync.pump.quiet_log import QuietLog
from halfsync.pump.states import HANDSHAKE
from halfsync.wire.closes import CloseReason

SILENCE = 1.0
"""Seconds for which a client may say nothing amid its handshake, while others wait."""


class HalfOpen:
    def __init__(self, clock: Clock, endings: Endings, most: int) -> None:
        self._clock = clock
        self._endings = endings
        self.most = most
        # Until the next sweep some of both may be closed.
        self.begun: dict[Connection, float] = {}  # since when; the oldest first
        self.waiting: dict[Connection, None] = {}  # with a whole ClientHello
        self._log = QuietLog("were closed ")

    def may_begin(self, conn: Connection) -> bool:
        """Whether OpenSSL may begin with it now; if not, it waits. (`admit` says when it may.)"""
        if conn in self.begun:
            return True
        if len(self.begun) >= self.most and (self.waiting or not self._has_room()):
            self.waiting[conn] = None
            return False
        self.begun[conn] = self._clock.now
        return True

    def ended(self, conn: Connection) -> None:
        """Its handshake is done, or it is closed."""
        self.begun.pop(conn, None)
        self.waiting.pop(conn, None)

    def sweep(self) -> None:
        """Forget those that were closed elsewhere, by their time limit for one."""
        for conn in [conn for conn in (*self.begun, *self.waiting) if conn.state is not HANDSHAKE]:
            self.ended(conn)

    def admit(self) -> list[Connection]:
        """Those that have waited and may begin now."""
        found = []
        while self.waiting and self._has_room():
            conn = next(iter(self.waiting))
            del self.waiting[conn]
            if conn.state is HANDSHAKE:
                self.begun[conn] = self._clock.now
                found.append(conn)
        return found

    def _has_room(self) -> bool:
        begun = self.begun
        if len(begun) < self.most:
            return True
        now = self._clock.now
        oldest, since = next(iter(begun.items()))
        if now - since < SILENCE:
            return False
        del begun[oldest]
        if oldest.state is HANDSHAKE:
            self._log.say(
                "warning",
                f"TLS: {self.most} handshakes are under way (max_handshakes), and {oldest.origin} has left "
                f"its own half open for {now - since:.0f} s: connection closed.",
                now,
            )
            self._endings.close(oldest, CloseReason.HANDSHAKES_FULL)
        return True
