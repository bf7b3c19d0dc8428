"""Time limits of connections, kept by a sweep over all of them twice a second: no timer object, no heap.

A connection's `deadline` says when the sweep has to look at it; until then it costs one comparison
(30 ns if the connection is in the processor's cache, 200 if not: 4 ms a second for 10,000 connections, in
shares of a turn). While a client sends a body or takes a response, it is looked
at every second, and what moved since is seen then; so neither reading nor sending keeps any time.

What a client has *taken* is not what the socket took: a client that reads 500 bytes a second may
not make room in a send buffer of megabytes for an hour. So progress in SENDING is what the peer has
acknowledged: bytes given to the transport, less what it still holds.

(Requests that wait for a worker, and handlers that take long, are the backend's to time.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from halfsync.logs.error import log
from halfsync.plan.plan import Limits
from halfsync.pump.bodies.spool import Spool
from halfsync.pump.bodies.stream import BodyStream
from halfsync.pump.connection import NEVER, Connection, Exchange
from halfsync.pump.endings import Endings
from halfsync.pump.http1.protocol import Http1
from halfsync.pump.http2.protocol import Http2
from halfsync.pump.output import RECHECK
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import (
    BUSY,
    CLOSED,
    FRESH,
    HANDSHAKE,
    HEAD,
    IDLE,
    LINGERING,
    MULTIPLEXED,
    PRODUCING,
    QUEUED,
    RECEIVING,
    SENDING,
    TUNNEL,
    WORKING,
)
from halfsync.pump.tunnel import Tunnels
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.settings.table import Settings
from halfsync.wire.closes import CloseReason
from halfsync.wire.refusals import Refusal

_REASONS = {CloseReason.BODY_TIMEOUT: "body_timeout", CloseReason.BODY_TOO_SLOW: "min_rate"}

SWEEP = 0.5
"""Seconds between two sweeps: how late a limit may be."""

SHARE = 0.00025
"""Seconds of a turn. Thousands of slow uploads are looked at every second, at some 5 µs each, and thousands
of clients that have come together have their limits together; everybody else would wait for it."""
AT_LEAST = 16
"""Connections in a share."""
SLICE = 256
"""Connections of which it is seen at once whether their time is over: 50 µs."""


class Timeouts:
    def __init__(
        self,
        settings: Settings,
        run_queue: RunQueue,
        endings: Endings,
        http1: Http1,
        http2: Http2,
        tunnels: Tunnels,
        websockets: WebSockets,
        drive: Callable[[Connection], None],
    ) -> None:
        """`drive` takes steps on a connection, at once."""
        self.configure(settings)
        self._run_queue = run_queue
        self._endings = endings
        self._http1 = http1
        self._http2 = http2
        self._tunnels = tunnels
        self._websockets = websockets
        self._drive = drive
        self.draining = False
        # What the last sweep has left for the next turns: whose time is over, and who was not looked at yet.
        self.due: deque[Connection] = deque()
        self._unseen: Iterator[Connection] | None = None

    def configure(self, settings: Settings) -> None:
        self._usual = Limits.of(settings)

    def _limits(self, exchange: Exchange) -> Limits:
        return self._usual if exchange.route is None else exchange.route.limits

    def sweep(self, now: float) -> None:
        """See to connections whose deadline has passed; to a share of them, if there are many connections."""
        until = time.monotonic() + SHARE
        if self._unseen is None:
            self._unseen = iter([*self._endings.connections.values(), *self._endings.streams])
        due = self.due
        done = 0
        while done < AT_LEAST or time.monotonic() < until:
            if not due:
                some = list(islice(self._unseen, SLICE))
                if not some:
                    self._unseen = None
                    return
                due.extend(conn for conn in some if conn.deadline <= now)
                done += AT_LEAST
                continue
            conn = due.popleft()
            done += 1
            if conn.deadline <= now and conn.state is not CLOSED:
                self._expired(conn, now)

    @property
    def is_under_way(self) -> bool:
        """Whether `sweep` has left something for the next turns."""
        return self._unseen is not None

    def _expired(self, conn: Connection, now: float) -> None:
        endings = self._endings
        state = conn.state
        if state is IDLE:
            self.close_idle(conn, CloseReason.KEEP_ALIVE_TIMEOUT)
        elif state is FRESH:
            endings.close(conn, CloseReason.DRAINING if self.draining else CloseReason.HEAD_TIMEOUT)
        elif state is LINGERING:
            endings.close(conn, CloseReason.LINGER_TIMEOUT)
        elif state is TUNNEL:
            self._tunnels.expired(conn, now)
        elif state is HANDSHAKE:
            log("debug", f"{conn.origin}: no HTTP within handshake_timeout: connection closed")
            endings.close(conn, CloseReason.DRAINING if self.draining else CloseReason.HANDSHAKE_TIMEOUT)
        elif state is HEAD:
            self._http1.expire_head(conn)
        elif state is MULTIPLEXED:
            self._http2.expired(conn, now)
        elif state is BUSY:
            assert conn.exchange is not None
            self._expired_exchange(conn, conn.exchange, now)

    def close_idle(self, conn: Connection, reason: CloseReason) -> None:
        """Close a connection that waits for its next request, unless that has come in this very moment."""
        conn.readable = True
        self._drive(conn)
        if conn.state is IDLE:
            self._endings.close(conn, reason)

    def _expired_exchange(self, conn: Connection, exchange: Exchange, now: float) -> None:
        state = exchange.state
        if (state is QUEUED and conn.ended) or (
            (state is WORKING or state is PRODUCING) and exchange.is_left
        ):
            self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        elif state is RECEIVING:
            self._check_body(conn, exchange, now)
        elif state is SENDING:
            self._check_sending(conn, exchange, now)
        elif exchange.websocket is not None and exchange.websocket.has_begun:
            self._websockets.expired(conn, exchange, exchange.websocket, now)
        elif exchange.stream is not None:
            self._check_stream(conn, exchange, exchange.stream, now)
        elif state is PRODUCING:
            self._end_stream(exchange)
        else:
            conn.deadline = NEVER

    def _check_body(self, conn: Connection, exchange: Exchange, now: float) -> None:
        if not conn.may_send_body or (isinstance(exchange.spool, Spool) and exchange.spool.is_behind):
            exchange.progress_at = exchange.checked_at = now  # it is the disk's turn
            conn.deadline = now + RECHECK
            return
        limits = self._limits(exchange)
        stalled, slow = self._progress(exchange, limits, exchange.received, limits.body_timeout, now)
        if stalled:
            self._refuse(exchange, CloseReason.BODY_TIMEOUT, "The body stopped coming (body_timeout).")
        elif slow:
            self._refuse(exchange, CloseReason.BODY_TOO_SLOW, "The body came too slowly (min_rate).")
        else:
            conn.deadline = now + RECHECK

    def _check_stream(self, conn: Connection, exchange: Exchange, stream: BodyStream, now: float) -> None:
        """The body is streamed, and the client has nothing of a response to take now (QUEUED, WORKING,
        PRODUCING)."""
        conn.deadline = now + RECHECK
        limits = self._limits(exchange)
        if stream.is_awaited and not conn.may_send_body:
            stream.progress_at = stream.checked_at = now
        elif stream.is_awaited:
            stalled, slow = self._progress(stream, limits, exchange.received, limits.body_timeout, now)
            if stalled:
                sentence = "The body stopped coming (body_timeout)."
                self._refuse_streamed(exchange, CloseReason.BODY_TIMEOUT, sentence)
            elif slow:
                self._refuse_streamed(
                    exchange, CloseReason.BODY_TOO_SLOW, "The body came too slowly (min_rate)."
                )
        elif (limit := limits.stream_timeout) and exchange.state is PRODUCING:
            since = max(stream.paused_at, stream.handlers_turn_ns / 1e9)
            if now - since > limit:
                self._end_stream(exchange)

    def _refuse_streamed(self, exchange: Exchange, reason: CloseReason, sentence: str) -> None:
        conn = exchange.conn
        assert conn is not None
        self._http1.streamed.refuse(exchange, Refusal(408, sentence, reason=_REASONS[reason]), reason)
        self._run_queue.ready(conn)

    def _refuse(self, exchange: Exchange, reason: CloseReason, sentence: str) -> None:
        conn = exchange.conn
        assert conn is not None
        conn.protocol.refuse(exchange, Refusal(408, sentence, reason=_REASONS[reason]))
        exchange.reason = reason
        self._run_queue.ready(conn)

    def _check_sending(self, conn: Connection, exchange: Exchange, now: float) -> None:
        if not conn.is_clients_turn:
            exchange.progress_at = exchange.checked_at = now
            conn.deadline = now + RECHECK
            self._run_queue.ready(conn)  # it may have waited long enough
            return
        taken = conn.wire_bytes - exchange.wire_before - conn.transport.unsent()
        # An earlier response's bytes may be in the socket still: to take those is progress too.
        exchange.unsent_before = max(exchange.unsent_before, -taken)
        taken += exchange.unsent_before + conn.taken_by_others()
        limits = self._limits(exchange)
        stalled, slow = self._progress(exchange, limits, taken, limits.send_timeout, now)
        if stalled:
            conn.protocol.abort(exchange, CloseReason.SEND_TIMEOUT)
        elif slow:
            conn.protocol.abort(exchange, CloseReason.SEND_TOO_SLOW)
        else:
            conn.deadline = now + RECHECK

    def _end_stream(self, exchange: Exchange) -> None:
        assert exchange.conn is not None
        limit = self._limits(exchange).stream_timeout
        log(
            "warning",
            f"{exchange.request_line}: its handler gave nothing for {limit:g} s (stream_timeout): "
            "connection reset",
        )
        exchange.conn.protocol.abort(exchange, CloseReason.STREAM_TIMEOUT)

    @staticmethod
    def _progress(
        one: Exchange | BodyStream, limits: Limits, moved: int, limit: float, now: float
    ) -> tuple[bool, bool]:
        """Whether nothing moved for `limit` seconds, and whether it is slower than min_rate."""
        one.timed += now - one.checked_at
        one.checked_at = now
        if moved > one.moved:
            one.moved = moved
            one.progress_at = now
        stalled = now - one.progress_at > limit
        grace_over = one.timed > limits.rate_grace
        return stalled, grace_over and moved < limits.min_rate * one.timed
