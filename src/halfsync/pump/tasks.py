"""Which worker has which task; and what everyone does to them who hands over, reads, or watches."""

from __future__ import annotations

import select

from halfsync.pump.clock import Clock
from halfsync.pump.closes import CloseReason
from halfsync.pump.connection import NEVER, Exchange
from halfsync.pump.poller import Poller
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import WORKING, ExchangeEvent
from halfsync.pump.workers import DROPPED, Pool, Sent, Worker
from halfsync.wire.messages import Left, Nudge
from halfsync.wire.refusals import Refusal

SHORTAGE = 0.01
"""Seconds until the next try, when the kernel was short of something."""


class Tasks:
    """`workers` is by id; `due` are the pools with something to hand over at the end of the turn."""

    def __init__(self, clock: Clock, poller: Poller, run_queue: RunQueue) -> None:
        self._clock = clock
        self._poller = poller
        self._run_queue = run_queue
        self.workers: dict[int, Worker] = {}
        self.due: set[Pool] = set()
        self.look_at = NEVER  # monotonic: the next look at scoreboards (see stalls.py)
        self._newest_ns = 0

    def next_ns(self) -> int:
        """The time, for a request that is queued now. Each has one of its own, which so is its place in the
        queue too."""
        now_ns = self._clock.now_ns
        self._newest_ns = now_ns = now_ns if now_ns > self._newest_ns else self._newest_ns + 1
        return now_ns

    def look_within(self, seconds: float) -> None:
        due = self._clock.now + seconds
        if due < self.look_at:
            self.look_at = due

    # --- workers -----------------------------------------------------------------------------------

    def forget(self, worker: Worker) -> None:
        self.workers.pop(worker.id, None)
        worker.pool.workers.remove(worker)
        self._poller.forget(worker.tasks.fileno())
        worker.close()

    def close_if_done(self, worker: Worker) -> None:
        """One that is to be replaced leaves when its last task has ended."""
        if worker.retiring and worker.outstanding == 0:
            self.forget(worker)

    def not_sent(self, worker: Worker, sent: Sent) -> None:
        """See that it gets nothing until it takes packets again."""
        if sent is Sent.FULL:
            worker.full = True
            self._poller.want(worker.tasks.fileno(), select.EPOLLIN | select.EPOLLOUT)
        elif sent is Sent.SHORT:
            worker.full = True
            worker.short_until = self._clock.now + SHORTAGE
            self.look_within(SHORTAGE)
        elif sent is Sent.GONE:
            worker.full = True  # its next event tells the rest

    def writable(self, worker: Worker) -> None:
        """Its socket takes packets again."""
        if worker.full:
            worker.full = False
            self._poller.want(worker.tasks.fileno(), select.EPOLLIN)
            self.due.add(worker.pool)

    def send_nudge(self, worker: Worker) -> None:
        """On `tasks`: wake a sibling thread."""
        self.not_sent(worker, worker.send([Nudge()], []))

    # --- their requests ----------------------------------------------------------------------------

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Respond for a worker; from outside of a step."""
        conn = exchange.conn
        if conn is not None:
            conn.protocol.refuse(exchange, refusal)
            self._run_queue.ready(conn)

    def drop(self, worker: Worker, number: int) -> None:
        """Nothing more of this task's response is wanted: the client has left, or has been answered."""
        worker.owners[number] = DROPPED
        worker.tell(Left(number))

    def take_back(self, worker: Worker, exchange: Exchange) -> None:
        """A task that no handler has seen: its request goes back to its place in the queue."""
        exchange.holder = None
        conn = exchange.conn
        if conn is None:
            return
        if exchange.state is not WORKING:  # the worker says so of a response that it had begun
            conn.protocol.abort(exchange, CloseReason.WORKER_DIED)
            return
        exchange.attempts -= 1
        exchange.move(ExchangeEvent.TAKEN_BACK)
        if exchange.attempts:
            worker.pool.retries.appendleft(exchange)
        else:
            worker.pool.put_back(exchange)


def overloaded() -> Refusal:
    return Refusal(503, "All workers are busy. Please try again soon.", close=False, retry_after=5)
