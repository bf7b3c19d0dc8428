"""The pump: one event loop that holds every client connection.

Theory of operation
-------------------
A *turn* is one epoll_wait(2) and all that follows from it: the hot path for those that a lease covers,
steps on the connections that have something to read or room to write, workers' messages, new clients; at its
end hand over what has been queued, and log, and every half second keep the time limits. What can wait for
the end of the turn does, because there it can be done for many at once.

The hot path, a request that a lease covers, is written out in `_turn`: one look-up of the very bytes
that were read, one send. It changes no state, allocates one log record, and costs two system calls. It is for
connections in IDLE, of which it is known that nothing is buffered, and that HTTP/1.1 is spoken there.

Nothing that happens on one connection may stop the loop: an error in a step is logged with its
traceback and costs that connection its life. An error in what is done for all of them (accepting, handing
over, the sweep) is logged too, and the rest of the turn goes on.
"""

from __future__ import annotations

import select
import time
import traceback
from collections.abc import Callable
from functools import partial

from halfsync.pump.connection import MORE, Connection, new_exchange
from halfsync.pump.leases.known_heads import cut_cookie
from halfsync.pump.leases.leased import Leased
from halfsync.pump.output import LEFT_AFTER
from halfsync.pump.parts import Parts
from halfsync.pump.reading import read_on
from halfsync.pump.states import (
    BUSY,
    EXCHANGE_BEGAN,
    IDLE,
    LINGERING,
    MULTIPLEXED,
    PRODUCING,
    QUEUED,
    SENDING,
    TUNNEL,
    WORKING,
)
from halfsync.pump.timeouts import SWEEP
from halfsync.pump.transport import FIRST_READ, RECV_SIZE
from halfsync.scoreboard.counts import BYTES_SENT, LEASE_HITS
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1 import parse_head

EVENTS_A_TURN = 512
STEPS_A_TURN = 64
"""For each connection: how many pipelined requests are served before others have their turn."""

SHARES_TIME = 0.0005
"""Seconds of a turn for connections that had their share of an earlier one and have more to do: uploads in
chunks of one byte, large responses, endless pipelines. However many there are, a turn is no longer for them,
which is what all others wait; so long, too, may a turn work on bodies and responses that have just become
ready, until further ones have to wait as well. (A share is 0.1 to 0.5 ms; to begin a turn costs 0.01.)"""


_READY = select.EPOLLIN | select.EPOLLOUT
_TO_READ = (_READY, select.EPOLLIN)
_SPECIAL = ~_READY
_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_GONE = select.EPOLLERR | select.EPOLLHUP
_WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Pump(Parts):
    """The loop over them. `run` returns when it is drained."""

    _next_sweep = _sweep_at = 0.0

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            try:
                if self.draining.is_on and self.draining.is_over():
                    self.access.end()
                    return
                self._turn()
            except Exception:  # noqa: BLE001 (the connections of all clients hang on this loop)
                self.errors.report(f"in a turn of the loop:\n{traceback.format_exc()}")

    def bind(self) -> None:
        """Look up what `_turn` needs for each event. To be called again when another plan is in effect."""
        seen = self.http1.seen
        self._bound = (
            self.clock,
            self.connections,
            self.run_queue.ready,
            self.access.records if self.access.enabled else None,
            self.endings.log_cookies,
            self.endings.log_times,
            self.settings.keep_alive,
            seen.whole,
            seen.uncookied,
            seen.harmless,
            self.pools.dispatcher.take_in,
            self.draining,
            self.websockets.small.take_in,
        )

    def _turn(self) -> None:  # noqa: C901 (the hot path is written out here: a call costs 60 ns)
        (
            clock,
            connections,
            ready,
            records,
            log_cookies,
            log_times,
            keep_alive,
            seen_whole,
            seen_uncookied,
            harmless,
            take_in,
            draining,
            take_in_messages,
        ) = self._bound
        due = self._next_due()
        now = clock.now
        events = self.poller.poll(due - now if due > now else 0.0, EVENTS_A_TURN)
        if self.run_queue.later:
            self.run_queue.begin_turn()
        clock.tick()
        now = clock.now
        hits = hit_bytes = 0
        for fd, mask in events:
            try:
                conn = connections.get(fd)
                if conn is None:
                    self._call_source(fd, mask)
                    continue
                if mask & _SPECIAL or conn.state is not IDLE or draining.is_on:
                    if mask in _TO_READ:
                        state = conn.state
                        if state is BUSY:
                            if take_in_messages(conn):
                                continue
                        elif state is MULTIPLEXED and self.http2.leased.serve(conn):
                            continue
                    self._wake(conn, mask)
                    continue
                # The hot path. `mask` says that there is something to read and nothing else.
                try:
                    data = conn.transport.recv(conn.read_size)
                    if len(data) == FIRST_READ:
                        data = read_on(conn, data)
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""  # to be found out again, and dealt with, where all reads are
                known = conn.known
                logged = data
                leased = known.whole.get(data)
                if leased is None:
                    seen = seen_whole.get(data)
                    if seen is not None:
                        if take_in(conn, data, data, seen):
                            continue
                    elif cut := cut_cookie(data):
                        logged = cut
                        leased = known.uncookied.get(cut)
                        if leased is None and len(data) <= harmless:
                            seen = seen_uncookied.get(cut)
                            if seen is not None and take_in(conn, data, cut, seen):
                                continue
                if leased is not None and now < leased.until:
                    try:
                        sent = conn.transport.send(leased.wire)
                    except OSError:
                        sent = 0
                    if sent != leased.size:
                        self._lease_taken_in_part(conn, data, sent, leased)
                        continue
                    conn.deadline = now + keep_alive
                    if records is not None:
                        records.append(
                            (
                                clock.wall,
                                conn.origin.logged,
                                data if log_cookies else logged,
                                leased.status,
                                leased.body_bytes,
                                sent,
                                -1,
                                -1,
                                int((time.monotonic() - now) * 1e6) if log_times else 0,
                                0,
                                conn.request_count,
                            )
                        )
                    conn.request_count += 1
                    hits += 1
                    hit_bytes += sent
                    continue
                conn.inbox = data
                conn.readable = not data or not conn.transport.drained(len(data), RECV_SIZE)
                ready(conn)
            except Exception:  # noqa: BLE001 (the events behind this one would be lost: they are told once)
                self._event_failed(fd)
        if hits:
            words = self.endings.counts.words
            words[LEASE_HITS] += hits
            words[BYTES_SENT] += hit_bytes
        if self.run_queue.due:
            self._take_steps()
        if self.acceptor.due:
            try:
                self.acceptor.accept_due()
            except Exception:  # noqa: BLE001 (see `_guard`; written out here as it is entered for each client)
                self._stage_failed("accepting")
        pools = self.pools
        tasks = pools.tasks
        if tasks.due or (now >= due and tasks.look_at <= now):
            try:
                pools.dispatcher.end_of_turn(len(events))
            except Exception:  # noqa: BLE001 (the same)
                self._stage_failed("handing requests over")
        if self.run_queue.carried:
            self._take_shares()
        if tasks.messages.gathered:
            self._guard(partial(tasks.messages.end_of_turn, len(events)), "handing messages over")
        if self.handshakes.due:
            self._shake_hands()
        if now >= due:
            self._look_at_times(now)
        access = self.access
        if len(access.records) >= access.look_at and access.ready(now):
            self._guard(pools.hand_over_records, "handing log records over")

    def _look_at_times(self, now: float) -> None:
        """Something may be due by itself."""
        if now >= self.acceptor.retry_at and not self.draining.is_on:
            self._guard(self.acceptor.resume, "accepting again")
        if now >= self._next_sweep:
            self._guard(self._sweep, "in the sweep")
        if now >= self.access.due and self.access.ready(now):
            self._guard(self.pools.hand_over_records, "handing log records over")

    def _event_failed(self, fd: int) -> None:
        self.errors.report(f"in an event of descriptor {fd}:\n{traceback.format_exc()}")
        conn = self.connections.get(fd)
        if conn is not None:
            self.endings.abandon(conn, self.errors)

    def _guard(self, stage: Callable[[], None], what: str) -> None:
        """Run what is done for all connections. An error there must not cost them their lives."""
        try:
            stage()
        except Exception:  # noqa: BLE001 (as it says)
            self._stage_failed(what)

    def _stage_failed(self, what: str) -> None:
        self.errors.report(f"{what}:\n{traceback.format_exc()}")

    def _next_due(self) -> float:
        """When something is due by itself (monotonic); 0.0: now."""
        queue = self.run_queue
        if queue.later or queue.due or queue.carried or self.pools.dispatcher.gathered or self.handshakes.due:
            return 0.0
        tasks = self.pools.tasks
        if tasks.messages.gathered:
            return 0.0
        due = self._next_sweep  # (one by one, for `min` or a loop over them takes longer)
        if tasks.look_at < due:
            due = tasks.look_at
        if self.access.due < due:
            due = self.access.due
        if self.draining.until < due:
            due = self.draining.until
        if self.acceptor.retry_at < due:
            due = self.acceptor.retry_at
        return due

    def _call_source(self, fd: int, mask: int) -> None:
        source = self.poller.sources.get(fd)
        if source is not None:  # else closed earlier in this turn
            source(mask)

    def _wake(self, conn: Connection, mask: int) -> None:
        """An event on a client's socket."""
        if mask & _READ:
            conn.readable = True
            if mask & _SPECIAL:
                conn.ended = True
        if conn.protocol is self.handshakes:
            self.handshakes.due[conn] = None
            return
        exchange = conn.exchange
        if exchange is not None and conn.state is BUSY:
            if exchange.websocket is not None and exchange.websocket.has_begun:
                exchange.websocket.at_rest = False
                self.run_queue.ready(conn)  # what it had sent before it left still counts
                return
            if mask & _GONE or (conn.ended and exchange.state is QUEUED):
                self.endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
                return
            if exchange.state is SENDING and not mask & _WRITE and exchange.stream is None:
                return  # it sends on while it does not read: no reason to try again
            if conn.ended and (exchange.state is WORKING or exchange.state is PRODUCING) and exchange.is_left:
                conn.deadline = min(conn.deadline, self.clock.now + LEFT_AFTER)
        elif mask & _GONE and conn.state is TUNNEL:
            self.tunnels.hung_up(conn, mask)
            return
        self.run_queue.ready(conn)

    # --- steps -------------------------------------------------------------------------------------

    def _take_steps(self) -> None:
        """On all connections that are ready, and on those that become so by it. When that has taken its time,
        those that only go on with a body or a response wait for a later turn."""
        until = time.monotonic() + SHARES_TIME
        while self.run_queue.due:
            for conn in self.run_queue.take():
                if (conn.state is BUSY or conn.state is LINGERING) and time.monotonic() >= until:
                    self.run_queue.again(conn)
                else:
                    self.drive(conn)
        if self.pools.tasks.messages.due:
            self.pools.tasks.messages.flush()

    def _take_shares(self) -> None:
        """Another share for connections that had one in an earlier turn, as far as the time goes, and for one
        of them in any case. It is done when requests were handed over, so the workers work meanwhile."""
        until = time.monotonic() + SHARES_TIME
        while (conn := self.run_queue.take_carried()) is not None:
            self.drive(conn)
            if time.monotonic() >= until:
                break
        if self.pools.tasks.messages.due:
            self.pools.tasks.messages.flush()
        if self.run_queue.due:
            self._take_steps()
        if self.pools.tasks.due:
            self._guard(partial(self.pools.dispatcher.end_of_turn, 0), "handing requests over")

    def _shake_hands(self) -> None:
        """And go on at once with those who have."""
        try:
            self.handshakes.work()
        except Exception:  # noqa: BLE001 (see `_guard`)
            self._stage_failed("in TLS handshakes")
        if self.run_queue.due:
            self._take_steps()
        if self.pools.tasks.due:
            self._guard(partial(self.pools.dispatcher.end_of_turn, 0), "handing requests over")

    def drive(self, conn: Connection) -> None:
        """Take steps until one says WAIT or GONE."""
        step = conn.protocol.step
        try:
            for _ in range(STEPS_A_TURN):
                if step(conn) is not MORE:
                    return
            self.run_queue.again(conn)
        except Exception:  # noqa: BLE001 (nothing that one client or worker does may stop the loop)
            self.errors.report(f"serving {conn.origin} in {conn.state.name}:\n{traceback.format_exc()}")
            self.endings.abandon(conn, self.errors)

    def _lease_taken_in_part(self, conn: Connection, raw: bytes, sent: int, leased: Leased) -> None:
        """The send buffer is full, or the client gone: the rest goes the way of every other response."""
        conn.when, conn.first_byte = self.clock.wall, self.clock.now
        conn.move(EXCHANGE_BEGAN)
        conn.exchange = exchange = new_exchange(conn, parse_head(raw, self.head_limits), raw)
        self.responses.queue(exchange, leased)
        self.output.taken(conn, sent)
        self.run_queue.ready(conn)

    def _sweep(self) -> None:
        now = self.clock.now
        self._guard(partial(self.timeouts.sweep, now), "in the sweep over connections")
        is_whole = now >= self._sweep_at  # if not, it is a share that an earlier one has left
        if is_whole:
            self._sweep_at = now + SWEEP
        self._next_sweep = now if self.timeouts.is_under_way else self._sweep_at
        if not is_whole:
            self._take_steps()
            return
        self._guard(self.pools.sweep, "in the sweep over queues and workers")
        self._guard(partial(self.leases.sweep, now), "in the sweep over leases")
        self._guard(self.handshakes.sweep, "in TLS handshakes")
        self._guard(partial(self.handshakes.contexts.rotate_ticket_keys, self.clock.wall), "in ticket keys")
        for stage in self.at_sweep:
            self._guard(stage, "in the sweep")
        self._take_steps()
