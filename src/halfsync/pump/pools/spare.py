"""How busy pools are, for the parent, which starts and ends workers by it (see parent/workers/scaling.py).

Looked at from the sweep, twice a second, and only where the number of workers changes with the load; so it
costs requests nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from halfsync.plan.plan import Plan
from halfsync.pump.pools.workers import Pool
from halfsync.wire.orders import Spare


def spare_of(plan: Plan, pools: Sequence[Pool]) -> Spare | None:
    """None if all pools have fixed sizes."""
    scaled = [index for index, pool in enumerate(plan.pools) if pool.scale is not None]
    return Spare([_look(index, pools[index]) for index in scaled]) if scaled else None


def _look(index: int, pool: Pool) -> tuple[int, int, int, int]:
    """As Spare has it. A worker that is to be replaced, or begins nothing, has no idle threads, nor has
    one beyond what it may run at once (see concurrency.py). What was
    handed to a worker beyond its threads waits there."""
    idle = waiting = 0
    for worker in pool.workers:
        waiting += max(0, worker.outstanding - worker.threads)
        if not (worker.retiring or worker.stalled or worker.full):
            idle += max(0, worker.at_once - worker.outstanding)
    threads = max((worker.threads for worker in pool.workers), default=0)
    return index, idle, waiting + pool.waiting, threads
