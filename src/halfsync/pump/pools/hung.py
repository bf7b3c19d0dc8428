"""Handlers that pass their deadline: one step after the other, until their requests or their workers end.

 1. The client gets a 504. The worker logs where the handler is.
 2. A task of an event loop is cancelled; in the thread of any other handler an exception is raised, as soon
    as its own code runs (see worker/interrupts.py).
 3. If the handler ends within `handler_grace`, that was all for an event loop. A worker whose thread was
    interrupted goes on until another one is ready: the exception may have come anywhere.
 4. If it does not end (it waits in C code, or goes on all the same), the worker gets no more tasks, finishes
    its others, and is replaced.
 5. The parent kills it at graceful_timeout, or before that if there are many of its kind.

Nothing here needs the worker's help but what step 2 does: the pump sees on the scoreboard what was begun and
when, and knows what has ended. So a handler that keeps the interpreter lock for itself comes to its end, too.
An event loop that is blocked for as long as its handlers may take is at step 4 at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from halfsync.logs.error import log
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Exchange
from halfsync.pump.pools.workers import DROPPED, Tasks, Worker
from halfsync.pump.states import WORKING
from halfsync.wire.messages import Cancel, ClientDisconnected, Stacks
from halfsync.wire.refusals import Refusal


@dataclass
class _Late:
    """A handler that was told to end."""

    worker: Worker
    number: int  # the task's
    named: str
    since: float  # monotonic
    until: float


class HungHandlers:
    def __init__(
        self,
        clock: Clock,
        tasks: Tasks,
        report_hung: Callable[[Worker], None],
        report_interrupted: Callable[[Worker], None],
    ) -> None:
        """`report_hung`: a handler did not end; `report_interrupted`: one did, by an exception that may have
        come anywhere."""
        self._clock = clock
        self._tasks = tasks
        self._report_hung = report_hung
        self._report_interrupted = report_interrupted
        self._late: list[_Late] = []
        self._left: dict[int, int] = {}  # tasks that streamed when their clients left -> when that was seen

    def sweep(self, workers: Iterable[Worker]) -> None:
        before, self._left = self._left, {}
        for worker in workers:
            self._find(worker, before)
        if self._late:
            self._late = [late for late in self._late if self._goes_on(late)]

    def _find(self, worker: Worker, left: dict[int, int]) -> None:
        now_ns = self._clock.now_ns
        for number, owner in list(worker.owners.items()):
            begun = worker.begun(number)
            if not isinstance(owner, Exchange) or not begun:
                continue
            if owner.conn is None and owner.status:  # its handler learns of it when it goes on
                self._left[number] = begun = left.get(number, now_ns)
            if _is_past_deadline(owner, begun, now_ns):
                self._give_up(worker, number, owner)
        if worker.is_loop and _is_blocked(worker, now_ns):
            self._replace(worker)

    def _give_up(self, worker: Worker, number: int, exchange: Exchange) -> None:
        assert exchange.route is not None
        limits = exchange.route.limits
        begun_before = self._clock.now_ns - int(_limit(exchange) * 1e9)
        worker.owners[number] = DROPPED  # said once; a late response is dropped
        exchange.holder = None
        log("error", f"worker {worker.pid} of {worker.pool.name}: past its deadline: {exchange.request_line}")
        if worker.is_loop:
            if worker.turned_ns > begun_before:
                self._tasks.messages.say(worker.watch, Cancel(number))
                self._await(worker, number, exchange, limits.handler_grace)
        else:
            if exchange.stream is not None:  # it may wait for more of its body later
                self._tasks.messages.say(worker.watch, ClientDisconnected(number))
            worker.tell(Stacks(number, limits.handler_grace))
            if limits.handler_grace:
                self._await(worker, number, exchange, limits.handler_grace)
            else:
                self._replace(worker)
        self._tasks.refuse(exchange, Refusal(504, "The handler passed its deadline.", close=False))

    def _await(self, worker: Worker, number: int, exchange: Exchange, grace: float) -> None:
        now = self._clock.now
        self._late.append(_Late(worker, number, exchange.named, now, now + grace))

    def _goes_on(self, late: _Late) -> bool:
        """Whether it is to be looked at again."""
        worker = late.worker
        if worker.id not in self._tasks.workers or worker.retiring:
            return False
        now = self._clock.now
        if late.number not in worker.owners:
            seconds = now - late.since
            log("info", f"worker {worker.pid}: {late.named} ended within {seconds:.1f} s of its deadline.")
            if not worker.is_loop:
                self._report_interrupted(worker)
            return False
        if now < late.until:
            return True
        log(
            "warning",
            f"worker {worker.pid} of {worker.pool.name}: {late.named} goes on {now - late.since:.1f} s after "
            "its deadline (handler_grace): the worker gets no more requests.",
        )
        self._replace(worker)
        return False

    def _replace(self, worker: Worker) -> None:
        if not worker.retiring:
            worker.retiring = True
            self._report_hung(worker)


def _limit(exchange: Exchange) -> float:
    """Seconds that its handler may take. One that streamed until its client was gone, or was cut off at
    `stream_timeout`, may pause that long again if there is no other limit: else its thread would be lost for
    good."""
    if exchange.route is None:
        return 0.0
    limits = exchange.route.limits
    has_streamed = exchange.conn is None and exchange.status
    return limits.handler_timeout or (limits.stream_timeout if has_streamed else 0.0)


def _is_past_deadline(exchange: Exchange, begun: int, now_ns: int) -> bool:
    """Whether its handler, which began then, should have begun its response by now."""
    limit = _limit(exchange)
    begun_before = now_ns - int(limit * 1e9)
    if not limit or begun > begun_before:
        return False
    if exchange.conn is None:
        return True
    if exchange.state is not WORKING:
        return False  # it streams: that is no sign of hanging
    stream = exchange.stream
    return stream is None or not (stream.is_awaited or stream.handlers_turn_ns > begun_before)


def _is_blocked(worker: Worker, now_ns: int) -> bool:
    """Whether the event loop has not turned for longer than any handler may take, though it has a task."""
    limit = worker.pool.handler_timeout
    if not limit or worker.turned_ns > now_ns - int(limit * 1e9):
        return False
    return any(map(worker.begun, worker.owners))
