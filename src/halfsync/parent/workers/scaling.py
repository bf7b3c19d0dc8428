"""How many worker processes a pool should have, by the threads that are idle in it.

The pump tells twice a second how many are idle, and how many requests wait for one. (Of workers with an event
loop it is the tasks that they could take.) What is *spare* are the
idle threads, and those of workers that are being started, less the requests that wait.

 - With less than `min_spare` the pool grows: by one process, a second later by two, then 4, 8, 16 and 32 a
   second, until there is enough. (One process a second took Apache 1.3 a minute and a half to a hundred.)
 - With more than `max_spare`, for SURPLUS seconds without a break, it shrinks, by one process a second.

Two reports in a row must agree that it has too little: requests often come in bursts, which are over before a
worker is there. Only what the pump said last is acted on, and once; without a pump nothing changes.
"""

from __future__ import annotations

from halfsync.logs.error import log
from halfsync.plan.plan import ScalePlan

MOST_AT_ONCE = 32
"""Processes in a second."""
WORTH_A_WORD = 4
"""More than so many in a second are a sign that the pool was too small: then the log says what to set."""
PACE = 1.0
"""Seconds between two steps."""
SURPLUS = 5.0
"""Seconds for which a pool has too many idle threads before the first of its workers goes."""


class Scaling:
    """Of one pool. Times are monotonic seconds."""

    def __init__(self, name: str, planned: ScalePlan, threads: int) -> None:
        self.planned = planned
        self.least, self.most = planned.least, planned.most  # TTIN and TTOU move them
        self._name = name
        self._threads = threads
        self._idle = 0
        self._waiting = 0
        self._last: int | None = None  # spare threads by the last report
        self._before: int | None = None  # and by the one before
        self._fresh = False  # the last report was not acted on
        self._rate = 1
        self._next_step = 0.0
        self._surplus_since: float | None = None
        self._told_of_most = False

    def note(self, idle: int, waiting: int, threads: int) -> None:
        """The pump's report: threads that are idle, requests that wait for one, and how many threads a worker
        has (0: there is none)."""
        self._threads = threads or self._threads
        self._before, self._last = self._last, idle - waiting
        self._idle, self._waiting = idle, waiting
        self._fresh = True

    def size(self, size: int, coming: int, now: float) -> int:
        """How many processes there should be, if `size` were meant to be there, of which `coming` are not
        there yet."""
        if not self._fresh or self._last is None or self._before is None or now < self._next_step:
            return size
        self._fresh = False
        starting = coming * self._threads
        spare = self._last + starting
        at_best = max(spare, self._before + starting)
        if at_best < self.planned.min_spare:
            self._surplus_since = None
            return self._larger(size, at_best, now)
        self._rate = 1
        self._told_of_most = False
        return self._smaller(size, spare, coming, now)

    def shift(self, by: int) -> None:
        """One process more, or fewer: both bounds move."""
        self.least = max(1, self.least + by)
        self.most = max(1, self.most + by)

    def hold(self, size: int) -> None:
        """So many at least from now on."""
        self.least = size
        self.most = max(size, self.planned.most)

    def within(self, size: int) -> int:
        return min(max(size, self.least), self.most)

    def _larger(self, size: int, spare: int, now: float) -> int:
        if size >= self.most:
            self._tell_of_most()
            return size
        missing = -(-(self.planned.min_spare - spare) // self._threads)
        more = min(self._rate, missing, self.most - size)
        self._next_step = now + PACE
        self._rate = min(2 * self._rate, MOST_AT_ONCE)
        log("info", f"{self._name}: {_count(more)} more, {size + more} from now on: {self._busy}.")
        if more > WORTH_A_WORD:
            log(
                "warning",
                f"{self._name}: {more} worker processes had to be started in one second; a larger min_spare "
                f"({self.planned.min_spare}) or min_workers ({self.least}) has them ready before.",
            )
        return size + more

    def _smaller(self, size: int, spare: int, coming: int, now: float) -> int:
        planned = self.planned
        enough = spare > planned.max_spare and spare - self._threads >= planned.min_spare
        if not enough or coming or size <= self.least:
            self._surplus_since = None
            return size
        if self._surplus_since is None:
            self._surplus_since = now
        if now - self._surplus_since < SURPLUS:
            return size
        self._next_step = now + PACE
        log("info", f"{self._name}: {_count(1)} fewer, {size - 1} from now on: {self._busy}.")
        return size - 1

    def _tell_of_most(self) -> None:
        """Once, until there was enough again."""
        if not self._told_of_most:
            self._told_of_most = True
            log("warning", f"{self._name}: {self._busy}, and there are {self._as_many_as_may_be} already.")

    @property
    def _as_many_as_may_be(self) -> str:
        if self.most == self.planned.most:
            return f"max_workers ({self.most})"
        return f"{self.most} (max_workers is {self.planned.most}; TTIN, TTOU or scale have moved it)"

    @property
    def _busy(self) -> str:
        threads = "1 thread is idle" if self._idle == 1 else f"{self._idle} threads are idle"
        requests = "1 request waits" if self._waiting == 1 else f"{self._waiting} requests wait"
        return f"{threads}, {requests}"


def _count(number: int) -> str:
    return "1 worker process" if number == 1 else f"{number} worker processes"
