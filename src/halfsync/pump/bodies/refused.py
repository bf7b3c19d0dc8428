"""Bodies that are larger than `limit_request_body`: the response, and a word in the error log.

The client seldom knows the setting's name, and whoever does seldom sees the response: so both have it.
"""

from __future__ import annotations

from halfsync.pump.connection import Exchange
from halfsync.pump.quiet_log import QuietLog
from halfsync.wire.refusals import Refusal


class RefusedBodies:
    def __init__(self) -> None:
        self._log = QuietLog("were refused ")

    def refusal(self, exchange: Exchange, client: str, now: float) -> Refusal:
        """The refusal of this exchange's body."""
        assert exchange.route is not None
        limit = exchange.route.limits.limit_request_body
        sentence = f"The body is larger than {limit} bytes (limit_request_body)."
        self._log.say("warning", f"413 to {client} for {exchange.named}: {sentence}", now)
        return Refusal(413, sentence)
