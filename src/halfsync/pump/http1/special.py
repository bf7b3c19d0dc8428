"""HTTP/1.1 where something about a connection makes its requests special."""

from __future__ import annotations

from copy import copy
from urllib.parse import quote_from_bytes

from halfsync.http.hosts import name_of
from halfsync.pump.connection import MORE, Connection, Outcome, new_exchange
from halfsync.pump.http1.protocol import Http1
from halfsync.pump.http1.seen_heads import SeenHead
from halfsync.pump.routes import SAFE, target_parts
from halfsync.pump.states import EXCHANGE_BEGAN
from halfsync.pump.tls.challenges import ShownChallenges
from halfsync.pump.tls.handshakes import Handshakes
from halfsync.pump.tls.transport import TLSTransport
from halfsync.wire.http1 import RequestHead
from halfsync.wire.refusals import OfServer, Redirection, Refusal

RETRY_AFTER = 5
"""Seconds until a client that has too many connections should try again."""


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
        conn.exchange = exchange = new_exchange(conn, head, head.raw)
        place = head.host.decode("latin-1") or "..."
        sentence = f"This port is for https: ask for https://{place}/ instead."
        self.refuse(exchange, OfServer(400, sentence, reason="https_only"))
        return MORE


class LimitedHttp1(Http1):
    """On connections that are too many for one client (`client_connections`)."""

    def _begin_exchange(self, conn: Connection, head: RequestHead, _seen: SeenHead | None) -> Outcome:
        conn.move(EXCHANGE_BEGAN)
        conn.exchange = exchange = new_exchange(conn, head, head.raw)
        sentence = "There are too many connections from your address. Please close some."
        self.refuse(exchange, OfServer(429, sentence, retry_after=RETRY_AFTER, reason="client_connections"))
        return MORE


class RedirectingHttp1(Http1):
    """On connections without TLS, where all that is served is served over TLS (`redirect_http`)."""

    port = 443
    challenges: ShownChallenges

    def _begin_exchange(self, conn: Connection, head: RequestHead, _seen: SeenHead | None) -> Outcome:
        conn.move(EXCHANGE_BEGAN)
        conn.exchange = exchange = new_exchange(conn, head, head.raw)
        if not head.body_size and (shown := self.challenges.response(head.target)) is not None:
            self.repeat(exchange, shown)
            return MORE
        self.refuse(exchange, self._redirection(head))
        return MORE

    def _redirection(self, head: RequestHead) -> Refusal:
        has_body = head.body_size != 0
        host = name_of(head.host).decode("latin-1")
        if not host:
            return OfServer(
                400, "This address redirects to https, but the request names no host.", close=has_body
            )
        place = f"https://{host}" + ("" if self.port == 443 else f":{self.port}")
        path, query = target_parts(head.target)
        # What can't stand in an address (RFC 3986) is escaped.
        target = quote_from_bytes(path, SAFE) + quote_from_bytes(query, SAFE + "?")
        return Redirection(301 if head.method in (b"GET", b"HEAD") else 308, place + target, close=has_body)


class GuardedHttp1(Http1):
    """With TLS, where a site asks for client certificates or a newer version, and another does not. A request
    for a host of that site may not come on a connection that was made with the name of another: the rules of
    a site are looked at in the handshake."""

    handshakes: Handshakes

    def _begin_exchange(self, conn: Connection, head: RequestHead, seen: SeenHead | None) -> Outcome:
        transport = conn.transport
        met = transport.terms if isinstance(transport, TLSTransport) else None
        if self.handshakes.contexts.admits(conn.origin.listener, met, head.host):
            return super()._begin_exchange(conn, head, seen)
        conn.move(EXCHANGE_BEGAN)
        conn.exchange = exchange = new_exchange(conn, head, head.raw)
        sentence = "This host must be requested on a connection made with its own name (SNI)."
        self.refuse(exchange, Refusal(421, sentence))
        return MORE


class ClosingGuardedHttp1(ClosingHttp1, GuardedHttp1):
    """Both."""
