"""Bodies that are larger than `limit_request_body`: the response, and a word in the error log.

The client seldom knows the setting's name, and whoever does seldom sees the response: so both have it.
"""

from __future__ import annotations

from halfsync.logs.error import log
from halfsync.pump.connection import Exchange
from halfsync.wire.refusals import Refusal

QUIET = 1.0
"""Seconds between two lines: anybody can send large bodies, and the log is to stay readable."""


class RefusedBodies:
    def __init__(self) -> None:
        self._quiet_until = 0.0  # monotonic
        self._omitted = 0

    def refusal(self, exchange: Exchange, client: str, now: float) -> Refusal:
        """The refusal of this exchange's body."""
        assert exchange.route is not None
        limit = exchange.route.limits.limit_request_body
        sentence = f"The body is larger than {limit} bytes (limit_request_body)."
        if now < self._quiet_until:
            self._omitted += 1
        else:
            more = f" ({self._omitted} more were refused since the last such line.)" if self._omitted else ""
            log("warning", f"413 to {client} for {exchange.named}: {sentence}{more}")
            self._quiet_until, self._omitted = now + QUIET, 0
        return Refusal(413, sentence)
