"""The short road of what is common: a plain request that was read before, and a small response in one piece.

Theory of operation
-------------------
Everything here is done by the general road too (http1, admit, worker_pools, replies, http1_responses); here
it is written out for the one case that most requests to an application are, so that it costs few steps of
Python. There is no other difference: the states are the same at both ends, and whatever does not fit is
left to the general road before anything has been done.

 - `take_in`: the very bytes of the head were read before (or all but the cookie), so it is known what they
   mean and which route they have. From IDLE to QUEUED.
 - `put_out`: the worker's whole response is small, has a length, and the socket takes it at once. From
   WORKING to IDLE, with its log record.

What makes a request plain is said where heads are parsed (`RequestHead.plain`): HTTP/1.1, kept, no body, and
not HEAD.
"""

from __future__ import annotations

import time

from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Connection, Exchange, Route
from halfsync.pump.http1_responses import SMALL, SMALL_FIELDS, Http1Responses
from halfsync.pump.leases import Leases
from halfsync.pump.seen_heads import SeenHead
from halfsync.pump.states import BUSY, ENDED, IDLE, QUEUED, WORKING
from halfsync.pump.tasks import Tasks
from halfsync.pump.workers import MEAN_OF, Pool, Worker
from halfsync.wire.http1_responses import BODILESS, head_start
from halfsync.wire.messages import DONE, SCOREBOARD_SLOTS, Part, Reply


class FastPath:
    def __init__(
        self,
        clock: Clock,
        access: AccessLog,
        leases: Leases,
        tasks: Tasks,
        pools: dict[Route, Pool],
        responses: Http1Responses,
        *,
        queue_limit: int,
        keep_alive: float,
        log_times: bool,
        log_cookies: bool,
    ) -> None:
        self._clock = clock
        self._access = access
        self._leases = leases.table
        self._tasks = tasks
        self._pools = pools
        self._responses = responses
        self._queue_limit = queue_limit
        self._keep_alive = keep_alive
        self._log_times = log_times
        self._log_cookies = log_cookies

    def take_in(self, conn: Connection, raw: bytes, uncookied: bytes, seen: SeenHead) -> bool:
        """Queue the request that `raw` is, on a connection in IDLE. False: it is for the general road."""
        route = seen.route
        if route is None or seen.listener != conn.origin.listener or seen.lease_key in self._leases:
            return False
        pool = self._pools.get(route)
        if pool is None or len(pool.queue) >= self._queue_limit:
            return False
        clock = self._clock
        conn.exchange = exchange = Exchange(conn, seen.head, raw)
        conn.state = BUSY
        conn.deadline = NEVER
        conn.when = clock.wall
        conn.first_byte = clock.now
        exchange.logged = uncookied
        exchange.route = route
        exchange.queued_ns = self._tasks.next_ns()
        exchange.state = QUEUED
        pool.queue.append(exchange)
        self._tasks.due.add(pool)
        return True

    def put_out(self, worker: Worker, messages: list[Reply | Part]) -> list[Reply | Part]:
        """Send those of a packet's replies that are whole and small; gives the others."""
        if not self._responses.keeps_alive:
            return messages
        clock = self._clock
        log_times = self._log_times
        log_cookies = self._log_cookies
        records = self._access.records if self._access.enabled else None
        deadline = clock.now + self._keep_alive
        date_end = clock.date_end
        owners = worker.owners
        pool = worker.pool
        others: list[Reply | Part] = []
        for reply in messages:
            number = reply.number
            exchange = owners.get(number)
            if type(exchange) is not Exchange or type(reply) is not Reply or exchange.state is not WORKING:
                others.append(reply)
                continue
            conn = exchange.conn
            body = reply.body
            length = reply.length
            if (
                conn is None
                or conn.inbox
                or conn.readable
                or not exchange.head.plain
                or reply.ending is not DONE
                or not length == len(body) <= SMALL
                or len(reply.fields) > SMALL_FIELDS
                or reply.lease is not None
                or reply.objects
                or reply.dated
                or reply.close
                or reply.status in BODILESS
            ):
                others.append(reply)
                continue
            wire = head_start(reply.status, reply.reason, reply.fields, length) + date_end + body
            try:
                sent = conn.transport.send(wire)
            except OSError:
                sent = 0  # to be found out again, and dealt with, where all sends are
            handler_ns = reply.handler_ns
            pool.mean_ns += (handler_ns - pool.mean_ns) / MEAN_OF
            exchange.status = reply.status
            exchange.handler_ns = handler_ns
            begun_ns = worker.scoreboard[number % SCOREBOARD_SLOTS]
            del owners[number]
            worker.free.append(number % SCOREBOARD_SLOTS)
            if sent != len(wire):
                exchange.begun_ns = begun_ns
                self._responses.go_on_with_small(exchange, wire, length, sent)
                continue
            exchange.state = ENDED
            conn.exchange = None
            conn.state = IDLE
            conn.deadline = deadline
            conn.wire_bytes += sent
            conn.body_bytes += length
            if records is not None:
                records.append(
                    (
                        conn.when,
                        conn.origin.client,
                        exchange.raw if log_cookies else exchange.logged or exchange.raw,
                        reply.status,
                        length,
                        sent,
                        max(0, begun_ns - exchange.queued_ns) // 1000 if log_times else -1,
                        handler_ns // 1000 if log_times else -1,
                        int((time.monotonic() - conn.first_byte) * 1e6) if log_times else 0,
                        0,
                        conn.request_count,
                    )
                )
            conn.request_count += 1
        return others
