"""Responses from leases to requests that are their connection's last, with no exchange made.

Clients that make a connection for each request send the same heads again and again, as those do that keep
theirs; so what a lease answers is found by the very bytes of a head, as on the hot path (see loop.py). (With
TLS this takes 40 us off the 0.9 ms of a connection.)
"""

from __future__ import annotations

import time

from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.connection import MORE, Connection, Outcome, new_exchange
from halfsync.pump.endings import Endings
from halfsync.pump.http1.responses import SMALL, Http1Responses
from halfsync.pump.leases.leased import Leased
from halfsync.pump.output import Output
from halfsync.pump.states import EXCHANGE_BEGAN, ConnectionEvent
from halfsync.pump.transport import INITIAL_WINDOW
from halfsync.scoreboard.counts import BYTES_SENT, LEASE_HITS
from halfsync.wire.closes import CloseReason
from halfsync.wire.http1 import HeadLimits, parse_head


class LastRequests:
    def __init__(
        self,
        clock: Clock,
        endings: Endings,
        access: AccessLog,
        output: Output,
        responses: Http1Responses,
    ) -> None:
        self._clock = clock
        self._endings = endings
        self._access = access
        self._output = output
        self._responses = responses

    def repeat(self, conn: Connection, leased: Leased, limits: HeadLimits) -> Outcome | None:
        """Respond to the request in the inbox, which asks for the connection's end. None: nothing is done."""
        if self._clock.now >= leased.last_until:
            if not leased.is_small(SMALL):
                return None
            leased.refresh_last(self._clock)
            if self._clock.now >= leased.last_until:  # it is time to renew it
                return None
        raw, conn.inbox = conn.inbox, b""
        wire = leased.last_wire
        try:
            sent = conn.transport.send_last(wire)
        except OSError:
            sent = 0  # to be found out again, and dealt with, where all sends are
        if sent != len(wire):
            # The rest goes the way of every other response.
            conn.move(EXCHANGE_BEGAN)
            conn.exchange = exchange = new_exchange(conn, parse_head(raw, limits), raw)
            self._responses.queue(exchange, leased)
            self._output.taken(conn, sent)
            return MORE
        conn.wire_bytes += sent
        words = self._endings.counts.words
        words[LEASE_HITS] += 1
        words[BYTES_SENT] += sent
        if self._access.enabled:
            self._log(conn, raw, leased, sent)
        if not conn.readable and sent <= INITIAL_WINDOW:
            try:
                conn.transport.finish(closing=True)
                return self._endings.close(conn, CloseReason.ANSWERED)
            except BlockingIOError:
                pass
            except OSError:
                return self._endings.close(conn, CloseReason.CLIENT_DISCONNECTED)
        conn.move(EXCHANGE_BEGAN)
        conn.move(ConnectionEvent.ENDED_LAST)
        return self._responses.end_in_good_order(conn, asked=True)

    def _log(self, conn: Connection, raw: bytes, leased: Leased, sent: int) -> None:
        self._access.records.append(
            (
                conn.when,
                conn.origin.logged,
                raw,
                leased.status,
                0 if leased.head_only else len(leased.body),
                sent,
                -1,
                -1,
                int((time.monotonic() - conn.first_byte) * 1e6) if self._endings.log_times else 0,
                int(CloseReason.ANSWERED),
                conn.request_count,
            )
        )
