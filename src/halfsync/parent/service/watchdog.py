"""The service manager's watchdog (WatchdogSec= of a unit, sd_watchdog_enabled(3)).

It is told WATCHDOG=1 while the parent's loop and the pump's loop turn: the parent asks the pump (`Ping`), and
tells the manager when that has responded (`Pong`). So a pump that hangs, which no exit would tell, is found
out, and the manager restarts the service. While there is no pump that serves, at a start and at the end, the
parent alone counts: these times have limits of their own.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from halfsync.logs.error import log
from halfsync.parent.service.systemd import Notifier
from halfsync.parent.workers.children import NEVER, Child
from halfsync.wire.orders import Ping

PER_PERIOD = 4
"""Looks in the manager's time. With two, which would do, a turn that is late would be one too many."""


class Watchdog:
    """`due`: monotonic, the next look; NEVER if nobody asks for it."""

    def __init__(self, environment: MutableMapping[str, str], notifier: Notifier) -> None:
        """Takes WATCHDOG_USEC and WATCHDOG_PID."""
        period, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._notifier = notifier
        self._interval = self.due = NEVER
        self._has_warned = False
        if not period or pid not in ("", str(os.getpid())):
            return
        if not (period.isascii() and period.isdigit() and int(period) > 0):
            log("warning", f"WATCHDOG_USEC must be a number of microseconds, not {period!r}; ignored.")
            return
        self._interval = int(period) / 1e6 / PER_PERIOD
        self.due = 0.0

    def look(self, pump: Child | None, now: float) -> None:
        if now < self.due:
            return
        self.due = now + self._interval
        if pump is None or not pump.opened or pump.drained:
            self._notifier.alive()
            return
        if pump.has_responded:
            pump.has_responded = False
            pump.order(Ping())
            self._notifier.alive()
            self._has_warned = False
        elif not self._has_warned:
            self._has_warned = True
            log(
                "error",
                f"{pump.who} does not respond, so the service manager's watchdog is told nothing.",
            )
