"""More requests than an application can handle: `queue_target`, which keeps the wait short for those that are
handled, and refuses the others early.

Theory of operation
-------------------
With twice the load that an application can take, a queue of any length is full soon, and all that is handled
then has waited for as long as the queue is long: each response comes late, and none sooner than if half of
the requests had been refused. So what counts is how long requests wait, not how many there are (as in CoDel,
RFC 8289).

Whether it is an overload is decided slowly, so that a burst is none:

 - A pool is watched from when a request has waited for longer than the target (LEAST_SIGN at least). If that
   stays so for INTERVAL, more come than end, and some do end, it is *overloaded*. A burst is over by then.
   Handlers that hang are no overload (`queue_timeout` is for those).
 - More come than end if the number of those that wait goes on growing: of late it was at no time as small as
   at any time in the first half, and it has grown by a tenth of those that ended meanwhile (or by less, if
   they wait for LONG by now). Or requests are turned away now, since the queue is as long as it may be.
   A fixed number of clients, each of which sends its next request when it has its response, is no overload,
   however long each waits. On a busy machine their number seems to grow: they, or the workers, have no
   processor for a while, and then send all at once. But it comes to no more than before. And a load test that
   begins with few clients has more and more, but not by so many.
 - Time in which this process waits for a processor itself does not count: so little happens in it.

While it is overloaded,

 - the newest request is handed over first (*adaptive LIFO*; see "Fail at Scale", ACM Queue 13.8). At twice
   the load one has come a moment before any thread is free, so what is handled has hardly waited, however
   short a time handlers take. First come, first served, each would wait for as long as the queue is, and
   where that is shorter than the jitter of the machine, threads idle.
 - Those that wait for longer than the target get a 503, and so do the oldest of more than KEPT_PART of what
   threads can begin at a time. That comes after all that threads have room for was handed over, so if this
   process had no processor for a moment, threads take what has come meanwhile before any of it is refused.
 - A worker of fast handlers holds no more in advance than it handles within the target.
 - Where more requests at once only make each other slower, fewer run at once: see concurrency.py.
 - If requests come RUSH times as often as before, clients send what was refused again at once. Then to refuse
   is of no use: each of them waits for its response, and would wait for no longer than it takes to serve all
   of them. So they wait, for PEACE at least.
 - It is over when in the last INTERVAL threads were idle for longer than those that were refused would have
   taken them.

The target "auto" is half of the time that handlers take, so that a response comes within 1.5 times the usual
time; LEAST_TARGET at least.

It costs a request nothing: the queues are looked at with the scoreboards, every 25 ms while there are tasks
(see stalls.py), and while a pool is overloaded at the end of each turn in which requests came, and when its
oldest one reaches the target.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from halfsync.logs.error import log
from halfsync.plan.plan import BUILT_IN, Plan
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Exchange, Route
from halfsync.pump.pools.concurrency import Concurrency
from halfsync.pump.pools.saturation import Saturation
from halfsync.pump.pools.stalls import LOOK
from halfsync.pump.pools.workers import LOOK_AHEAD, Pool, Tasks, overloaded
from halfsync.pump.quiet_log import QuietLog
from halfsync.scoreboard.counts import TOTAL_NS, WORD
from halfsync.system.processor import run_delay

PART = 0.5
"""Of the time that handlers take: the target, if it is "auto"."""
LEAST_TARGET = 0.005
"""Seconds. Of the others the newest are handled first, so this is for moments in which fewer came."""
LEAST_SIGN = 0.05
"""Seconds; to wait for less is no sign of an overload, but the jitter of the machine."""
KEPT_PART = 0.25
"""Of the threads: so many requests, and one, may wait. With fewer, threads idle if some become free together;
with more, those that are refused wait longer for it: at twice the load a quarter of what handlers take."""
INTERVAL = 1.0
"""Seconds for which requests may wait too long until that is an overload (RFC 8289's INTERVAL); or twice the
time that handlers take. A page with all its images, or a scheduled job, is a burst of a second."""
GROWING = 10.0
"""The same for a pool that can have more workers: they are on their way."""
MOST_STEP = 32
"""By so many, or by a quarter, the number of those that wait has to grow; by fewer if there are fewer
threads."""
WINDOWS = 8
"""In INTERVAL: of each it is known how many waited at least, and at most."""
REMEMBERED = 8 * WINDOWS
FEW = 3
"""So many requests have to end meanwhile, at least, and by so many has the number to grow: with one thread,
two that wait for a slow one are no overload."""
GROWTH = 0.1
"""Of the requests that end meanwhile: by so many has the number of those that wait to grow."""
LONG = 5.0
"""Seconds. If some wait for longer, to grow at all is enough."""
RUSH = 5
"""Times as many requests as before the overload; and RUSH_MORE, for a page with all its images is no rush."""
RUSH_SECONDS = 0.1
"""That is no shorter time than this."""
RUSH_MORE = 100
PEACE = 30.0
"""Seconds after a rush in which only a full queue is an overload."""
SMOOTHING = 0.3
"""Weight of the last half second in the mean time of handlers."""
LIMITED_SMOOTHING = 0.7
"""The same while fewer run at once, since then they take a shorter time than before."""


@dataclass
class _Mean:
    """Of the times that a pool's handlers take."""

    count: int = 0
    total_ns: int = 0
    mean_ns: float = 0.0


MANY = 1 << 30


class _Window(NamedTuple):
    """A part of INTERVAL."""

    least: int  # that waited meanwhile
    most: int
    ended: int  # requests, until then


@dataclass
class _Watch:
    """Of a pool whose requests wait too long. Times are monotonic seconds."""

    since: float
    ended: int  # requests that had ended by then
    delayed: float  # seconds that this process had waited for a processor by then
    count: int = 0  # windows that are over; the last ones:
    windows: deque[_Window] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    least: int = MANY  # the same, in the window that is not over
    most: int = 0
    turned_away: int = 0  # by `queue_limit`, in that window
    all_turned_away: int = 0
    is_overload: bool = False
    # while it is one:
    began: float = 0.0
    rate: float = 0.0  # requests a second that came before
    refused_first: int = -1  # those that had waited before it was one
    looked_at: float = 0.0
    window_at: float = 0.0  # when the last INTERVAL began
    idle: float = 0.0  # seconds of it in which threads were, summed over the threads
    refused: int = 0
    refused_before: int = 0  # the last INTERVAL


class Overload:
    def __init__(self, clock: Clock, tasks: Tasks, saturation: Saturation) -> None:
        self._clock = clock
        self._tasks = tasks
        self._saturation = saturation
        self._most: dict[Pool, int] = {}  # pools of applications, with how many workers they can have
        self._routes: dict[Pool, list[Route]] = {}
        self._means: dict[Pool, _Mean] = {}
        self._watches: dict[Pool, _Watch] = {}
        self._peace: dict[Pool, float] = {}  # until when; monotonic
        self._log = QuietLog()
        self.delay = run_delay
        self.concurrency = Concurrency()

    def configure(self, plan: Plan, pools: Sequence[Pool], routes: Sequence[Route]) -> None:
        self._watches.clear()
        self._peace.clear()
        self._most = {
            pool: planned.most_processes
            for index, (pool, planned) in enumerate(zip(pools, plan.pools, strict=False))
            if index != BUILT_IN
        }
        self._routes = {pool: [route for route in routes if route.pool is pool] for pool in self._most}
        for pool in pools:
            pool.set_overloaded(is_overloaded=False)
            self.concurrency.end(pool)

    def turned_away(self, pool: Pool) -> None:
        """A request is not let into the queue, since that is as long as it may be."""
        watch = self._watches.get(pool)
        if watch is not None and pool.waiting >= self._longest(pool):
            watch.turned_away += 1
            watch.all_turned_away += 1

    def sweep(self) -> None:
        """Twice a second."""
        for pool in self._most:
            seen = self._means.setdefault(pool, _Mean())
            count, total_ns = sum(pool.counts.times), pool.counts.words[TOTAL_NS]
            if count > seen.count:
                mean_ns = ((total_ns - seen.total_ns) & WORD) / (count - seen.count)
                weight = SMOOTHING if pool.concurrency_limit is None else LIMITED_SMOOTHING
                seen.mean_ns += (mean_ns - seen.mean_ns) * (weight if seen.mean_ns else 1.0)
            seen.count, seen.total_ns = count, total_ns

    def look(self) -> None:
        """At all queues."""
        for pool in self._most:
            if pool.queue or pool in self._watches:
                self._look_at(pool)

    def _look_at(self, pool: Pool) -> None:
        watch = self._watches.get(pool)
        if watch is not None and watch.is_overload:
            self._go_on(pool, watch)
        elif not any(self._clock.now_ns - one.queued_ns > self._sign_ns(pool, one) for one in pool.heads()):
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
        interval = self._interval(pool)
        if elapsed < (watch.count + 1) * interval / WINDOWS:
            return False
        watch.count += 1
        ended = sum(pool.counts.times)
        watch.windows.append(_Window(watch.least, watch.most, ended))
        turned_away, threads = watch.turned_away, _threads(pool)
        watch.least, watch.most, watch.turned_away = MANY, 0, 0
        return (
            watch.count >= WINDOWS
            and (turned_away > 0 or self._grows(pool, watch, threads))
            and ended >= watch.ended + max(threads, FEW)
            and threads > 0
        )

    def _grows(self, pool: Pool, watch: _Watch, threads: int) -> bool:
        if self._clock.now < self._peace.get(pool, 0.0):
            return False
        oldest = pool.oldest()
        waits_long = oldest is not None and self._clock.now_ns - oldest.queued_ns > LONG * 1e9
        return _grows([*watch.windows], threads, 0.0 if waits_long else GROWTH)

    def _longest(self, pool: Pool) -> int:
        """How many may wait at most."""
        return max((route.limits.queue_limit for route in self._routes.get(pool, ())), default=MANY)

    def _interval(self, pool: Pool) -> float:
        can_grow = sum(not worker.retiring for worker in pool.workers) < self._most[pool]
        return max(GROWING if can_grow else INTERVAL, 2 * self._mean_ns(pool) / 1e9)

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

    def _sign_ns(self, pool: Pool, exchange: Exchange) -> float:
        """If it waits for longer than this, its pool is watched."""
        assert exchange.route is not None
        target_ns = self._target_ns(pool, exchange)
        return max(LEAST_SIGN * 1e9, target_ns) if exchange.route.limits.queue_target == "auto" else target_ns

    def _begin(self, pool: Pool, watch: _Watch) -> None:
        now, heads = self._clock.now, pool.heads()
        watch.is_overload = True
        watch.looked_at = watch.window_at = watch.began = now
        came = sum(pool.counts.times) - watch.ended + pool.waiting + watch.all_turned_away
        watch.rate = came / (now - watch.since)
        pool.set_overloaded(is_overloaded=True)
        sign = min(self._sign_ns(pool, one) for one in heads) / 1e9
        target = min(self._target_ns(pool, one) for one in heads) / 1e9
        self._log.say(
            "warning",
            f"{pool.name} is overloaded: for {now - watch.since:.1f} s requests have waited longer than "
            f"{sign:.2g} s, and more come than end. Now the newest are handled first, and those that would "
            f"wait longer than {target:.2g} s get a 503 (queue_target).",
            now,
        )
        self._go_on(pool, watch)

    # --- while it is one ---------------------------------------------------------------------------

    def _go_on(self, pool: Pool, watch: _Watch) -> None:
        now = self._clock.now
        busy = sum(worker.outstanding for worker in pool.workers) + pool.waiting
        watch.idle += max(0, _at_once(pool) - busy) * (now - watch.looked_at)
        watch.looked_at = now
        if not _threads(pool):  # a new worker is on its way
            self._end(pool, watch)
            return
        mean_ns = max(1.0, self._mean_ns(pool))
        if now - watch.window_at >= self._interval(pool):
            if watch.idle * 1e9 >= (watch.refused - watch.refused_before) * mean_ns:
                self._end(pool, watch)
                return
            watch.window_at, watch.idle, watch.refused_before = now, 0.0, watch.refused
        self.concurrency.look(pool, now, mean_ns / 1e9)
        for worker in pool.workers:
            if not worker.is_loop:
                ahead = min(LOOK_AHEAD, int(LEAST_TARGET * 1e9 / mean_ns))
                worker.look_ahead = ahead if worker.at_once else 0
        self._tasks.due.add(pool)  # and so to `shed`, unless threads have room for all
        self._look_again(pool)

    def _look_again(self, pool: Pool) -> None:
        """When the next one has waited for too long."""
        now_ns = self._clock.now_ns
        left = [self._target_ns(pool, one) - (now_ns - one.queued_ns) for one in pool.heads()]
        self._tasks.look_within(min(LOOK, max(0.001, min(left, default=math.inf) / 1e9)))

    def shed(self, pool: Pool) -> None:
        """At the end of a turn, when all that there is room for has been handed over: refuse what has waited
        too long, and what is too much."""
        watch = self._watches[pool]
        if not _threads(pool):
            return
        now_ns = self._clock.now_ns
        late = pool.take(lambda one: now_ns - one.queued_ns > self._target_ns(pool, one))
        surplus = pool.take_surplus(1 + math.ceil(KEPT_PART * _at_once(pool)))
        for exchange in (*late, *surplus):
            watch.refused += 1
            self._saturation.refused(pool, "queue_target")
            self._tasks.refuse(exchange, overloaded("queue_target"))
        if watch.refused_first < 0:
            watch.refused_first = watch.refused
        elif self._is_rush(watch):
            self._make_peace(pool, watch)

    def _is_rush(self, watch: _Watch) -> bool:
        expected = watch.rate * max(RUSH_SECONDS, self._clock.now - watch.began)
        return watch.refused - watch.refused_first > RUSH * expected + RUSH_MORE

    def _make_peace(self, pool: Pool, watch: _Watch) -> None:
        """Clients that send again at once what was refused."""
        now = self._clock.now
        self._peace[pool] = now + PEACE
        log(
            "warning",
            f"{pool.name}: more than {RUSH} times as many requests come since {watch.refused} got a 503 "
            "(queue_target), as if clients sent them again at once, so all wait in the queue now. "
            f"For {PEACE:.0f} s only a full queue (queue_limit) is an overload.",
        )
        self._stop(pool)

    def _end(self, pool: Pool, watch: _Watch) -> None:
        self._stop(pool)
        self._log.say(
            "info",
            f"{pool.name} is no longer overloaded: {watch.refused} requests got a 503 (queue_target).",
            self._clock.now,
        )

    def _stop(self, pool: Pool) -> None:
        del self._watches[pool]
        pool.set_overloaded(is_overloaded=False)
        self.concurrency.end(pool)
        for worker in pool.workers:
            if not worker.is_loop:
                worker.look_ahead = LOOK_AHEAD


def _grows(windows: Sequence[_Window], threads: int, part: float) -> bool:
    """Whether more wait now than at any time in the first half of these windows, by far; `part`: of those
    that ended since."""
    half = len(windows) // 2
    before = max(window.most for window in windows[:half])
    ended = windows[-1].ended - windows[half - 1].ended
    least = max(before // 4, min(threads, MOST_STEP), FEW, part * ended)
    return windows[-1].least >= before + least


def _threads(pool: Pool) -> int:
    return sum(worker.threads for worker in pool.workers if not worker.retiring)


def _at_once(pool: Pool) -> int:
    """How many requests may run."""
    return sum(worker.at_once for worker in pool.workers if not worker.retiring)
