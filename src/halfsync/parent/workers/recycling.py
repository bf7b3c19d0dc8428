"""Workers that are old, or have become large, are replaced: one at a time, and the successor is ready first.

(Those that have served `max_requests` report that themselves; see Reports.) Each worker's own limit is up to
JITTER higher, at random, so that workers that were started together are not replaced all in a row.
"""

from __future__ import annotations

from halfsync.parent.states import ChildState
from halfsync.parent.workers.children import Child
from halfsync.parent.workers.pools import WorkerPool
from halfsync.system.memory import resident

JITTER = 0.1
"""Of the limit."""
PACE = 1.0
"""Seconds between two looks."""
MIN_LIFE = 5.0
"""Seconds that a worker lives at least, whatever memory it has: where the limit is less than what the
application takes, it is not to be imported all the time."""


class Recycling:
    def __init__(self) -> None:
        self._next_look = 0.0

    def look(self, pools: list[WorkerPool], now: float) -> None:
        """Mark what is to be replaced: a worker of each pool at most. `now` is monotonic seconds."""
        if now < self._next_look:
            return
        self._next_look = now + PACE
        for pool in pools:
            recycle = pool.planned.recycle
            if (recycle.max_age or recycle.max_memory) and pool.next is None and pool.to_recycle is None:
                self._look_at(pool, now)

    @staticmethod
    def _look_at(pool: WorkerPool, now: float) -> None:
        for child in pool.workers(pool.current):
            if child.state is ChildState.WORKING and (why := _why(child, pool, now)):
                child.worn = why
                return


def _why(child: Child, pool: WorkerPool, now: float) -> str:
    """ "" if it may go on."""
    recycle = pool.planned.recycle
    factor = 1 + JITTER * child.luck
    age = now - child.started
    if recycle.max_age and age >= recycle.max_age * factor:
        return f"is {age:.0f} s old (max_worker_age)"
    if not recycle.max_memory or age < MIN_LIFE:
        return ""
    memory = resident(child.pid)
    if memory < recycle.max_memory * factor:
        return ""
    return f"has {memory >> 20} MiB of resident memory (max_worker_memory), {age:.0f} s after its start,"
