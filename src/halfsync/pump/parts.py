"""What the pump consists of, made and wired to each other. What is done with it in a turn: loop.py."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable

from halfsync.plan.plan import Plan
from halfsync.pump.acceptor import Acceptor
from halfsync.pump.access import AccessLog
from halfsync.pump.admit import Admission
from halfsync.pump.bodies.spool import SpoolSpace
from halfsync.pump.changing import ChangingFiles
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Connection, WireProtocol
from halfsync.pump.draining import Draining
from halfsync.pump.endings import Endings
from halfsync.pump.helpers import Helpers
from halfsync.pump.http1.last import LastRequests
from halfsync.pump.http1.protocol import Http1, limits_of
from halfsync.pump.http1.responses import Http1Responses
from halfsync.pump.http1.special import (
    ClearHttp1,
    ClosingGuardedHttp1,
    ClosingHttp1,
    GuardedHttp1,
    LimitedHttp1,
    RedirectingHttp1,
)
from halfsync.pump.http2.protocol import Http2
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leases.known_heads import MAX_CUT_HEAD
from halfsync.pump.leases.leases import Leases
from halfsync.pump.limits.limit_store import LimitStore
from halfsync.pump.output import Output
from halfsync.pump.own_responses import OwnResponses
from halfsync.pump.page_cache import PageCache
from halfsync.pump.poller import Poller
from halfsync.pump.pools.worker_pools import WorkerPools
from halfsync.pump.pools.workers import Worker
from halfsync.pump.proxied import ProxyHeaders
from halfsync.pump.request_ids import request_ids_of
from halfsync.pump.room import Room
from halfsync.pump.routes import Sites
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.timeouts import Timeouts
from halfsync.pump.tls.challenges import ShownChallenges
from halfsync.pump.tls.contexts import Contexts
from halfsync.pump.tls.handshakes import Handshakes
from halfsync.pump.tls.refused import RefusedClients
from halfsync.pump.traces import traces_of
from halfsync.pump.tunnel import Tunnels
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.scoreboard.counts import Counts
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.settings.table import Settings


class Parts(ABC):
    """Each is made once, and lives as long as the pump."""

    def __init__(
        self,
        plan: Plan,
        *,
        spool_folder: str,
        log_needs: tuple[bool, bool],
        report_hung: Callable[[Worker], None],
        report_interrupted: Callable[[Worker], None],
        report_lost: Callable[[Worker], None],
        scoreboard: Scoreboard | None = None,
    ) -> None:
        """`scoreboard`: None: one of its own."""
        settings = plan.settings
        self.plan = plan
        self.settings = settings
        self.switched_at = -NEVER  # monotonic: when the plan came into effect, if a reload made it
        self.errors = InternalErrors()
        self.clock = Clock()
        self.poller = Poller()
        self.run_queue = RunQueue()
        self.access = AccessLog(settings.access_logfile is not None or settings.traces)
        log_times, log_cookies = log_needs
        self.scoreboard = scoreboard or Scoreboard()
        self.endings = Endings(
            self.poller,
            self.access,
            Counts(self.scoreboard.counts, self.scoreboard.counts_before),
            log_times=log_times,
            log_cookies=log_cookies,
        )
        self.connections = self.endings.connections
        self.head_limits = limits_of(settings)
        cut_cookies = self.head_limits.harmless >= MAX_CUT_HEAD
        self.leases = Leases(
            settings.lease_memory, len(plan.listeners), self.scoreboard.counts, cut_cookies=cut_cookies
        )
        self.helpers = Helpers()
        self.page_cache = PageCache(self.helpers, self.run_queue)
        self.changing = ChangingFiles(settings.lease_memory, spool_folder)
        self.output = Output(
            self.clock,
            self.poller,
            self.run_queue,
            self.endings,
            self.errors,
            self.page_cache,
            self.changing,
        )
        self.own_responses = OwnResponses(plan)
        self.responses = Http1Responses(
            settings, self.clock, self.run_queue, self.endings, self.output, self.own_responses
        )
        self.tunnels = Tunnels(
            self.clock,
            self.poller,
            self.run_queue,
            self.endings,
            self.output,
            self.responses,
            settings.tunnel_timeout,
        )
        self.spool_space = SpoolSpace(settings.spool_limit)
        self.websockets = WebSockets(
            settings,
            self.clock,
            self.run_queue,
            self.endings,
            self.output,
            self.helpers,
            spool_folder,
            self.spool_space,
        )
        self.room = Room(self.clock, self.endings)
        self.limit_store = LimitStore(self.clock, self.poller, self.scoreboard.header[1])
        self.endings.clients.store = self.limit_store
        self.pools = WorkerPools(
            plan,
            self.clock,
            self.poller,
            self.run_queue,
            self.endings,
            self.errors,
            self.leases,
            self.access,
            self.room,
            self.responses,
            self.tunnels,
            self.websockets,
            self.scoreboard,
            self.limit_store,
            report_hung,
            report_interrupted,
            report_lost,
        )
        self.sites = Sites(plan, self.pools.routes)
        self.challenges = ShownChallenges()
        self.admission = Admission(
            self.clock, self.leases, self.changing, self.sites, self.challenges, self.websockets
        )
        self.admission.request_ids = request_ids_of(settings)
        self.admission.traces = traces_of(plan, os.environ)
        parts = (
            settings,
            self.clock,
            self.run_queue,
            self.endings,
            self.errors,
            self.output,
            self.responses,
            LastRequests(self.clock, self.endings, self.access, self.output, self.responses),
            self.admission,
            self.websockets,
            self.helpers,
            spool_folder,
            self.spool_space,
        )
        self.http1 = Http1(*parts)
        self.closing_http1 = ClosingHttp1(*parts)  # where a listening socket is no more
        self.clear_http1 = ClearHttp1(*parts)
        self.guarded_http1 = GuardedHttp1(*parts)
        self.closing_guarded_http1 = ClosingGuardedHttp1(*parts)
        self.limited_http1 = LimitedHttp1(*parts)
        self.redirecting_http1 = RedirectingHttp1(*parts)
        self.redirecting_http1.challenges = self.challenges
        self.http2 = Http2(
            settings,
            self.head_limits,
            self.clock,
            self.run_queue,
            self.endings,
            self.errors,
            self.access,
            self.output,
            self.changing,
            self.leases,
            self.admission,
            self.websockets,
            self.helpers,
            self.http1,
            self.own_responses,
            spool_folder,
        )
        self.let_http2_begin(settings)
        self.handshakes = Handshakes(
            self.clock,
            self.run_queue,
            self.endings,
            self.errors,
            Contexts(plan, tuple(self.protocols(settings))),
            self.protocols(settings),
            self.http1,
            self.clear_http1,
            self.guarded_http1,
            self.challenges,
            RefusedClients(self.clock, self.run_queue, self.endings, self.output, self.http1),
            settings.head_timeout,
            settings.max_handshakes,
        )
        for guarding in (self.guarded_http1, self.closing_guarded_http1, self.http2):
            guarding.handshakes = self.handshakes
        self.proxy_headers = ProxyHeaders(self.clock, self.endings, self.http1, settings)
        self.timeouts = Timeouts(
            settings,
            self.run_queue,
            self.endings,
            self.http1,
            self.http2,
            self.tunnels,
            self.websockets,
            self.drive,
        )
        self.acceptor = Acceptor(
            plan,
            self.clock,
            self.poller,
            self.endings,
            self.room,
            self.http1,
            self.handshakes,
            self.proxy_headers,
            self.redirecting_http1,
            self.limited_http1,
            self.leases,
            self.run_queue,
        )
        self.at_sweep: list[Callable[[], None]] = [self.limit_store.sweep]  # what else is done twice a second
        self.draining = Draining(
            self.clock,
            self.endings,
            self.access,
            self.acceptor,
            self.handshakes,
            self.responses,
            self.http2,
            self.websockets,
            self.tunnels,
            self.timeouts,
        )

        self.poller.watch(self.helpers.wakeup, lambda _mask: self.helpers.finished())
        # Every socket made by accept(2) is then non-blocking at its making: one system call less.
        socket.setdefaulttimeout(0.0)
        self.bind()

    @abstractmethod
    def bind(self) -> None:
        """Look up again what a plan may change, and the loop has at hand."""

    @abstractmethod
    def drive(self, conn: Connection) -> None:
        """Take the steps of a connection that are due."""

    @property
    def passable(self) -> tuple[WireProtocol, ...]:
        """What is spoken on connections that another pump can go on with."""
        return (
            self.http1,
            self.guarded_http1,
            self.redirecting_http1,
            self.proxy_headers,
            self.handshakes,
        )

    def protocols(self, settings: Settings) -> dict[str, WireProtocol]:
        """What is spoken over TLS, by its ALPN name, our favourite first."""
        http1: dict[str, WireProtocol] = {"http/1.1": self.http1, "http/1.0": self.http1}
        return {"h2": self.http2, **http1} if settings.http2 else http1

    def let_http2_begin(self, settings: Settings) -> None:
        """In clear, on a connection whose client speaks it from the start."""
        self.http1.begin_http2 = self.http2.begin_on if settings.http2 else None
        self.closing_http1.begin_http2 = self.http2.begin_last_on if settings.http2 else None
