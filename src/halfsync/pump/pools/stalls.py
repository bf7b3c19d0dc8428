"""Workers that do not get on with what they hold: seen on the scoreboard, helped within milliseconds.

Three things can keep a task from being begun, and each has a remedy of its own:

 - It came in a packet behind a slow one, and the sibling threads sleep: a Nudge wakes one.
 - All threads of the worker are busy with slow ones, and another worker has room: a Recall brings
   back what waits in the worker.
 - The whole process is frozen (C code or a slow regular expression holds the interpreter lock, or
   somebody stopped it), so that not even its watch thread reads a Nudge: what it has not begun in
   some 50 ms is *withdrawn*, without its help (see SCOREBOARD_SLOTS in wire/task_slots.py), if another
   worker has room, and it gets nothing more until something comes from it.

`queue_timeout` counts until the handler begins; so what a worker does not begin within it is withdrawn
too, and gets a 503, even if there is nobody else to give it to.

Nothing here costs a request anything: while tasks are outstanding the scoreboard is looked at, every 25 ms or
after a few, and what is not begun at two looks in a row, while nothing came from the worker, stalls. That
needs no clock in the tasks, for their numbers never come again.
"""

from __future__ import annotations

from halfsync.logs.error import log
from halfsync.pump.clock import Clock
from halfsync.pump.connection import NEVER, Exchange
from halfsync.pump.pools.costs import LONG_NS
from halfsync.pump.pools.saturation import Saturation
from halfsync.pump.pools.workers import DROPPED, Tasks, Worker, overloaded
from halfsync.pump.states import WORKING
from halfsync.wire.messages import Nudge, Recall

NUDGE_SELDOM = 0.25
"""Seconds. Where nudging does not help, since all threads are busy, it becomes seldom."""
LOOK = 0.025
"""Seconds between two looks at a worker's scoreboard. A thread that waits for the interpreter lock gets it
after 5 ms (sys.getswitchinterval), or after as many times 5 ms as there are others who compute."""
SETTLE = 0.005
"""Seconds between a task's withdrawal and the look whether it has been begun all the same: enough for
what one processor wrote to be seen by another, many thousand times over."""


class Stalls:
    def __init__(self, clock: Clock, tasks: Tasks, saturation: Saturation) -> None:
        self._clock = clock
        self._tasks = tasks
        self._saturation = saturation

    def look(self) -> None:
        """At all workers that hold something."""
        self._tasks.look_at = NEVER
        now = self._clock.now
        for worker in list(self._tasks.workers.values()):
            if worker.short_until:
                self._shortage(worker, now)
            if worker.alone_until and now >= worker.alone_until:
                worker.reserved = False
                worker.alone_until = 0.0
                self._tasks.due.add(worker.pool)
            if worker.outstanding:
                self._unbegun(worker, now)
            if worker.outstanding >= 2 and not worker.is_loop:
                self._nudge(worker, now)

    def _shortage(self, worker: Worker, now: float) -> None:
        """Memory, or descriptors that may be on their way: nothing but time tells whether it is over."""
        if now < worker.short_until:
            self._tasks.look_within(worker.short_until - now)
            return
        worker.short_until = 0.0
        worker.full = False
        self._tasks.due.add(worker.pool)

    # --- what is not begun -----------------------------------------------------------------------

    def _unbegun(self, worker: Worker, now: float) -> None:
        if now >= worker.look_at:
            if worker.withdrawing:
                self._take_back(worker)
            self._find_stalled(worker, now)
            self._find_long(worker, now)
            worker.look_at = now + (SETTLE if worker.withdrawing else LOOK)
        self._tasks.look_within(worker.look_at - now)

    def _find_stalled(self, worker: Worker, now: float) -> None:
        unbegun = worker.unbegun()
        stalled = [number for number in unbegun if number in worker.unbegun_before]
        worker.unbegun_before = set(unbegun)
        if not stalled or now - worker.heard_at < LOOK or not _room_elsewhere(worker):
            return
        if not worker.stalled:
            worker.stalled = True
            log("info", f"worker {worker.pid} of {worker.pool.name} begins nothing: others get its requests.")
        self._withdraw(worker, stalled)

    def _find_long(self, worker: Worker, now: float) -> None:
        """What runs for long: see costs.py. (In an event loop, that keeps no other waiting.)"""
        if worker.is_loop:
            return
        since = self._clock.now_ns - LONG_NS
        for number, owner in worker.owners.items():
            if isinstance(owner, Exchange) and 0 < (begun := worker.begun(number)) < since:
                worker.pool.took(owner, self._clock.now_ns - begun, now)

    def overdue(self, worker: Worker, now_ns: int) -> None:
        """Withdraw what waits there longer than a request may."""
        if not worker.outstanding:
            return
        late = [
            number
            for number in worker.unbegun()
            if isinstance(owner := worker.owners[number], Exchange) and is_late(owner, now_ns)
        ]
        if late:
            self._withdraw(worker, late)
            worker.look_at = self._clock.now + SETTLE
            self._tasks.look_within(SETTLE)

    def _withdraw(self, worker: Worker, numbers: list[int]) -> None:
        for number in numbers:
            worker.withdraw(number)
        worker.withdrawing += numbers

    def _take_back(self, worker: Worker) -> None:
        """What was withdrawn at an earlier look, and is not begun now, never will be."""
        numbers, worker.withdrawing = worker.withdrawing, []
        for number in numbers:
            exchange = worker.owners.get(number)
            if not isinstance(exchange, Exchange):
                continue
            if worker.begun(number):
                worker.stalled = False
                continue
            worker.owners[number] = DROPPED
            if is_late(exchange, self._clock.now_ns):
                self._refuse_late(worker, exchange)
            else:
                self._tasks.take_back(worker, exchange)
        self._tasks.due.add(worker.pool)

    def _refuse_late(self, worker: Worker, exchange: Exchange) -> None:
        """It was handed over, and not begun within queue_timeout."""
        exchange.holder = None
        if exchange.state is WORKING:
            self._saturation.refused(worker.pool, "queue_timeout")
            self._tasks.refuse(exchange, overloaded("queue_timeout"))

    # --- what waits behind others ----------------------------------------------------------------

    def _nudge(self, worker: Worker, now: float) -> None:
        """It holds several tasks: see to it if it has ended none for some milliseconds."""
        if now - worker.heard_at >= worker.nudge_after:
            worker.tell(Nudge())  # responses may be waiting to be batched behind a slow one
            waiting = len(worker.unbegun())
            if not waiting:
                return
            self._help(worker, waiting)
            worker.nudge_after = min(2 * worker.nudge_after, NUDGE_SELDOM)
        self._tasks.look_within(worker.nudge_after)

    def _help(self, worker: Worker, waiting: int) -> None:
        """Tasks wait behind slow ones: bring a sibling thread to them, or them to another worker."""
        if worker.outstanding - waiting < worker.threads:
            self._tasks.send_nudge(worker)
        elif _room_elsewhere(worker):
            worker.recalled = True
            worker.tell(Recall())


def _room_elsewhere(worker: Worker) -> bool:
    return any(other.room > 0 for other in worker.pool.workers if other is not worker)


def is_late(exchange: Exchange, now_ns: int) -> bool:
    """Whether a request that no handler has begun waits longer than its route's queue_timeout."""
    assert exchange.route is not None
    return now_ns - exchange.queued_ns > exchange.route.limits.queue_timeout * 1e9
