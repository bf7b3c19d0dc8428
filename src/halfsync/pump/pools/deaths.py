"""What becomes of the requests of a worker that is no more.

A worker's channel ends when it dies; or the worker may have closed it, or sent through it what is no
message, and live. Either way the pump gives it up and says so to the parent, which kills what still
lives and tells how the process ended (Ended). Only then is anything decided, for only then is it certain that
the scoreboard changes no more:

 - A request that was not begun goes back to the queue, to its own place.
 - One that was begun is tried once more if its method says that this is harmless, and if it is not
   likely to be what ended the worker. SIGSEGV and its like, and an exit of the process's own accord, are
   most likely the request's own work: a request that kills its worker must not kill a second one. What was
   killed from outside (a deployment, the kernel for want of memory) did nothing to deserve it.
 - Even then it gets a worker for itself: if it is what kills them, nobody else dies with it. (Not if the
   workers have event loops, where thousands may have to be tried again.)
 - Everything else gets a 502, or is reset if its response had started.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from halfsync.logs.error import log
from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Exchange
from halfsync.pump.pools.workers import LOG_BATCH, Tasks, Worker
from halfsync.pump.states import WORKING, ExchangeEvent
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.wire.closes import CloseReason
from halfsync.wire.refusals import Refusal

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})  # RFC 9110 9.2.2

TOLD_WITHIN = 5.0
"""Seconds. The parent tells of an end within milliseconds; it is not to be waited for for ever."""
UNKNOWN = -1
"""Instead of a wait status."""
MAX_TOLD = 20
"""Requests that the log names."""

_THE_REQUEST_DID_IT = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


class WorkerDeaths:
    def __init__(
        self,
        clock: Clock,
        access: AccessLog,
        tasks: Tasks,
        report_lost: Callable[[Worker], None],
        websockets: WebSockets,
        *,
        retry: bool,
    ) -> None:
        self._clock = clock
        self._access = access
        self._tasks = tasks
        self._report_lost = report_lost
        self._websockets = websockets
        self.retry = retry
        self._lost: dict[int, tuple[Worker, float]] = {}  # by id; until when the parent may take to tell

    def lose(self, worker: Worker) -> None:
        """Its channel ended, or is of no use any more."""
        self._tasks.forget(worker)
        if worker.status is not None:
            self._settle(worker)
            return
        self._lost[worker.id] = (worker, self._clock.now + TOLD_WITHIN)
        self._report_lost(worker)

    def ended(self, worker_id: int, status: int) -> None:
        """Its process is no more. A process that the application forked may keep the channel's
        other end open; so we close it: what was said before is still read, and then the end."""
        if worker_id in self._lost:
            worker, _ = self._lost.pop(worker_id)
            worker.status = status
            self._settle(worker)
        elif worker_id in self._tasks.workers:
            worker = self._tasks.workers[worker_id]
            worker.status = status
            worker.tasks.shutdown(socket.SHUT_RDWR)

    def sweep(self, now: float) -> None:
        """Do without what the parent does not tell."""
        for worker_id, (_, until) in list(self._lost.items()):
            if now >= until:
                self.ended(worker_id, UNKNOWN)

    def _settle(self, worker: Worker) -> None:
        told: list[str] = []
        count = 0
        for number, owner in list(worker.owners.items()):
            if isinstance(owner, Exchange):
                client = f" from {owner.conn.origin}" if owner.conn is not None else ""
                fate = self._orphaned(worker, number, owner)
                count += 1
                if len(told) < MAX_TOLD:
                    told.append(f"{owner.request_line}{client} ({fate})")
            elif owner is LOG_BATCH:
                self._access.lost()
        worker.owners.clear()
        if count > len(told):
            told.append(f"and {count - len(told)} more")
        level, what = ("error", "; ".join(told)) if told else ("info", "none")
        log(level, f"worker {worker.pid} of {worker.pool.name} is gone; requests in flight: {what}")
        self._tasks.due.add(worker.pool)

    def _orphaned(self, worker: Worker, number: int, exchange: Exchange) -> str:
        """What becomes of one request; returns it in words."""
        conn = exchange.conn
        if conn is None:
            return "its client had disconnected"
        if exchange.websocket is not None and exchange.websocket.has_begun:
            exchange.holder = None
            self._websockets.worker_ends(exchange, is_dead=True)
            return "a WebSocket: closed with 1012"
        if exchange.state is not WORKING:
            conn.protocol.abort(exchange, CloseReason.WORKER_DIED)
            return "its response had started: connection reset"
        if not worker.begun(number):
            self._tasks.take_back(worker, exchange)
            return "not begun, given to another"
        exchange.holder = None
        if self._may_retry(worker, exchange):
            exchange.attempts += 1
            exchange.move(ExchangeEvent.TAKEN_BACK)
            if self._tasks.rerouted(exchange):
                pass
            elif worker.is_loop:  # it had thousands, perhaps: they can't each have a worker for themselves
                worker.pool.put_back(exchange)
            else:
                worker.pool.retries.append(exchange)
            return "begun, to be tried once more"
        exchange.reason = CloseReason.WORKER_DIED
        self._tasks.refuse(exchange, Refusal(502, "The worker that had this request died.", close=False))
        return "begun: 502"

    def _may_retry(self, worker: Worker, exchange: Exchange) -> bool:
        """Only if all of these hold:

        1. The setting `retry` is on.
        2. The method says that twice is as good as once.
        3. It is not a retry already.
        4. The worker was killed, and neither by what it did nor for what it sent.
        5. Its body is here still: of one that is streamed, nothing was passed on but what the task carried.
        """
        if exchange.stream is not None and exchange.stream.has_been_read:
            return False
        if not self.retry or exchange.attempts:
            return False
        if exchange.head.method not in IDEMPOTENT:
            return False
        status = worker.status
        if worker.at_fault or status is None or status == UNKNOWN or not os.WIFSIGNALED(status):
            return False
        return os.WTERMSIG(status) not in _THE_REQUEST_DID_IT
