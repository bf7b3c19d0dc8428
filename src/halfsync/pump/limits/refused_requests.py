"""Requests that are refused because they are too large or too slow: a line of the error log for each, as the
client seldom knows the setting's name, and whoever does seldom sees the response. (Bodies that are too large:
bodies/refused.py.)"""

from __future__ import annotations

import time

from halfsync.pump.connection import Exchange
from halfsync.pump.quiet_log import QuietLog
from halfsync.wire.refusals import Refusal

LEVELS = {408: "info", 414: "warning", 431: "warning"}
"""By status. Slow clients come every day; where a request is too large, a limit may be too low."""


class RefusedRequests:
    def __init__(self) -> None:
        self._logs = {status: QuietLog("were refused ") for status in LEVELS}

    def tell(self, exchange: Exchange, refusal: Refusal) -> None:
        """Nothing, if it is refused for another reason."""
        quiet_log = self._logs.get(refusal.status)
        if quiet_log is None:
            return
        conn = exchange.conn
        assert conn is not None
        request = f" for {exchange.named}" if exchange.head.method else ""
        quiet_log.say(
            LEVELS[refusal.status],
            f"{refusal.status} to {conn.origin}{request}: {refusal.sentence}",
            time.monotonic(),
        )
