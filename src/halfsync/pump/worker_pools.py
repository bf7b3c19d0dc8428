"""The backend of routes that workers answer: pools of worker processes, and all that is done for them.

The parts: `tasks` knows which worker has which task, `dispatch` hands over, `replies` reads what workers say,
`stalls` helps those that do not get on, `deaths` settles what a worker leaves behind when it ends.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import cast

from halfsync.logs.error import log
from halfsync.plan import Plan
from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.closes import CloseReason
from halfsync.pump.connection import Exchange, Route
from halfsync.pump.deaths import Deaths
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.dispatch import Dispatcher
from halfsync.pump.endings import Endings
from halfsync.pump.fast_path import FastPath
from halfsync.pump.http1_responses import Http1Responses
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leases import Leases
from halfsync.pump.poller import Poller
from halfsync.pump.replies import Replies
from halfsync.pump.room import Room
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.saturation import Saturation
from halfsync.pump.stalls import Stalls
from halfsync.pump.states import QUEUED, WHOLE, WORKING
from halfsync.pump.tasks import Tasks, overloaded
from halfsync.pump.workers import DROPPED, LOG_BATCH, Pool, Sent, Worker
from halfsync.wire.messages import Join, LogRecord, LogTask, Stacks
from halfsync.wire.refusals import Refusal

GATHER_TURNS = 4

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class PoolBackend:
    """What a Route leads to: one pool."""

    __slots__ = ("_pool", "_pools")

    def __init__(self, pools: WorkerPools, pool: Pool) -> None:
        self._pools = pools
        self._pool = pool

    def submit(self, exchange: Exchange) -> None:
        self._pools.queue(self._pool, exchange)

    def cancel(self, exchange: Exchange) -> None:
        if exchange.state is QUEUED:
            self._pool.client_left(exchange)
        elif isinstance(exchange.holder, Worker):
            exchange.holder.tell_left(exchange)


class WorkerPools:
    def __init__(
        self,
        plan: Plan,
        clock: Clock,
        poller: Poller,
        run_queue: RunQueue,
        endings: Endings,
        errors: InternalErrors,
        leases: Leases,
        access: AccessLog,
        room: Room,
        responses: Http1Responses,
        report_hung: Callable[[Worker], None],
        report_lost: Callable[[Worker], None],
    ) -> None:
        """`report_hung`: a handler passed its deadline; `report_lost`: a worker's channel is of no use."""
        settings = plan.settings
        self._settings = settings
        self._clock = clock
        self._poller = poller
        self._endings = endings
        self._leases = leases
        self._access = access
        self._report_hung = report_hung
        self._half_closed: list[Exchange] = []  # these came in this turn, with an end of file
        self.gathered = 0  # turns for which there has been something to hand over that was kept for the next
        self.tasks = Tasks(clock, poller, run_queue)
        self.pools = [
            Pool(pool.name, sum(mount.pool == index for mount in plan.mounts))
            for index, pool in enumerate(plan.pools)
        ]
        self._saturation = Saturation(clock)
        self.stalls = Stalls(clock, self.tasks, self._saturation, settings.queue_timeout)
        self.deaths = Deaths(clock, access, self.tasks, report_lost, retry=settings.retry)
        self._dispatcher = Dispatcher(clock, self.tasks)
        backends = [PoolBackend(self, pool) for pool in self.pools]
        self.routes = [
            Route(mount.prefix.encode(), index, backends[mount.pool])
            for index, mount in enumerate(plan.mounts)
        ]
        self.workers = self.tasks.workers
        pools = {route: self.pools[mount.pool] for route, mount in zip(self.routes, plan.mounts, strict=True)}
        self.fast_path = FastPath(
            clock,
            access,
            leases,
            self.tasks,
            pools,
            responses,
            queue_limit=settings.queue_limit,
            keep_alive=settings.keep_alive,
            log_times=endings.log_times,
            log_cookies=endings.log_cookies,
        )
        self._replies = Replies(
            clock,
            run_queue,
            endings,
            errors,
            access,
            leases,
            room,
            self.tasks,
            self.deaths,
            self.fast_path,
            settings.reply_memory,
        )

    # --- workers come and go -----------------------------------------------------------------------

    def join(self, join: Join, fds: list[Descriptor]) -> None:
        """A worker is ready. Raises OSError."""
        worker = Worker(join, self.pools[join.pool], fds)
        self.workers[worker.id] = worker
        worker.pool.workers.append(worker)
        self.tasks.due.add(worker.pool)

        def event(mask: int) -> None:
            if mask & select.EPOLLOUT:
                self.tasks.writable(worker)
            if mask & _READ:
                self._replies.read(worker)

        self._poller.watch(worker.tasks.fileno(), event)

    def retire(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.retiring = True
            self._leases.end_of(worker.id)
            self.tasks.close_if_done(worker)

    def ended(self, worker_id: int, status: int) -> None:
        """Its process is no more; `status` as wait(2) gave it."""
        self.deaths.ended(worker_id, status)

    # --- requests to workers -----------------------------------------------------------------------

    def queue(self, pool: Pool, exchange: Exchange) -> None:
        """A whole request."""
        conn = exchange.conn
        assert conn is not None
        if pool.waiting >= self._settings.queue_limit:
            self._saturation.refused(pool, "queue_limit")
            conn.protocol.refuse(exchange, overloaded())
            return
        exchange.queued_ns = self.tasks.next_ns()
        exchange.move(WHOLE)
        pool.queue.append(exchange)
        self.tasks.due.add(pool)
        if conn.ended:
            self._half_closed.append(exchange)

    def end_of_turn(self, events: int) -> None:
        """Hand over what has been queued, one packet a worker.

        While events come (`events` is how many there were in this turn), more requests are on their way, and
        a packet that holds more of them costs less for each: 8 % of the processor time of a trivial one. So
        it is kept a few turns long, if the handlers are fast and all workers have something to do; the next
        polls do not wait then. (With a worker idle so long, half the rate was lost on a busy machine.)"""
        tasks = self.tasks
        if events and self.gathered < GATHER_TURNS and tasks.due and all(map(_may_wait, tasks.due)):
            self.gathered += 1
            return
        self.gathered = 0
        if tasks.look_at <= self._clock.now:
            self.stalls.look()
        if tasks.due:
            due, tasks.due = tasks.due, set()
            for pool in due:
                if pool.queue or pool.retries:
                    self._dispatcher.hand_over(pool)
        if self._half_closed:
            self._close_those_that_left()

    def _close_those_that_left(self) -> None:
        """A client that closed its side together with its request may want the response still, and gets it
        if a thread is free. If it has to wait for one, it is taken to have left: of the two, the
        client that gave up is by far the more common, and its request would be run for nobody."""
        closed, self._half_closed = self._half_closed, []
        for exchange in closed:
            if exchange.state is QUEUED and exchange.conn is not None:
                self._endings.close(exchange.conn, CloseReason.CLIENT_LEFT)

    def hand_over_records(self) -> None:
        """Give the access log's next batch to a worker of the built-in pool."""
        pool = self.pools[0]
        able = (w for w in reversed(pool.workers) if w.free and not (w.full or w.retiring or w.stalled))
        worker = next(able, None)
        if worker is None:
            return
        batch = self._access.take_batch()
        if not batch:
            return
        number = worker.take_number(LOG_BATCH)
        records = cast(list[LogRecord], batch)  # the same on the wire; see access.Record
        sent = worker.send([LogTask(number, records)], [])
        if sent is not Sent.YES:
            worker.give_number(number)
            self._access.lost()
            self.tasks.not_sent(worker, sent)

    # --- time limits -------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Requests that wait too long, and handlers that take too long."""
        now_ns = self._clock.now_ns
        begun_before = now_ns - int(self._settings.handler_timeout * 1e9)
        for pool in self.pools:
            self._refuse_late(pool, now_ns)
            self._saturation.sweep(pool)
        for worker in list(self.workers.values()):
            self.stalls.overdue(worker, now_ns)
            if self._settings.handler_timeout:
                self._find_hung(worker, begun_before)
        self.deaths.sweep(self._clock.now)

    def _refuse_late(self, pool: Pool, now_ns: int) -> None:
        since = now_ns - int(self._settings.queue_timeout * 1e9)
        while (oldest := pool.oldest()) is not None and oldest.queued_ns < since:
            pool.queue.drop_oldest()
            self._refuse_waiting(pool, oldest)
        for exchange in [one for one in pool.retries if one.queued_ns < since]:
            pool.retries.remove(exchange)
            self._refuse_waiting(pool, exchange)

    def _refuse_waiting(self, pool: Pool, exchange: Exchange) -> None:
        self._saturation.refused(pool, "queue_timeout")
        self.tasks.refuse(exchange, overloaded())

    def _find_hung(self, worker: Worker, begun_before: int) -> None:
        for number, owner in list(worker.owners.items()):
            begun = worker.begun(number)
            if not isinstance(owner, Exchange) or begun == 0 or begun > begun_before:
                continue
            if owner.conn is not None and owner.state is not WORKING:
                continue  # it streams: that is no sign of hanging
            worker.owners[number] = DROPPED  # said once, and a late reply is nobody's
            owner.holder = None
            worker.tell(Stacks(number))
            log(
                "error", f"worker {worker.pid} of {worker.pool.name}: past its deadline: {owner.request_line}"
            )
            self.tasks.refuse(owner, Refusal(504, "The handler passed its deadline.", close=False))
            if not worker.retiring:
                worker.retiring = True
                self._report_hung(worker)


def _may_wait(pool: Pool) -> bool:
    """Whether its workers have enough to do, so that none idles while a packet is gathered."""
    return pool.fast and all(worker.owners for worker in pool.workers)
