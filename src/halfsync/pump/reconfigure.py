"""Another plan in a running pump: made ready beside the one in effect, then switched to in one step.

What a client has going on is not touched by it:

 - A request that a worker has is served by that worker, under its old route.
 - One that waits in a queue, or whose body is still coming, goes where the new routes say; and so does one
   that an old worker gives back.
 - A listening socket that is new is accepted on from the switch on. One that is removed is closed when all
   who have connected there are accepted; their connections are closed after the next response.
 - Connections stay. The limits and timeouts that count for them are the new ones, from their next use on.
"""

from __future__ import annotations

import os
import socket

from halfsync.logs import error
from halfsync.logs.formats import needs_cookie, needs_site, needs_times
from halfsync.plan import codec as plan_codec
from halfsync.plan.plan import Plan
from halfsync.pump.connection import Connection, Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.http1.protocol import limits_of
from halfsync.pump.http1.special import last_of
from halfsync.pump.leases.known_heads import MAX_CUT_HEAD, KnownHeads
from halfsync.pump.loop import Pump
from halfsync.pump.request_ids import request_ids_of
from halfsync.pump.states import HANDSHAKE, QUEUED, RECEIVING
from halfsync.pump.tls.contexts import Contexts
from halfsync.pump.tls.transport import TLSTransport
from halfsync.pump.traces import traces_of
from halfsync.wire.orders import Configure
from halfsync.wire.refusals import Refusal


class PlanChange:
    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._ready: Plan | None = None
        self._contexts: Contexts | None = None
        pump.pools.tasks.reroute = self._reroute
        pump.handshakes.close_soon = self._close_after_next_response

    def get_ready(self, order: Configure, fds: list[Descriptor]) -> None:
        """Raises OSError."""
        self._drop()
        file, *others = fds
        certificates = others.pop(0) if order.has_certificates else None
        sockets: dict[int, socket.socket] = {}
        for index, descriptor in zip(order.listeners, others, strict=True):
            sockets[index] = socket.socket(fileno=os.dup(descriptor.fd))
        data = os.pread(file.fd, os.fstat(file.fd).st_size, 0)
        here = {i: one.socket for i, one in enumerate(self._pump.plan.listeners) if not one.is_removed}
        fd = -1 if certificates is None else certificates.fd
        plan = plan_codec.decode(data, {**here, **sockets}, fd)
        present = self._pump.handshakes.contexts
        protocols = list(self._pump.protocols(plan.settings))
        if plan.certificates == self._pump.plan.certificates and protocols == present.protocols:
            self._contexts = present  # clients can resume their sessions
        else:
            self._contexts = Contexts(plan, protocols)
        self._pump.acceptor.expect(plan)
        self._ready = plan

    def switch_over(self, number: int) -> None:
        plan = self._ready
        if plan is None or plan.number != number or self._pump.draining.is_on:
            self._drop()
            return
        self._ready = None
        self._switch(plan)

    def _drop(self) -> None:
        """What will not be in effect."""
        if self._ready is None:
            return
        here = [one.socket for one in self._pump.plan.listeners]
        for listener in self._ready.listeners:
            if listener.socket not in here:
                listener.socket.close()
        self._ready = None
        self._pump.acceptor.expect(self._pump.plan)

    def _switch(self, plan: Plan) -> None:
        pump = self._pump
        settings = plan.settings
        error.be("pump", settings.log_level, settings.log_format)
        pump.pools.hand_over_records()  # to whoever knows the old log
        pump.plan, pump.settings, pump.switched_at = plan, settings, pump.clock.now
        pump.access.enabled = settings.access_logfile is not None or settings.traces
        pump.endings.log_times = needs_times(settings.access_logformat) or settings.traces
        pump.endings.log_cookies = needs_cookie(settings.access_logformat)
        pump.head_limits = limits_of(settings)
        pump.leases.memory = pump.changing.memory = settings.lease_memory
        pump.leases.cut_cookies = pump.head_limits.harmless >= MAX_CUT_HEAD
        pump.leases.forget_heads()
        pump.admission.request_ids = request_ids_of(settings)
        pump.admission.traces = traces_of(plan, os.environ)
        pump.timeouts.configure(settings)
        pump.handshakes.head_timeout = settings.head_timeout
        pump.handshakes.half_open.most = settings.max_handshakes
        pump.proxy_headers.configure(settings)
        if self._contexts is not None:
            if self._contexts is not pump.handshakes.contexts:
                self._contexts.replace(pump.handshakes.contexts)
            pump.handshakes.contexts = self._contexts
            self._contexts.configure(plan)
        pump.responses.configure(settings)
        pump.tunnels.timeout = settings.tunnel_timeout
        pump.websockets.configure(settings)
        for protocol in (
            pump.http1,
            pump.closing_http1,
            pump.clear_http1,
            pump.guarded_http1,
            pump.closing_guarded_http1,
            pump.redirecting_http1,
            pump.limited_http1,
        ):
            protocol.configure(settings)
        pump.http2.configure(settings, pump.head_limits)
        pump.let_http2_begin(settings)
        pump.handshakes.speak(pump.protocols(settings))
        pump.http1.spool_space.limit = settings.spool_limit
        waiting = pump.pools.configure(plan)
        pump.sites.replace(plan, pump.pools.routes)
        pump.own_responses.configure(plan)
        pump.acceptor.configure(plan)
        pump.handshakes.removed = {index for index, one in enumerate(plan.listeners) if one.is_removed}
        logs_sites = needs_site(settings.access_logformat)
        guards = pump.handshakes.contexts.has_guarded
        for conn in list(pump.connections.values()):
            conn.origin.log_site(logs_sites)
            if conn.origin.listener in pump.acceptor.redirected and conn.protocol is pump.http1:
                conn.protocol = pump.redirecting_http1
                conn.known = KnownHeads(read_at_once=False)
            if guards and conn.protocol is pump.http1 and isinstance(conn.transport, TLSTransport):
                conn.protocol = pump.guarded_http1
                conn.known = KnownHeads(read_at_once=False)
            if conn.protocol is pump.http2:
                pump.http2.look_at_hosts(conn)
            if plan.listeners[conn.origin.listener].is_removed and conn.protocol is not pump.tunnels:
                self._close_after_next_response(conn)
        for conn in [*pump.connections.values(), *pump.endings.streams]:
            if conn.exchange is not None and conn.exchange.state is RECEIVING:
                self._send_elsewhere(conn.exchange)
        for exchange in waiting:
            self._reroute(exchange)
        pump.bind()

    def _close_after_next_response(self, conn: Connection) -> None:
        if conn.state is HANDSHAKE:
            return  # Handshakes sees to it at the end
        pump = self._pump
        if conn.protocol is pump.http2:
            pump.http2.close_after_next_responses(conn)
            return
        if conn.protocol is pump.http1:
            conn.protocol = pump.closing_http1
        elif conn.protocol is pump.guarded_http1:
            conn.protocol = pump.closing_guarded_http1
        else:  # it serves nothing, or closes already
            return
        conn.known = KnownHeads(read_at_once=False)  # not on the hot path
        if conn.exchange is not None:
            conn.exchange.head = last_of(conn.exchange.head)

    def _send_elsewhere(self, exchange: Exchange) -> None:
        """Its body is still coming."""
        if exchange.route is not None:
            self._finds_route(exchange)

    def _reroute(self, exchange: Exchange) -> None:
        """One that waits for a worker (QUEUED)."""
        assert exchange.state is QUEUED
        exchange.line = None
        if self._finds_route(exchange):
            self._pump.pools.queue_again(exchange)

    def _finds_route(self, exchange: Exchange) -> bool:
        """Else it gets the response that it would have got had it come later."""
        try:
            self._pump.admission.find_route(exchange)
        except Refusal as refusal:
            refusal.close = exchange.state is not QUEUED  # then all of it has been read
            self._pump.pools.tasks.refuse(exchange, refusal)
            return False
        return True
