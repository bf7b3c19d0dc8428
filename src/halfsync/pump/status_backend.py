"""The backend of routes that show the server itself: the status page, and health endpoints."""

from __future__ import annotations

from typing import Protocol

from halfsync.plan.plan import Fixed
from halfsync.pump.connection import Exchange
from halfsync.pump.fixed import FixedBackend
from halfsync.wire.messages import Reply
from halfsync.wire.refusals import Refusal


class Pages(Protocol):
    """What makes the responses; it knows all of the pump."""

    def respond(self, kind: str, exchange: Exchange) -> tuple[int, bytes, bytes]:
        """Status, field lines, body. Raises Refusal. `kind` is RoutePlan.shows."""


class StatusBackend(FixedBackend):
    """See Backend. A response is on its connection when `submit` returns."""

    __slots__ = ("_kind", "_shown")

    def __init__(self, kind: str, shown: Shown) -> None:
        super().__init__(b"", Fixed(200))
        self._kind = kind
        self._shown = shown

    def submit(self, exchange: Exchange) -> None:
        conn = exchange.conn
        assert conn is not None
        try:
            if self._shown.pages is None:
                raise Refusal(503, "There is nothing to show yet.", close=False)
            status, fields, body = self._shown.pages.respond(self._kind, exchange)
        except Refusal as refusal:
            conn.protocol.refuse(exchange, refusal)
            return
        fields += b"Cache-Control: no-store\r\n"
        if exchange.route is not None and exchange.route.headers is not None:
            fields = exchange.route.headers.apply(fields)
        conn.protocol.begin(exchange, Reply(0, status, "", fields, len(body)))
        conn.protocol.add(exchange, (body,))
        conn.protocol.end(exchange)


class Shown:
    """Holds the pages, which are made when all else is there."""

    def __init__(self) -> None:
        self.pages: Pages | None = None
