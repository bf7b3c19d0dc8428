"""What is decided about a request before it goes anywhere. The same for every protocol.

In this order: does a lease have its response? Is it for the server itself? Which route is it for? Then, when
all of it is here, it goes to the route's backend.
"""

from __future__ import annotations

from halfsync.pump.changing import ChangingFiles
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Connection, Exchange
from halfsync.pump.leases.leased import Leased
from halfsync.pump.leases.leases import Leases
from halfsync.pump.request_ids import RequestIds
from halfsync.pump.routes import Sites
from halfsync.pump.tls.challenges import ShownChallenges
from halfsync.pump.traces import Traces
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.scoreboard.counts import LEASE_SLOW_HITS
from halfsync.wire.http1 import RequestHead
from halfsync.wire.http2_requests import NOT_HTTP1
from halfsync.wire.messages import Reply
from halfsync.wire.refusals import ALLOWED, Refusal, ServerOptions
from halfsync.wire.websocket_handshake import asks_for_websocket

SERVER_OPTIONS = Leased(Reply(0, 200, "OK", f"Allow: {ALLOWED}\r\n".encode(), 0))
"""The response to `OPTIONS *`."""


class Admission:
    def __init__(
        self,
        clock: Clock,
        leases: Leases,
        changing: ChangingFiles,
        sites: Sites,
        challenges: ShownChallenges,
        websockets: WebSockets,
    ) -> None:
        self._challenges = challenges
        self._clock = clock
        self._changing = changing
        self._leases = leases
        self._sites = sites
        self._websockets = websockets
        self.request_ids: RequestIds | None = None
        self.traces: Traces | None = None

    def admit(self, exchange: Exchange) -> None:
        """Respond by ourselves, or find the route and, if the request has no body, submit it. Raises
        Refusal."""
        if self.traces is not None:
            self.traces.begin(exchange)
        if self.request_ids is not None:  # it comes last, where workers look for it
            self.request_ids.name(exchange)
        head = exchange.head
        conn = exchange.conn
        assert conn is not None
        if head.body_size == 0 and not head.upgrades:
            if self._leases.table and self._answer_from_lease(conn, exchange, head):
                return
            if self._challenges.texts and (shown := self._challenges.response(head.target)) is not None:
                conn.protocol.repeat(exchange, shown)
                return
        if head.target == b"*":
            if head.body_size:
                raise ServerOptions
            conn.protocol.repeat(exchange, SERVER_OPTIONS)
            return
        self.find_route(exchange)
        assert exchange.route is not None
        if exchange.route.backend.takes_websockets:
            if asks_for_websocket(head):
                self._websockets.offer(exchange)
        elif head.upgrades and head.minor == NOT_HTTP1:
            raise Refusal(501, "No WebSockets are served under this path.", close=False)
        if head.body_size == 0:
            self.submit(exchange)

    def find_route(self, exchange: Exchange) -> None:
        """Raises Refusal if there is none, or none for this client."""
        conn, head = exchange.conn, exchange.head
        assert conn is not None
        exchange.route = route = self._sites.find(conn.origin.listener, head.host, head.target)
        if route is None:
            raise Refusal(404, "Nothing is served under this path.", close=head.body_size != 0)
        if route.access is not None:
            route.access.check(exchange, self._clock.now)

    def submit(self, exchange: Exchange) -> None:
        """Of the request all is here: give it to its backend."""
        assert exchange.conn is not None
        assert exchange.route is not None
        exchange.conn.deadline = NEVER  # the queue has its own limit, by age
        exchange.route.backend.submit(exchange)

    def _answer_from_lease(self, conn: Connection, exchange: Exchange, head: RequestHead) -> bool:
        origin = conn.origin
        leased = self._leases.find(head, origin.listener, has_certificate=origin.has_certificate)
        now = self._clock.now
        if leased is None or now >= leased.expires:
            return False
        if now >= leased.renew_at:
            leased.renew_at = leased.expires  # this request asks for a new lease, for all
            exchange.renew(leased)
            return False
        if leased.stamp is not None and not self._changing.may_repeat(leased):
            self._leases.end_of_target(head, origin.listener)
            return False
        if exchange.is_marked:
            pass  # no other one is like it
        elif head.keep_alive and head.minor == 1:
            if leased.until <= now:
                leased.refresh(self._clock)
            self._leases.remember(head.raw, origin.listener, leased)
        elif head.closes or (not head.minor and b"onnection:" not in head.raw):
            self._leases.remember_last(head.raw, origin.listener, leased)
        self._leases.words[LEASE_SLOW_HITS] += 1
        conn.protocol.repeat(exchange, leased)
        return True
