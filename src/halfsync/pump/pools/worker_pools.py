"""The backend of routes that workers serve: pools of worker processes, and all that is done for them.

The parts: `workers` knows which worker has which task, `dispatch` hands over, `replies` reads what workers
say, `stalls` helps those that do not get on, `hung` ends handlers that pass their deadline, `deaths`
settles what a worker leaves behind when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from halfsync.http.forwarded import Trust
from halfsync.http.header_rules import HeaderRules
from halfsync.plan.plan import NO_POOL, Limits, Plan, RoutePlan
from halfsync.pump.access import AccessLog
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Backend, Exchange, Route
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.endings import Endings
from halfsync.pump.fixed import FixedBackend
from halfsync.pump.http1.responses import Http1Responses
from halfsync.pump.internal_errors import InternalErrors
from halfsync.pump.leases.leases import Leases
from halfsync.pump.limits.access_rules import access_of
from halfsync.pump.limits.client_rates import Prefixes
from halfsync.pump.limits.limit_store import LimitStore
from halfsync.pump.own_responses import look_of
from halfsync.pump.poller import Poller
from halfsync.pump.pools.deaths import WorkerDeaths
from halfsync.pump.pools.dispatch import Dispatcher
from halfsync.pump.pools.hung import HungHandlers
from halfsync.pump.pools.overload import Overload
from halfsync.pump.pools.replies import Replies
from halfsync.pump.pools.saturation import Saturation
from halfsync.pump.pools.stalls import Stalls, is_late
from halfsync.pump.pools.task_rows import describe_tasks, forget_tasks
from halfsync.pump.pools.workers import DROPPED, LOG_BATCH, Pool, Sent, Tasks, Worker, overloaded
from halfsync.pump.room import Room
from halfsync.pump.run_queue import RunQueue
from halfsync.pump.states import QUEUED
from halfsync.pump.status_backend import Shown, StatusBackend
from halfsync.pump.task_messages import MessageQueue
from halfsync.pump.tunnel import Tunnels
from halfsync.pump.websocket.protocol import WebSockets
from halfsync.scoreboard.counts import PoolCounts
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.wire.blocks import BLOCK_FROM, BLOCK_SIZE
from halfsync.wire.messages import Close, Ending, LogRecord, LogTask, Message, Piece, Taken
from halfsync.wire.orders import Join


class PoolBackend:
    """What a Route leads to: one pool."""

    __slots__ = ("_dispatcher", "_pool", "_streams", "_tasks", "streams")

    def __init__(self, dispatcher: Dispatcher, tasks: Tasks, pool: Pool, *, streams: bool) -> None:
        self._dispatcher = dispatcher
        self._tasks = tasks
        self._pool = pool
        self._streams = streams
        self.joined()

    def joined(self) -> None:
        """A worker has joined the pool, perhaps one of another kind than before."""
        self.streams = self._streams or self._pool.has_loops

    @property
    def takes_websockets(self) -> bool:
        return self._pool.has_loops

    def submit(self, exchange: Exchange) -> None:
        self._dispatcher.queue(self._pool, exchange)

    def cancel(self, exchange: Exchange) -> None:
        if exchange.state is QUEUED:
            self._pool.client_disconnected(exchange)
        elif isinstance(exchange.holder, Worker):
            if exchange.websocket is not None and exchange.websocket.has_begun:
                self._drop(exchange.holder, exchange)
            else:
                self._tasks.tell_client_disconnected(exchange.holder, exchange)

    def pass_on(self, exchange: Exchange, offset: int, data: bytes, ending: Ending) -> None:
        worker = exchange.holder
        if not isinstance(worker, Worker):
            return
        piece = Piece(exchange.task, offset, data, ending)
        if worker.uploads is not None and BLOCK_FROM <= len(data) <= BLOCK_SIZE:
            block = worker.uploads.fill((data,))
            if block >= 0:
                piece = Piece(exchange.task, offset, b"", ending, block, len(data))
        self._tasks.messages.put(worker.watch, piece)

    def taken(self, exchange: Exchange) -> None:
        size, exchange.window = exchange.window, 0
        worker = exchange.holder
        if isinstance(worker, Worker) and worker.owners.get(exchange.task) is exchange:
            self._tasks.messages.put(worker.watch, Taken(exchange.task, size))

    def is_told(self, exchange: Exchange) -> bool:
        return isinstance(exchange.holder, Worker) and exchange.holder.is_loop

    def pass_message(self, exchange: Exchange, message: Message, file: Descriptor | None) -> None:
        if isinstance(exchange.holder, Worker):
            self._tasks.messages.put(exchange.holder.watch, message, file)

    def message_queue(self, exchange: Exchange) -> MessageQueue:
        assert isinstance(exchange.holder, Worker)
        return self._tasks.messages.queue_of(exchange.holder.watch)

    def websocket_closed(self, exchange: Exchange, code: int, reason: bytes) -> None:
        worker = exchange.holder
        if isinstance(worker, Worker) and worker.owners.get(exchange.task) is exchange:
            worker.owners[exchange.task] = DROPPED
            self._tasks.messages.put(worker.watch, Close(exchange.task, code, reason))

    def give_up(self, exchange: Exchange) -> None:
        worker = exchange.holder
        if exchange.state is QUEUED:
            self._pool.client_disconnected(exchange)
        elif isinstance(worker, Worker):
            self._drop(worker, exchange)

    def _drop(self, worker: Worker, exchange: Exchange) -> None:
        """Nothing more is wanted of it."""
        if worker.owners.get(exchange.task) is exchange:
            self._tasks.drop(worker, exchange.task)
            exchange.holder = None


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
        tunnels: Tunnels,
        websockets: WebSockets,
        scoreboard: Scoreboard,
        limit_store: LimitStore,
        report_hung: Callable[[Worker], None],
        report_interrupted: Callable[[Worker], None],
        report_lost: Callable[[Worker], None],
    ) -> None:
        """`report_hung`, `report_interrupted`: see HungHandlers; `report_lost`: a worker's channel is of no
        use."""
        settings = plan.settings
        self._clock = clock
        self._run_queue = run_queue
        self._leases = leases
        self._access = access
        self._limit_store = limit_store
        self.shown = Shown()
        self.tasks = Tasks(clock, poller, run_queue)
        self._scoreboard = scoreboard
        self.pools = [
            Pool(pool.name, _routes_of(plan, index), _counts_of(scoreboard, index))
            for index, pool in enumerate(plan.pools)
        ]
        self._saturation = Saturation(clock)
        self.overload = Overload(clock, self.tasks, self._saturation)
        self.stalls = Stalls(clock, self.tasks, self._saturation)
        self._hung = HungHandlers(clock, self.tasks, report_hung, report_interrupted)
        self._websockets = websockets
        self.deaths = WorkerDeaths(clock, access, self.tasks, report_lost, websockets, retry=settings.retry)
        self.dispatcher = Dispatcher(
            clock, endings, leases, self.tasks, self.stalls, self._saturation, self.overload
        )
        self._replies = Replies(
            clock,
            poller,
            run_queue,
            endings,
            errors,
            access,
            leases,
            room,
            self.tasks,
            self.deaths,
            responses,
            tunnels,
            websockets,
            settings,
        )
        self.workers = self.tasks.workers
        self.routes: list[Route] = []
        self._make_routes(plan)

    def configure(self, plan: Plan) -> list[Exchange]:
        """Another plan is in effect. All workers that are here have the old one, and get nothing more. Gives
        the requests that wait, which have a place in no queue then."""
        settings = plan.settings
        self.deaths.retry = settings.retry
        self._replies.configure(settings)
        for worker_id in list(self.workers):
            self.retire(worker_id)
        waiting = [one for pool in self.pools for one in pool.take_all()]
        for index, planned in enumerate(plan.pools):
            if index == len(self.pools):
                self.pools.append(Pool(planned.name, 1, _counts_of(self._scoreboard, index)))
            pool = self.pools[index]
            pool.name = planned.name  # one that never came into effect may have left its place
            pool.is_shared_by(_routes_of(plan, index))
        self._make_routes(plan)
        return sorted(waiting, key=lambda one: one.queued_ns)

    def _make_routes(self, plan: Plan) -> None:
        for route in self.routes:
            route.is_current = False
        usual = Limits.of(plan.settings)
        self.routes = [
            Route(planned.prefix.encode(), index, self._backend(planned), planned.limits or usual)
            for index, planned in enumerate(plan.routes)
        ]
        trust = Trust(plan.settings.forwarded_allow_ips, plan.settings.forwarded_headers)
        prefixes = Prefixes(plan.settings.client_prefix_ipv4, plan.settings.client_prefix_ipv6)
        self._limit_store.configure(plan.settings.limit_store)
        for route, planned in zip(self.routes, plan.routes, strict=True):
            route.headers = HeaderRules(planned.headers) if planned.headers else None
            route.look = look_of(planned)
            share = partial(self._limit_store.limit, name_of(plan, planned))
            route.access = access_of(planned, trust, prefixes, share)
        self._may_hang = any(
            route.limits.handler_timeout or route.limits.stream_timeout for route in self.routes
        )
        self.dispatcher.pools = {
            route: self.pools[planned.pool]
            for route, planned in zip(self.routes, plan.routes, strict=True)
            if planned.pool != NO_POOL
        }
        for pool in self.pools:
            pool.handler_timeout = 0.0
        for route, pool in self.dispatcher.pools.items():
            route.pool = pool
            pool.handler_timeout = max(pool.handler_timeout, route.limits.handler_timeout)
        self.overload.configure(plan, self.pools, self.routes)

    def _backend(self, planned: RoutePlan) -> Backend:
        if planned.shows:
            return StatusBackend(planned.shows, self.shown)
        if planned.fixed is not None:
            return FixedBackend(planned.prefix.encode(), planned.fixed)
        pool = self.pools[planned.pool]
        return PoolBackend(self.dispatcher, self.tasks, pool, streams=planned.streams)

    def queue_again(self, exchange: Exchange) -> None:
        """One that waited already (QUEUED), where its route says."""
        assert exchange.route is not None
        pool = self.dispatcher.pools.get(exchange.route)
        if pool is None:
            exchange.route.backend.submit(exchange)
            assert exchange.conn is not None
            self._run_queue.ready(exchange.conn)
            return
        if exchange.attempts:
            pool.retries.append(exchange)
        else:
            pool.put_back(exchange)
        self.tasks.due.add(pool)

    # --- workers come and go -----------------------------------------------------------------------

    def join(self, join: Join, fds: list[Descriptor]) -> None:
        """A worker is ready. Raises OSError."""
        worker = Worker(join, self.pools[join.pool], fds, self._scoreboard.served(join.row))
        self.workers[worker.id] = worker
        forget_tasks(self._scoreboard, worker)
        worker.pool.workers.append(worker)
        if worker.pool.has_loops != worker.is_loop:
            worker.pool.has_loops = worker.is_loop
            for route in self.routes:
                if isinstance(route.backend, PoolBackend):
                    route.backend.joined()
        self.tasks.due.add(worker.pool)
        self._replies.watch(worker)

    def retire(self, worker_id: int) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.retiring = True
            self._leases.end_of(worker.id)
            for owner in list(worker.owners.values()):
                if isinstance(owner, Exchange) and owner.websocket is not None:
                    self._websockets.worker_ends(owner)
            self.tasks.close_if_done(worker)

    def ended(self, worker_id: int, status: int) -> None:
        """Its process is no more; `status` as wait(2) gave it."""
        self.deaths.ended(worker_id, status)

    # --- requests to workers -----------------------------------------------------------------------

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
        for pool in self.pools:
            self._refuse_late(pool, now_ns)
            self._saturation.sweep(pool)
            pool.sweep(self._clock.now)
            if pool.queue or pool.retries:  # as a rule it can't be helped; but an error may have come between
                self.tasks.due.add(pool)
        self.overload.sweep()
        for worker in list(self.workers.values()):
            self.stalls.overdue(worker, now_ns)
            describe_tasks(self._scoreboard, worker)
        if self._may_hang:
            self._hung.sweep(list(self.workers.values()))
        self.deaths.sweep(self._clock.now)

    def _refuse_late(self, pool: Pool, now_ns: int) -> None:
        for exchange in pool.take(lambda one: is_late(one, now_ns)):
            self._refuse_waiting(pool, exchange)
        for exchange in [one for one in pool.retries if is_late(one, now_ns)]:
            pool.retries.remove(exchange)
            self._refuse_waiting(pool, exchange)

    def _refuse_waiting(self, pool: Pool, exchange: Exchange) -> None:
        self._saturation.refused(pool, "queue_timeout")
        self.tasks.refuse(exchange, overloaded("queue_timeout"))


def name_of(plan: Plan, route: RoutePlan) -> str:
    """Of its `client_rate` in the store: what other machines call the same limit."""
    return f"{plan.sites[route.site].name}{route.prefix} {route.client_rate:g} {route.client_burst}"


def _counts_of(scoreboard: Scoreboard, index: int) -> PoolCounts:
    return PoolCounts(scoreboard.pool(index), scoreboard.pool_before(index))


def _routes_of(plan: Plan, pool: int) -> int:
    """How many routes lead to it."""
    return sum(route.pool == pool for route in plan.routes)
