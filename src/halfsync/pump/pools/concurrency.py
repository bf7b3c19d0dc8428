"""How many requests an overloaded pool runs at once, where more only make each other slower.

Theory of operation
-------------------
As many requests as there are threads share one interpreter lock, or fewer processors than there are workers:
eight handlers that compute at once in one interpreter take eight times as long each. To refuse what is too
much (overload.py) is not enough then: what is served is late all the same. Fewer at once are served as many
in a second, and each of them in its normal time.

Handlers that sleep, or wait for a database, are the other way round: with half as many at once, half as many
are served. Nobody says which ones an application has, and most are a bit of both. So it is measured, from
outside, and only while a pool is overloaded: over a WINDOW, how many processors its workers' processes had
(`used`), how many more their threads have waited for (`waited`, the scheduler's run delay: so it does not
matter what else the machine is doing), and how many requests ran. Together they say how many of those that
run *want* a processor, scaled to as many requests as may run.

The limit is lowered

 - where each interpreter is busy all the time, with more than one request in it, and has no more than one
   processor. (Handlers whose C code lets go of the interpreter lock have more, and so gain by it.)
 - where more want a processor than there are. (Pools that are overloaded at the same time share them.)

It is raised as soon as fewer want one than could have it, or if fewer processors are used than with more at
once. What was too low is not tried again for HOLD, twice as long each time. And each PROBE one step more is
tried, if a processor may be free for it: handlers may have become others. When the overload is over, so is
the limit.

An event loop that computes begins one request after the other, while the others that it has been given wait:
there those count as running, too.

Requests that have run for long do not count. They are downloads, WebSockets, or wait for something; and if
they compute, they must not keep all others out.

Others measure how long requests take, and lower the limit when that is longer than at the best of times
(Netflix's concurrency-limits, Envoy's adaptive concurrency). That needs to know the best of times, for which
Envoy stops nearly all traffic now and then, and it takes a page that has always been slow for an overload.
WeChat's DAGOR goes by the time in the queue, as overload.py does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from halfsync.logs.error import log
from halfsync.pump.pools.workers import Pool, Worker
from halfsync.scoreboard.counts import TOTAL_NS, WORD
from halfsync.system import cores, processor

WINDOW = 0.1
"""Seconds over which it is measured, at least; and THREAD for each thread, so that it takes no more than 2 %
of this process's time: to look at one costs 20 µs."""
THREAD = 0.001
ENOUGH = 0.5
"""Of those that may run: so many have to run, or nothing can be said."""
MOST = 1.05
"""The same; where more run, the limit has been lowered, and what was begun before has not ended."""
BUSY = 0.9
"""Of a processor that could be used; less is not all."""
ALONE = 1.1
"""Processors that an interpreter has at most, if only one of its threads can run. (The others have some in
which they ask for the lock.)"""
GAIN = 0.8
"""Of the processors that were used with more at once; with less, those have gained by it."""
FADES = 0.99
"""So much of them counts after each further window: others may have some of them now."""
TOO_MANY = 1.1
"""Times the processors that there are."""
HOLD = 1.0
MOST_HOLD = 32.0
"""Seconds."""
PROBE = 10.0
"""Seconds. What runs meanwhile takes longer, for a window or two: less than the 5 % that may."""
LONG = 1.0
LONGEST = 10.0
"""Seconds after which a request has run for long: LONG_MEANS times the usual time, but no less than the one,
and no more than the other."""
LONG_MEANS = 8


class Seen(NamedTuple):
    """Of a pool, over a window."""

    used: float  # processors
    waited: float  # for so many more
    running: float  # requests
    is_full: bool  # as many have been handed over as may run


@dataclass
class Thermostat:
    """Of one pool while it is overloaded."""

    limit: int | None = None  # requests at once; None: as many as there are threads
    least: int = 1  # until `held_until`
    held_until: float = 0.0  # monotonic
    hold: float = HOLD
    probe_at: float = 0.0
    most_used: float = 0.0  # processors, of late, with this limit or a lower one:
    most_at: int = 1
    used_by_fewer: float = 0.0  # those before the limit was raised, if for that reason
    is_low: bool = False  # fewer than could wanted a processor in the last window

    def adjust(self, seen: Seen, threads: int, workers: int, processors: int, now: float) -> bool:
        """`processors`: that this pool may use, 1 or more. Whether the limit is found, as far as is known."""
        limit = threads if self.limit is None else min(self.limit, threads)
        if seen.running > MOST * limit:  # some from before the last step
            return False
        if seen.running < ENOUGH * limit:
            if seen.is_full:  # and yet they do not run: a worker begins nothing
                self._set(2 * limit, threads)
            return False
        want = (seen.used + seen.waited) * limit / seen.running
        usable = min(limit, workers, processors)
        floor = limit
        if limit > workers and want >= BUSY * workers and seen.used <= ALONE * workers:
            floor = workers
        if limit > processors and want >= TOO_MANY * processors:
            floor = min(floor, processors)
        used = seen.used * limit / seen.running
        if seen.waited > seen.used:  # other programs have most of the processors: so it says nothing
            used = max(used, self.most_used)
        if self._is_too_few(used, limit, want / usable):
            self._too_few(used, limit, threads, want / usable, now)
            return False
        self.is_low = False
        if floor < limit:
            return self._lower(limit, floor, now)
        if limit < min(threads, processors) and (now >= self.probe_at or seen.used > ALONE * workers):
            self._set(limit + max(1, limit // 4), threads)
            self.probe_at = now + PROBE
            return False
        return True

    def _lower(self, limit: int, floor: int, now: float) -> bool:
        """Whether it stays as it is."""
        if now < self.held_until:
            floor = max(floor, self.least)
        to = max(floor, limit - max(1, limit // 3))
        if to >= limit:
            return True
        self.limit = to
        self.probe_at = now + PROBE
        return False

    def _is_too_few(self, used: float, limit: int, part: float) -> bool:
        """`used`: processors if as many run as may; `part`: of those that could be, so many are wanted."""
        is_gain = GAIN * used >= self.used_by_fewer
        if not is_gain:  # other programs have the rest, and not the limit is the reason
            self.held_until = 0.0
        if limit >= self.most_at or not is_gain:
            self.most_used, self.most_at = used, limit
        self.used_by_fewer = 0.0
        self.most_used = max(used, FADES * self.most_used)
        return self.limit is not None and (part < BUSY or used < GAIN * self.most_used)

    def _too_few(self, used: float, limit: int, threads: int, part: float, now: float) -> None:
        was_low, self.is_low = self.is_low, True
        if not (was_low or part < 0.5):
            return  # the scheduler tells of a wait when it is over: some of one may be missing
        to = 2 * limit if part < 0.5 else limit + max(1, limit // 4)
        self._set(to, threads)
        self.least = to
        self.held_until = now + self.hold
        self.hold = min(2 * self.hold, MOST_HOLD)
        self.used_by_fewer = used if part >= BUSY else 0.0
        self.is_low = False

    def _set(self, limit: int, threads: int) -> None:
        self.limit = limit if limit < threads else None


class Reading(NamedTuple):
    at: float  # monotonic
    used: dict[int, float]  # seconds, by process
    waited: dict[int, float]


def read(pids: Sequence[int]) -> Reading:
    """(A process that is gone has none.)"""
    at = time.monotonic()
    used = {pid: seconds for pid in pids if (seconds := processor.used(pid)) is not None}
    return Reading(at, used, {pid: processor.waited(pid) for pid in pids})


@dataclass
class _State:
    """Of an overloaded pool."""

    before: Reading
    ended_ns: int  # for which requests that had ended by then have run, and
    begun_ns: int  # those that ran then
    unbegun: float = 0.0  # seconds since then for which requests have waited in event loops, summed
    looked_at: float = 0.0
    thermostat: Thermostat = field(default_factory=Thermostat)
    want: float = 0.0  # processors, in the last window
    is_said: bool = False


class Concurrency:
    def __init__(self) -> None:
        self._states: dict[Pool, _State] = {}
        self.processors = cores.usable()
        self.read: Callable[[Sequence[int]], Reading] = read

    def look(self, pool: Pool, now: float, mean: float) -> None:
        """At an overloaded pool, whose handlers take `mean` seconds lately."""
        workers = [worker for worker in pool.workers if not worker.retiring]
        state = self._states.get(pool)
        if state is None:
            self._states[pool] = state = self._begin(pool, workers)
            state.looked_at = state.before.at
        oldest_ns = int((now - min(max(LONG, LONG_MEANS * mean), LONGEST)) * 1e9)
        if pool.has_loops:
            state.unbegun += sum(len(worker.unbegun()) for worker in workers) * (now - state.looked_at)
        state.looked_at = now
        long = {worker: _begun_before(worker, oldest_ns) for worker in workers}
        if now - state.before.at >= WINDOW + THREAD * sum(worker.threads for worker in workers):
            self._judge(pool, state, long)
        _hand_out(state.thermostat.limit, long)

    def end(self, pool: Pool) -> None:
        """It is not overloaded any more."""
        self._states.pop(pool, None)
        pool.concurrency_limit = None
        for worker in pool.workers:
            worker.at_once = worker.threads

    def _begin(self, pool: Pool, workers: Sequence[Worker]) -> _State:
        reading = self.read([worker.pid for worker in workers])
        return _State(reading, pool.counts.words[TOTAL_NS], _begun_ns(pool, reading.at))

    def _judge(self, pool: Pool, state: _State, long: dict[Worker, int]) -> None:
        before = state.before
        reading = state.before = self.read([worker.pid for worker in long])
        ended_ns, begun_ns = pool.counts.words[TOTAL_NS], _begun_ns(pool, reading.at)
        ran = (((ended_ns - state.ended_ns) & WORD) + begun_ns - state.begun_ns) / 1e9
        ran += state.unbegun
        state.ended_ns, state.begun_ns, state.unbegun = ended_ns, begun_ns, 0.0
        if not long or reading.used.keys() != before.used.keys():
            return
        seconds = reading.at - before.at
        seen = Seen(
            _increase(before.used, reading.used) / seconds,
            _increase(before.waited, reading.waited) / seconds,
            max(0.0, ran / seconds - sum(long.values())),
            all(worker.outstanding >= worker.at_once for worker in long),
        )
        state.want = seen.used + seen.waited
        others = sum(one.want for one in self._states.values() if one is not state)
        is_found = state.thermostat.adjust(
            seen,
            sum(worker.threads for worker in long),
            len(long),
            max(1, round(self.processors - others)),
            reading.at,
        )
        pool.concurrency_limit = state.thermostat.limit
        if is_found:
            _say(pool, state)


def _increase(before: dict[int, float], now: dict[int, float]) -> float:
    return sum(max(0.0, seconds - before.get(pid, seconds)) for pid, seconds in now.items())


def _say(pool: Pool, state: _State) -> None:
    """Once in an overload, when the limit is found."""
    if state.is_said or pool.concurrency_limit is None:
        return
    state.is_said = True
    threads = sum(worker.threads for worker in pool.workers if not worker.retiring)
    log(
        "warning",
        f"{pool.name}: its handlers compute, and have all the processors that they can use, so more of them "
        f"at once only make each other slower. While it is overloaded, about {pool.concurrency_limit} of "
        f"{threads} run at once (queue_target).",
    )


def _hand_out(limit: int | None, long: dict[Worker, int]) -> None:
    """So many each worker may run; and those that have run for long, of which it says how many there are."""
    able = [worker for worker in long if not (worker.stalled or worker.full)]
    for worker in long:
        worker.at_once = worker.threads
    if limit is None:
        return
    for index, worker in enumerate(sorted(able, key=lambda one: one.id)):
        share = limit // len(able) + (index < limit % len(able))
        worker.at_once = min(worker.threads, share + long[worker])


def _begun_before(worker: Worker, oldest_ns: int) -> int:
    """How many requests have run since before that."""
    return sum(0 < worker.begun(number) < oldest_ns for number in worker.owners)


def _begun_ns(pool: Pool, now: float) -> int:
    """Nanoseconds for which those that run now have run, summed."""
    now_ns = int(now * 1e9)
    return sum(
        max(0, now_ns - begun)
        for worker in pool.workers
        for number in worker.owners
        if (begun := worker.begun(number))
    )
