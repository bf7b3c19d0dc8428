"""What is told while one has to wait: at the start, which imports go on; after a reload, when it is over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from halfsync.logs.error import log
from halfsync.parent.states import ChildState
from halfsync.parent.workers.children import Child
from halfsync.parent.workers.pools import WorkerPool
from halfsync.plan.plan import Plan

EVERY = 10.0
"""Seconds between two words about imports that are still going on."""


class StartReport:
    """`look` is called in each turn of the start."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._begun = 0.0  # monotonic; 0: not yet
        self._due = 0.0

    def look(self, pools: Sequence[WorkerPool], now: float) -> None:
        if not self._begun:
            self._begun = now
            self._due = now + EVERY
            self._say_what_begins()
        elif now >= self._due:
            self._due = now + EVERY
            self._say_what_is_imported(pools, now)

    def _say_what_begins(self) -> None:
        addresses = ", ".join(listener.address for listener in self._plan.listeners)
        imported = [pool.name for pool in self._plan.pools if pool.target is not None]
        imports = f"; importing {', '.join(imported)}" if imported else ""
        log("info", f"listening at {addresses}{imports}.")

    def _say_what_is_imported(self, pools: Sequence[WorkerPool], now: float) -> None:
        children = [child for pool in pools if not pool.works for child in pool.children]
        importing = [child for child in children if child.state is ChildState.STARTING]
        if not importing:
            return
        names = ", ".join(f"{child.who} for {now - child.started:.0f} s" for child in importing)
        limit = self._plan.settings.startup_timeout
        until = f"; the limit is {limit:g} s (startup_timeout)" if limit else ""
        log("info", f"still importing: {names}{until}. Requests wait until then.")


class ReloadReport:
    """Tells of each pool when a reload has come to its end: nothing of the old code is left."""

    def __init__(self) -> None:
        self._waited_for: dict[int, list[Child]] = {}  # pool -> old children

    def begun(self, pool: WorkerPool, old: Iterable[Child]) -> None:
        """These are being let go."""
        waited_for = self._waited_for.setdefault(pool.index, [])
        waited_for += [child for child in old if child not in waited_for]

    def ended(self, pool: WorkerPool, child: Child) -> None:
        """This child of the pool is no more."""
        waited_for = self._waited_for.get(pool.index)
        if waited_for is None or child not in waited_for:
            return
        waited_for.remove(child)
        if not waited_for:
            del self._waited_for[pool.index]
            level = "info" if pool.has_application else "debug"
            log(level, f"{pool.name}: the old workers are gone; the reload is over.")
