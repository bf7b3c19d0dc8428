"""HTTP/1.1 where something about a connection makes its requests special."""

from __future__ import annotations

from copy import copy

from halfsync.pump.connection import MORE, Connection, Exchange, Outcome
from halfsync.pump.http1 import Http1
from halfsync.pump.seen_heads import SeenHead
from halfsync.pump.states import EXCHANGE_BEGAN
from halfsync.wire.http1 import RequestHead
from halfsync.wire.refusals import Refusal


class ClosingHttp1(Http1):
    """On connections whose listening socket is no more: each is closed after its next response."""

    def _begin_exchange(self, conn: Connection, head: RequestHead, seen: SeenHead | None) -> Outcome:
        return super()._begin_exchange(conn, last_of(head), None)


def last_of(head: RequestHead) -> RequestHead:
    """The same request; but the connection will be closed after its response."""
    head = copy(head)
    head.keep_alive = head.plain = False
    return head


class ClearHttp1(Http1):
    """On connections without TLS to a socket that is for https: each request is refused."""

    def _begin_exchange(self, conn: Connection, head: RequestHead, _seen: SeenHead | None) -> Outcome:
        conn.move(EXCHANGE_BEGAN)
        conn.exchange = exchange = Exchange(conn, head, head.raw)
        place = head.host.decode("latin-1") or "..."
        self.refuse(exchange, Refusal(400, f"This port is for https: ask for https://{place}/ instead."))
        return MORE
