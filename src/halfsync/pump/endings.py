"""How connections and exchanges end: the one place where a client's socket is closed and a request logged."""

from __future__ import annotations

import time
import traceback

from halfsync.pump.access import AccessLog
from halfsync.pump.connection import GONE, Connection, Exchange, Multiplexing, Outcome
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leases.known_heads import cut_cookie
from halfsync.pump.limits.client_connections import ClientConnections
from halfsync.pump.limits.refused_requests import RefusedRequests
from halfsync.pump.poller import Poller
from halfsync.pump.sendables import PipeEnd
from halfsync.pump.states import CLOSED, ConnectionEvent, ExchangeEvent, WebSocketEvent
from halfsync.scoreboard.counts import BYTES_SENT, CLOSED_FOR, CONNECTIONS_CLOSED, STATUS, Counts
from halfsync.wire.closes import CloseReason
from halfsync.wire.refusals import Refusal


class Endings:
    """`connections` are all that are open, by descriptor: the loop's to look up, and ours to take out;
    `streams` are those on them that have an exchange."""

    def __init__(
        self, poller: Poller, access: AccessLog, counts: Counts, *, log_times: bool, log_cookies: bool
    ) -> None:
        """`log_times`, `log_cookies`: whether the access log has durations, and the requests' cookies."""
        self._poller = poller
        self._access = access
        self.log_times = log_times
        self.log_cookies = log_cookies
        self.counts = counts
        self.clients = ClientConnections()
        self._refused = RefusedRequests()
        self.connections: dict[int, Connection] = {}
        self.streams: dict[Connection, None] = {}  # of HTTP/2, on all of them

    def refused(self, exchange: Exchange, refusal: Refusal) -> None:
        """It is counted, and what concerns a limit is logged."""
        self.counts.refused(refusal.status, refusal.reason)
        self._refused.tell(exchange, refusal)

    def close(self, conn: Connection, reason: CloseReason) -> Outcome:
        if conn.state is CLOSED:
            return GONE
        conn.move(ConnectionEvent.CLOSE)
        exchange = conn.exchange
        if exchange is not None:
            self._abort_exchange(exchange, reason)
            conn.exchange = None
            conn.cut_for(reason)
        elif not conn.transport.ends_by_close:
            self._finish(conn)
        if conn.out is not None:
            for item in conn.out:
                if isinstance(item, PipeEnd):
                    self._poller.forget(item.file.fd)
            conn.out = None
        self.forget(conn, reason)
        if conn.session is not None:
            self._close_streams(conn.session, reason)
            conn.session = None
        conn.transport.close()
        return GONE

    def forget(self, conn: Connection, reason: CloseReason | None) -> None:
        """It is none of those that are open any more. `reason`: None if another server goes on with it."""
        if self.connections.pop(conn.fd, None) is not None:
            words = self.counts.words
            words[CONNECTIONS_CLOSED] += 1
            if reason is not None:
                words[CLOSED_FOR + reason] += 1
            if conn.origin.counted_as is not None:
                self.clients.left(conn.origin)

    @staticmethod
    def _finish(conn: Connection) -> None:
        """Nothing is cut short by this end, and the client is told so."""
        try:
            conn.transport.finish(closing=True)
        except OSError:
            pass  # it has gone, or reads nothing

    def _close_streams(self, session: Multiplexing, reason: CloseReason) -> None:
        streams, records = session.closed(reason)
        for stream in streams:
            self.close(stream, reason)
        if self._access.enabled:
            self._access.records += records

    def reset(self, conn: Connection, reason: CloseReason) -> Outcome:
        """End it so that what was sent can't be taken for the whole: no last chunk, and a reset."""
        if conn.state is CLOSED:
            return GONE
        try:
            conn.transport.reset_at_close(True)
        except OSError:
            pass  # the client was faster
        return self.close(conn, reason)

    def abandon(self, conn: Connection, errors: InternalErrors) -> None:
        """End a connection on which we failed; if even that fails, let go of its socket at least."""
        try:
            self.reset(conn, CloseReason.INTERNAL_ERROR)
        except Exception:  # noqa: BLE001 (whatever is wrong with this one, the others go on)
            errors.report(f"closing a connection:\n{traceback.format_exc()}")
            self.forget(conn, CloseReason.INTERNAL_ERROR)
            conn.transport.close()

    def _abort_exchange(self, exchange: Exchange, reason: CloseReason) -> None:
        exchange.reason = reason
        self.log(exchange)
        if exchange.tunnel is not None:
            exchange.tunnel.abort(self._poller)
        if exchange.websocket is not None:
            exchange.websocket.move(WebSocketEvent.ABORT)
        if exchange.route is not None:
            exchange.route.backend.cancel(exchange)
        exchange.move(ExchangeEvent.ABORT)
        exchange.conn = None

    def log(self, exchange: Exchange) -> None:
        """Add an access log record, now that it is known what was sent."""
        conn = exchange.conn
        if conn is None:
            return
        words = self.counts.words
        words[STATUS + exchange.status] += 1
        if exchange.status:
            words[BYTES_SENT] += conn.wire_bytes - exchange.wire_before
        if not self._access.enabled:
            return
        raw = exchange.raw
        if not self.log_cookies:
            raw = exchange.logged or cut_cookie(raw) or raw
        if exchange.notes:
            raw = raw[:-2] + exchange.notes + b"\r\n"
        queue_us = handler_us = -1
        total_us = 0
        if self.log_times:
            total_us = int((time.monotonic() - conn.first_byte) * 1e6)
            if exchange.begun_ns:
                queue_us = max(0, exchange.begun_ns - exchange.queued_ns) // 1000
            if exchange.handler_ns >= 0:
                handler_us = exchange.handler_ns // 1000
        self._access.records.append(
            (
                conn.when,
                conn.origin.logged,
                raw,
                exchange.status,
                conn.body_bytes - exchange.body_before if exchange.status else 0,
                conn.wire_bytes - exchange.wire_before if exchange.status else 0,
                queue_us,
                handler_us,
                total_us,
                exchange.reason,
                conn.request_count,
            )
        )
