"""More requests than an application can handle: `queue_target`, which keeps the wait short for those that are
handled, and refuses the others early.

Theory of operation
-------------------
With twice the load that an application can take, a queue of any length is full soon, and all that is handled
then has waited for as long as the queue is long: each response comes late, and none sooner than if half of
the requests had been refused. So what counts is how long requests wait, not how many there are (as in CoDel,
RFC 8289):

 - A pool is watched from when a request has waited for longer than the target. If that stays so for PATIENCE,
   more come than end, and some do end, it is *overloaded*. A burst is over by then. Handlers that hang are no
   overload (`queue_timeout` is for those).
 - More come than end if the number of those that wait goes on growing: of late it was at no time as small as
   at any time in the first half. (Or requests are turned away now, since the queue is as long as it may be.)
   A fixed number of clients, each of which sends its next request when it has its response, is no overload,
   however long each waits. On a busy machine their number seems to grow: they, or the workers, have no
   processor for a while, and then send all at once. But it comes to no more than before.
 - Time in which this process waits for a processor itself does not count: so little happens in it.
 - While it is overloaded, a request that has waited for longer than the target gets a 503; and so does, at
   once, one that would have to: no more are let into the queue than threads can begin within the target.
 - It is over when in the last PATIENCE nothing had to be refused, or threads were idle for IDLE of it, since
   nothing waited.

The target "auto" is half of the time that handlers take, so that a response comes within 1.5 times the usual
time; LEAST_TARGET at least.

It costs a request nothing: the queues are looked at with the scoreboards, every 25 ms while there are tasks
(see stalls.py), and while a pool is overloaded when its oldest request reaches the target. What keeps
requests out of the queue is the `queue_limit` of its routes, which is compared anyway.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from halfsync.counts import TOTAL_NS, WORD
from halfsync.plan import BUILT_IN, Plan
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Exchange, Route
from halfsync.pump.pools.saturation import Saturation
from halfsync.pump.pools.stalls import LOOK
from halfsync.pump.pools.workers import Pool, Tasks, overloaded
from halfsync.pump.quiet_log import QuietLog

PART = 0.5
"""Of the time that handlers take: the target, if it is "auto"."""
LEAST_TARGET = 0.05
"""Seconds; less would be the jitter of the machine."""
PATIENCE = 1.0
"""Seconds for which requests may wait too long until that is an overload; or twice the time that handlers
take. A page with all its images, or a scheduled job, is a burst of a second."""
GROWING = 10.0
"""The same for a pool that can have more workers: they are on their way."""
MOST_STEP = 32
"""By so many, or by a quarter, the number of those that wait has to grow; by fewer if there are fewer
threads."""
WINDOWS = 8
"""In PATIENCE: of each it is known how many waited at least, and at most."""
REMEMBERED = 8 * WINDOWS
IDLE = 0.4
"""Of the time. At the full load some thread is idle for a third of it at most: for moments, until the next
request comes."""
FEW = 3
"""So many requests have to end meanwhile, at least, and by so many has the number to grow: with one thread,
two that wait for a slow one are no overload."""
SMOOTHING = 0.3
"""Weight of the last half second in the mean time of handlers."""


@dataclass
class _Mean:
    """Of the times that a pool's handlers take."""

    count: int = 0
    total_ns: int = 0
    mean_ns: float = 0.0


MANY = 1 << 30


@dataclass
class _Watch:
    """Of a pool whose requests wait too long. Times are monotonic seconds."""

    since: float
    ended: int  # requests that had ended by then
    delayed: float  # seconds that this process had waited for a processor by then
    count: int = 0  # windows that are over; of the last ones, how many waited at least, and at most:
    windows: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    least: int = MANY  # the same, in the window that is not over
    most: int = 0
    turned_away: int = 0  # by `queue_limit`, in that window
    is_overload: bool = False
    # while it is one:
    looked_at: float = 0.0
    window_at: float = 0.0  # when the last PATIENCE began
    idle: float = 0.0  # seconds of it in which threads were
    refused: int = 0
    refused_before: int = 0  # the last PATIENCE


class Overload:
    def __init__(self, clock: Clock, tasks: Tasks, saturation: Saturation) -> None:
        self._clock = clock
        self._tasks = tasks
        self._saturation = saturation
        self._most: dict[Pool, int] = {}  # pools of applications, with how many workers they can have
        self._routes: dict[Pool, list[Route]] = {}
        self._means: dict[Pool, _Mean] = {}
        self._watches: dict[Pool, _Watch] = {}
        self._log = QuietLog()
        self.delay = run_delay

    def configure(self, plan: Plan, pools: Sequence[Pool], routes: Sequence[Route]) -> None:
        self._watches.clear()
        self._most = {
            pool: planned.most_processes
            for index, (pool, planned) in enumerate(zip(pools, plan.pools, strict=False))
            if index != BUILT_IN
        }
        self._routes = {pool: [route for route in routes if route.pool is pool] for pool in self._most}
        for pool in pools:
            pool.is_overloaded = False

    def refuse(self, pool: Pool, exchange: Exchange) -> str:
        """A request is not let into the queue: which setting that is."""
        assert exchange.route is not None
        if not pool.is_overloaded or pool.waiting >= exchange.route.limits.queue_limit:
            watch = self._watches.get(pool)
            if watch is not None and pool.waiting >= self._longest(pool):
                watch.turned_away += 1
            return "queue_limit"
        self._watches[pool].refused += 1
        return "queue_target"

    def sweep(self) -> None:
        """Twice a second."""
        for pool in self._most:
            seen = self._means.setdefault(pool, _Mean())
            count, total_ns = sum(pool.counts.times), pool.counts.words[TOTAL_NS]
            if count > seen.count:
                mean_ns = ((total_ns - seen.total_ns) & WORD) / (count - seen.count)
                seen.mean_ns += (mean_ns - seen.mean_ns) * (SMOOTHING if seen.mean_ns else 1.0)
            seen.count, seen.total_ns = count, total_ns

    def look(self) -> None:
        """At all queues."""
        for pool in self._most:
            if pool.queue or pool in self._watches:
                self._look_at(pool)

    def _look_at(self, pool: Pool) -> None:
        now_ns = self._clock.now_ns
        found = [(now_ns - one.queued_ns, self._target_ns(pool, one)) for one in pool.heads()]
        watch = self._watches.get(pool)
        if watch is not None and watch.is_overload:
            self._shed(pool, watch)
        elif not any(age > target for age, target in found):
            self._watches.pop(pool, None)
        elif watch is None:
            self._watches[pool] = _Watch(self._clock.now, sum(pool.counts.times), self.delay())
        elif self._is_overload(pool, watch):
            self._begin(pool, watch)

    # --- is it one? --------------------------------------------------------------------------------

    def _is_overload(self, pool: Pool, watch: _Watch) -> bool:
        watch.least = min(watch.least, pool.waiting)
        watch.most = max(watch.most, pool.waiting)
        elapsed = self._clock.now - watch.since - (self.delay() - watch.delayed)
        patience = self._patience(pool)
        if elapsed < (watch.count + 1) * patience / WINDOWS:
            return False
        watch.count += 1
        watch.windows.append((watch.least, watch.most))
        turned_away, threads = watch.turned_away, _threads(pool)
        watch.least, watch.most, watch.turned_away = MANY, 0, 0
        return (
            watch.count >= WINDOWS
            and (turned_away > 0 or _grows([*watch.windows], threads))
            and sum(pool.counts.times) >= watch.ended + max(threads, FEW)
            and threads > 0
        )

    def _longest(self, pool: Pool) -> int:
        """How many may wait at most."""
        return max((route.limits.queue_limit for route in self._routes.get(pool, ())), default=MANY)

    def _patience(self, pool: Pool) -> float:
        can_grow = sum(not worker.retiring for worker in pool.workers) < self._most[pool]
        return max(GROWING if can_grow else PATIENCE, 2 * self._mean_ns(pool) / 1e9)

    def _mean_ns(self, pool: Pool) -> float:
        found = self._means.get(pool)
        return found.mean_ns if found is not None else 0.0

    def _target_ns(self, pool: Pool, exchange: Exchange) -> float:
        """For how long this request may wait while its pool is overloaded."""
        assert exchange.route is not None
        target = exchange.route.limits.queue_target
        if target == "auto":
            return max(LEAST_TARGET * 1e9, PART * self._mean_ns(pool))
        return target * 1e9 if target else math.inf

    def _begin(self, pool: Pool, watch: _Watch) -> None:
        now = self._clock.now
        watch.is_overload = pool.is_overloaded = True
        watch.looked_at = watch.window_at = now
        target = min(self._target_ns(pool, one) for one in pool.heads()) / 1e9
        self._log.say(
            "warning",
            f"{pool.name} is overloaded: for {now - watch.since:.1f} s requests have waited longer than "
            f"{target:.2g} s, and more come than end. Those that would still do get a 503 (queue_target).",
            now,
        )
        self._shed(pool, watch)

    # --- while it is one ---------------------------------------------------------------------------

    def _shed(self, pool: Pool, watch: _Watch) -> None:
        now, now_ns = self._clock.now, self._clock.now_ns
        if not pool.waiting and any(worker.outstanding < worker.threads for worker in pool.workers):
            watch.idle += now - watch.looked_at
        watch.looked_at = now
        patience = self._patience(pool)
        if now - watch.window_at >= patience:
            if watch.idle >= IDLE * patience or watch.refused == watch.refused_before:
                self._end(pool, watch)
                return
            watch.window_at, watch.idle, watch.refused_before = now, 0.0, watch.refused
        if not _threads(pool):  # a new worker is on its way
            self._end(pool, watch)
            return
        for exchange in pool.take(lambda one: now_ns - one.queued_ns > self._target_ns(pool, one)):
            watch.refused += 1
            self._saturation.refused(pool, "queue_target")
            self._tasks.refuse(exchange, overloaded("queue_target"))
        self._let_in(pool)
        left = [self._target_ns(pool, one) - (now_ns - one.queued_ns) for one in pool.heads()]
        self._tasks.look_within(min(LOOK, max(0.001, min(left, default=math.inf) / 1e9)))

    def _let_in(self, pool: Pool) -> None:
        """No more into the queue than can be begun within the target."""
        mean_ns = max(self._mean_ns(pool), 1.0)
        room = sum(max(0, worker.room) for worker in pool.workers)
        for route in self._routes[pool]:
            target = route.limits.queue_target
            target_ns = max(LEAST_TARGET * 1e9, PART * mean_ns) if target == "auto" else target * 1e9
            if target_ns:
                most = room + 1 + int(_threads(pool) * target_ns / mean_ns)
                route.queue_limit = min(route.limits.queue_limit, most)

    def _end(self, pool: Pool, watch: _Watch) -> None:
        del self._watches[pool]
        pool.is_overloaded = False
        for route in self._routes[pool]:
            route.queue_limit = route.limits.queue_limit
        self._log.say(
            "info",
            f"{pool.name} is no longer overloaded: {watch.refused} requests got a 503 (queue_target).",
            self._clock.now,
        )


def _grows(windows: Sequence[tuple[int, int]], threads: int) -> bool:
    """Whether more wait now than at any time in the first half of these windows, by far."""
    before = max(most for _, most in windows[: len(windows) // 2])
    return windows[-1][0] >= before + max(before // 4, min(threads, MOST_STEP), FEW)


def run_delay() -> float:
    """Seconds in which this process could run, and another one had the processor (see proc_pid_schedstat in
    the kernel's Documentation/scheduler/sched-stats). 0 where the kernel does not tell."""
    try:
        with open("/proc/self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _threads(pool: Pool) -> int:
    return sum(worker.threads for worker in pool.workers if not worker.retiring)
