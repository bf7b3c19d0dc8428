"""The pump: one event loop that holds every client connection.

Theory of operation
-------------------
A *turn* is one epoll_wait(2) and all that follows from it: accept (a bounded number), take steps on
connections that have something to read or room to write, take workers' replies; at its end hand over
what has been queued, and log, and every half second keep the time limits. What can wait for the end
of the turn does, because there it can be done for many at once.

Client sockets are registered once, edge-triggered, for both directions. That saves the epoll_ctl(2)
calls of changing one's mind (two for each answer that does not fit the send buffer), and a client
that goes on sending while nobody wants to read it wakes us once and not in every turn. The price:
we must remember (`conn.readable`) that there was something to read. A read that comes back short has
emptied the socket, unless the end of file is announced (EPOLLRDHUP), which is then still to be read.
Everything else (listeners, workers, pipes, orders) is level-triggered, and a callable by descriptor.

The hot path, a request that a lease answers, is written out in `_turn`: one look-up of the very bytes
that were read, one send. It changes no state, allocates one log record, and costs two system calls.

Nothing that happens on one connection may stop the loop: an error in a step is logged with its
traceback and costs that connection its life. An error in what is done for all of them (accepting, handing
over, the sweep) is logged too, and the rest of the turn goes on.
"""

from __future__ import annotations

import select
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from halfsync.logs.error import log
from halfsync.pump.acceptor import Acceptor
from halfsync.pump.access import AccessLog
from halfsync.pump.changing import ChangingFiles
from halfsync.pump.clock import Clock
from halfsync.pump.closes import CloseReason
from halfsync.pump.cold import ColdFiles
from halfsync.pump.connection import NEVER, Connection, Exchange
from halfsync.pump.dispatch import Dispatcher
from halfsync.pump.helpers import Helpers
from halfsync.pump.leases import MAX_CUT_HEAD, Leased, Leases, cut_cookie
from halfsync.pump.limits import SWEEP, TimeLimits
from halfsync.pump.receiver import Receiver, limits_of
from halfsync.pump.routes import Routes
from halfsync.pump.sendables import PipeEnd
from halfsync.pump.sender import Sender
from halfsync.pump.spool import SpoolSpace
from halfsync.pump.states import (
    BODY,
    CLOSED,
    FRESH,
    IDLE,
    LINGERING,
    PRODUCING,
    QUEUED,
    SENDING,
    WORKING,
    Event,
)
from halfsync.pump.steps import GONE, MORE, WAIT, Outcome
from halfsync.pump.workers import Worker
from halfsync.wire.http1 import RequestHead, parse_head

if TYPE_CHECKING:
    from halfsync.plan import Plan

EVENTS_A_TURN = 512
STEPS_A_TURN = 64
"""For each connection: how many pipelined requests it may have answered before others are served."""

REPEAT_AFTER = 1.0
"""Seconds until the same internal error is logged again: what fails in every turn would fill the disk."""

FRESH_PATIENCE = 1.0
"""Seconds that a client which has just connected has, at a stop, for its first request to come."""
LINGER_AT_STOP = 0.5
"""Seconds that a client which has its last response has, at a stop, to close its side."""

_CLIENT_EVENTS = select.EPOLLET | select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP
_READY = select.EPOLLIN | select.EPOLLOUT
_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_HAS_ASKED = (BODY, QUEUED, WORKING, SENDING, PRODUCING)
_GONE = select.EPOLLERR | select.EPOLLHUP
_WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Pump:
    """All that the pump process holds. `run` returns when it is drained."""

    RECV_SIZE = 64 * 1024

    def __init__(
        self,
        plan: Plan,
        *,
        spool_folder: str,
        log_needs: tuple[bool, bool],
        report_hung: Callable[[Worker], None],
        report_lost: Callable[[Worker], None],
    ) -> None:
        self.plan = plan
        self.settings = plan.settings
        self.spool_folder = spool_folder
        self.report_hung = report_hung
        self.report_lost = report_lost
        self.clock = Clock()
        self.connections: dict[int, Connection] = {}
        self.draining = False
        self.linger_timeout = plan.settings.linger_timeout
        self.keeps_alive = plan.settings.keep_alive > 0  # whether a connection may be kept at all
        self._epoll = select.epoll()
        self._sources: dict[int, Callable[[int], None]] = {}
        self._again: list[Connection] = []
        self._next_sweep = 0.0
        self._drain_until = NEVER
        self._errors: dict[str, tuple[float, int]] = {}  # text -> when it was logged, how often since
        self._drain_seconds = NEVER
        self._log_times, self.log_cookies = log_needs
        self.access = AccessLog(plan.settings.access_logfile is not None)
        self.routes = Routes(plan.mounts)
        self.head_limits = limits_of(plan.settings)
        cut_cookies = self.head_limits.harmless >= MAX_CUT_HEAD
        self.leases = Leases(plan.settings.lease_memory, len(plan.listeners), cut_cookies=cut_cookies)
        self.changing = ChangingFiles(plan.settings.lease_memory, spool_folder)
        self.sender = Sender(self)
        self.receiver = Receiver(self)
        self.dispatcher = Dispatcher(self)
        self.limits = TimeLimits(self)
        self.helpers = Helpers(self)
        self.cold = ColdFiles(self.helpers)
        self.spool_space = SpoolSpace(plan.settings.spool_limit)
        self.acceptor = Acceptor(self)
        self._steps: tuple[Callable[[Connection], Outcome], ...] = (
            self.receiver.read_head,  # FRESH
            self.receiver.read_head,  # IDLE
            self.receiver.read_head,  # HEAD
            self.receiver.read_body,  # BODY
            _wait,  # QUEUED
            _wait,  # WORKING
            self.sender.send,  # SENDING
            self.sender.produce,  # PRODUCING
            self.sender.linger,  # LINGERING
            _gone,  # CLOSED
        )
        self.watch(self.helpers.wakeup, lambda _mask: self.helpers.finished())
        # Every socket made by accept(2) is then non-blocking at its making: one system call less.
        socket.setdefaulttimeout(0.0)

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            try:
                if self.draining and self._is_drained():
                    return
                self._turn()
            except Exception:  # noqa: BLE001 (the connections of all clients hang on this loop)
                self.fault(f"in a turn of the loop:\n{traceback.format_exc()}")

    def _turn(self) -> None:  # noqa: C901 (the hot path is written out here: a call costs 60 ns)
        clock = self.clock
        connections = self.connections
        known = self.leases.known
        known_uncookied = self.leases.known_uncookied
        records = self.access.records if self.access.enabled else None
        log_cookies = self.log_cookies
        log_times = self._log_times
        keep_alive = self.settings.keep_alive
        size = self.RECV_SIZE
        events = self._epoll.poll(self._patience(), EVENTS_A_TURN)
        again, self._again = self._again, []
        clock.tick()
        now = clock.now
        for fd, mask in events:
            try:
                conn = connections.get(fd)
                if conn is None:
                    self._call_source(fd, mask)
                    continue
                if mask != _READY or conn.state is not IDLE or self.draining:
                    self._wake(conn, mask)
                    continue
                # The hot path. `mask` says that there is something to read and nothing else.
                try:
                    data = conn.sock.recv(size)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""  # to be found out again, and dealt with, where all reads are
                leased = known[conn.listener].get(data)
                if leased is None and known_uncookied[conn.listener] and (logged := cut_cookie(data)):
                    leased = known_uncookied[conn.listener].get(logged)
                else:
                    logged = data
                if leased is not None and now < leased.until:
                    try:
                        sent = conn.sock.send(leased.wire)
                    except OSError:
                        sent = 0
                    if sent != leased.size:
                        self._lease_taken_in_part(conn, data, sent, leased)
                        continue
                    conn.expires = now + keep_alive
                    if records is not None:
                        records.append(
                            (
                                clock.wall,
                                conn.client,
                                data if log_cookies else logged,
                                leased.status,
                                leased.body_bytes,
                                sent,
                                -1,
                                -1,
                                int((time.monotonic() - now) * 1e6) if log_times else 0,
                                0,
                                conn.served,
                            )
                        )
                    conn.served += 1
                    continue
                conn.inbox = data
                conn.readable = not data or len(data) == size
                self.drive(conn)
            except Exception:  # noqa: BLE001 (the events behind this one would be lost: they are told once)
                self._event_failed(fd)
        for conn in again:
            conn.again = False
            self.drive(conn)
        if self.acceptor.due:
            self._guard(self.acceptor.accept_due, "accepting")
        self._guard(self.dispatcher.end_of_turn, "handing requests over")
        if now >= self.acceptor.retry_at and not self.draining:
            self._guard(self.acceptor.resume, "accepting again")
        if now >= self._next_sweep:
            self._guard(self._sweep, "in the sweep")
        if self.access.ready(now):
            self._guard(self.dispatcher.hand_over_records, "handing log records over")

    def _event_failed(self, fd: int) -> None:
        self.fault(f"in an event of descriptor {fd}:\n{traceback.format_exc()}")
        conn = self.connections.get(fd)
        if conn is not None:
            self._abandon(conn)

    def _guard(self, stage: Callable[[], None], what: str) -> None:
        """Run what is done for all connections. An error there must not cost them their lives."""
        try:
            stage()
        except Exception:  # noqa: BLE001 (as it says)
            self.fault(f"{what}:\n{traceback.format_exc()}")

    def _patience(self) -> float:
        """Seconds until something is due by itself."""
        if self._again:
            return 0.0
        now = self.clock.now
        due = min(self._next_sweep, self.dispatcher.stalls.look_at, self._drain_until)
        due = min(due, self.access.due, self.acceptor.retry_at)
        return max(0.0, due - now)

    def _call_source(self, fd: int, mask: int) -> None:
        source = self._sources.get(fd)
        if source is not None:  # else closed earlier in this turn
            source(mask)

    def _wake(self, conn: Connection, mask: int) -> None:
        """An event on a client's socket."""
        if mask & _READ:
            conn.readable = True
            if mask & ~_READY:
                conn.ended = True
        gone = mask & _GONE and conn.state in _HAS_ASKED
        if gone or (conn.ended and conn.state is QUEUED):
            self.close(conn, CloseReason.CLIENT_LEFT)
            return
        if conn.state is SENDING and not mask & _WRITE:
            return  # it sends on while it does not read: no reason to try again
        if not conn.again:  # else it has its share of this turn behind the others
            self.drive(conn)

    def drive(self, conn: Connection) -> None:
        """Take steps until one says WAIT or GONE."""
        steps = self._steps
        try:
            for _ in range(STEPS_A_TURN):
                if steps[conn.state](conn) is not MORE:
                    return
            self.run_again(conn)
        except Exception:  # noqa: BLE001 (nothing that one client or worker does may stop the loop)
            client = conn.client or "a unix socket"
            self.fault(f"serving {client} in {conn.state.name}:\n{traceback.format_exc()}")
            self._abandon(conn)

    def _abandon(self, conn: Connection) -> None:
        """End a connection on which we failed; if even that fails, let go of its socket at least."""
        try:
            self.sender.abort(conn, CloseReason.FAULT)
        except Exception:  # noqa: BLE001 (as above)
            self.fault(f"closing a connection:\n{traceback.format_exc()}")
            self.connections.pop(conn.fd, None)
            conn.sock.close()

    def run_again(self, conn: Connection) -> None:
        """It had its share of this turn and goes on in the next."""
        if not conn.again:
            conn.again = True
            self._again.append(conn)

    def _sweep(self) -> None:
        now = self.clock.now
        self._next_sweep = now + SWEEP
        self._guard(partial(self.limits.sweep, now), "in the sweep over connections")
        self._guard(self.dispatcher.sweep, "in the sweep over queues and workers")
        self._guard(partial(self.leases.sweep, now), "in the sweep over leases")

    def _lease_taken_in_part(self, conn: Connection, raw: bytes, sent: int, leased: Leased) -> None:
        """The send buffer is full, or the client gone: the rest goes the way of every other answer."""
        head = parse_head(raw, self.head_limits)
        conn.when, conn.first_byte = self.clock.wall, self.clock.now
        conn.exchange = exchange = Exchange(conn, head)
        self.sender.repeat(conn, exchange, leased)
        self.sender.taken(exchange, sent)
        self.drive(conn)

    # --- connections -----------------------------------------------------------------------------

    def exchange_of(self, conn: Connection) -> Exchange:
        """The present one; or one for what has come of a head, so that it can be answered."""
        if conn.exchange is None:
            conn.exchange = Exchange(conn, RequestHead(conn.inbox[:1024], b"", b"", 1))
        return conn.exchange

    def add(self, conn: Connection) -> None:
        """A new client. If its request is there already, the next turn tells. Raises OSError where the
        kernel can't watch any more descriptors."""
        self._epoll.register(conn.fd, _CLIENT_EVENTS)
        self.connections[conn.fd] = conn

    def close(self, conn: Connection, reason: CloseReason) -> Outcome:
        """The one place where a client's connection ends."""
        if conn.state is CLOSED:
            return GONE
        was_queued = conn.state is QUEUED
        conn.move(Event.CLOSE)
        exchange = conn.exchange
        if exchange is not None:
            exchange.reason = reason
            self.log(conn, exchange)
            exchange.conn = None
            if was_queued:
                self.dispatcher.client_left(exchange)
            if exchange.worker is not None:
                exchange.worker.tell_left(exchange)
            for item in exchange.out:
                if isinstance(item, PipeEnd):
                    self.forget_pipe(item)
            exchange.out.clear()
            conn.exchange = None
        self.connections.pop(conn.fd, None)
        conn.sock.close()
        return GONE

    def log(self, conn: Connection, exchange: Exchange) -> None:
        """Add an access log record, now that it is known what was sent."""
        if not self.access.enabled or exchange.head is None:
            return
        head = exchange.head
        if head.logged is None:
            head.logged = head.raw if self.log_cookies else cut_cookie(head.raw) or head.raw
        queue_us = handler_us = -1
        total_us = 0
        if self._log_times:
            total_us = int((time.monotonic() - conn.first_byte) * 1e6)
            if exchange.begun_ns:
                queue_us = max(0, exchange.begun_ns - exchange.queued_ns) // 1000
            if exchange.handler_ns >= 0:
                handler_us = exchange.handler_ns // 1000
        self.access.records.append(
            (
                conn.when,
                conn.client,
                head.logged,
                exchange.status,
                exchange.body_bytes,
                exchange.wire_bytes,
                queue_us,
                handler_us,
                total_us,
                exchange.reason,
                conn.served,
            )
        )

    # --- other descriptors -----------------------------------------------------------------------

    def watch(self, fd: int, source: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        self._sources[fd] = source
        self._epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        if self._sources.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def watch_worker(self, worker: Worker) -> None:
        def event(mask: int) -> None:
            if mask & select.EPOLLOUT:
                self.dispatcher.writable(worker)
            if mask & _READ:
                self.dispatcher.read(worker)

        self.watch(worker.tasks.fileno(), event)

    def want_writable(self, worker: Worker, wanted: bool) -> None:
        self._epoll.modify(worker.tasks.fileno(), select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def forget_worker(self, worker: Worker) -> None:
        self.forget(worker.tasks.fileno())

    def watch_pipe(self, exchange: Exchange, pipe: PipeEnd) -> None:
        """Go on with the exchange whenever the pipe has something."""

        def event(_mask: int) -> None:
            if exchange.conn is None:
                self.forget_pipe(pipe)
            else:
                self.drive(exchange.conn)

        self.watch(pipe.file.fd, event, select.EPOLLIN | select.EPOLLET)

    def forget_pipe(self, pipe: PipeEnd) -> None:
        self.forget(pipe.file.fd)

    def fault(self, text: str) -> None:
        """Log something that should not be, and go on. The same text is logged once a second at most."""
        now = time.monotonic()
        logged, omitted = self._errors.get(text, (-REPEAT_AFTER, 0))
        if now - logged < REPEAT_AFTER:
            self._errors[text] = (logged, omitted + 1)
            return
        if len(self._errors) > 100:
            self._errors.clear()
        self._errors[text] = (now, 0)
        log("error", f"(the following, {omitted} times more)\n{text}" if omitted else text)

    # --- stopping --------------------------------------------------------------------------------

    def drain(self, seconds: float) -> None:
        """Accept what has connected, answer what has been asked within so many seconds, then nothing
        more. A further call shortens the time."""
        self._drain_until = min(self._drain_until, self.clock.now + seconds)
        self._drain_seconds = min(self._drain_seconds, seconds)
        if self.draining:
            return
        self.acceptor.stop()
        self.draining = True
        self.keeps_alive = False
        self.linger_timeout = min(self.linger_timeout, LINGER_AT_STOP)
        now = self.clock.now
        for conn in list(self.connections.values()):
            if conn.state is FRESH:
                conn.expires = min(conn.expires, now + FRESH_PATIENCE)
            elif conn.state is LINGERING:
                conn.expires = min(conn.expires, now + self.linger_timeout)
            elif conn.state is IDLE:
                self.close_idle(conn, CloseReason.DRAINING)

    def close_idle(self, conn: Connection, reason: CloseReason) -> None:
        """Close a connection that waits for its next request, unless that has come in this very moment."""
        conn.readable = True
        self.drive(conn)
        if conn.state is IDLE:
            self.close(conn, reason)

    def _is_drained(self) -> bool:
        """Whether nothing is in flight and all is logged. What is not finished at graceful_timeout
        is cut, visibly, and logged so."""
        if self.clock.now >= self._drain_until:
            self._drain_until = NEVER
            self._cut_off(list(self.connections.values()))
            self.access.due = self.clock.now  # the parent does not wait long now: log it at once
        return not self.connections and self.access.idle

    def _cut_off(self, left: list[Connection]) -> None:
        count = sum(conn.exchange is not None for conn in left)
        if count:
            seconds = self._drain_seconds
            log("warning", f"{count} requests were still in flight after {seconds:g} s and are cut off.")
        for conn in left:
            in_flight = conn.exchange is not None
            self.sender.abort(conn, CloseReason.CUT_OFF if in_flight else CloseReason.DRAINING)


def _wait(_conn: Connection) -> Outcome:
    return WAIT


def _gone(_conn: Connection) -> Outcome:
    return GONE
