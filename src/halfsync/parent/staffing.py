"""What there should be: is there a pump, has every pool its workers, does the pump know them?

`staff` compares that with what there is, once a turn, and starts, joins or retires what differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from halfsync.logs.error import log
from halfsync.parent import joins
from halfsync.parent.backoff import in_seconds
from halfsync.parent.children import Child, Role
from halfsync.parent.limits import LAST_WORD, MOST_STARTS, Phase
from halfsync.parent.pools import ChildPool, Generation, WorkerPool
from halfsync.parent.reaping import UnknownChildren
from halfsync.parent.spawn import Spawner
from halfsync.parent.states import ChildEvent, ChildState
from halfsync.parent.tree import Tree
from halfsync.wire import messages


class Staffing:
    def __init__(self, tree: Tree, spawner: Spawner, unknown: UnknownChildren) -> None:
        self._tree = tree
        self._spawner = spawner
        self._unknown = unknown
        self.is_behind = False  # there are more workers to start, in the next turn

    def staff(self, now: float) -> None:
        tree = self._tree
        self.is_behind = False
        if tree.phase in (Phase.EXITING, Phase.OVER):
            return
        if self._lacks_pump(now):
            self._start_pump(now)
        if tree.settings.reload:
            self._staff_watcher(now)
        if self._may_import:
            for pool in tree.pools:
                for generation in pool.generations:
                    self._staff_generation(pool, generation, now)
        for child in tree.children():
            if self.is_to_join(child):
                self.join(child)
        if tree.pump is not None and tree.phase is Phase.SERVING and not tree.pump.opened:
            self.open()

    def lacks(self, now: float) -> bool:
        """Something should be there, may be tried now, and is not."""
        if self._tree.phase in (Phase.EXITING, Phase.OVER):
            return False
        if self._tree.pump is None:
            return self._lacks_pump(now)
        return any(self.is_to_join(child) for child in self._tree.children())

    # --- starting

    def _lacks_pump(self, now: float) -> bool:
        tree = self._tree
        return tree.pump is None and tree.phase is not Phase.DRAINING and now >= tree.pumps.backoff.until

    @property
    def _may_import(self) -> bool:
        """With `reload`, the first import waits until changes are noticed: none may be missed."""
        tree = self._tree
        watches = tree.watcher is not None and tree.watcher.was_ready
        return watches or not tree.settings.reload or tree.phase is not Phase.STARTING

    def _staff_watcher(self, now: float) -> None:
        """One that looks where the applications are now. The one before it goes when the new one is ready, so
        that no change is missed in between."""
        watchers, plan = self._tree.watchers, self._tree.plan
        newest = next((one for one in watchers.children if one.has_plan == plan.number), None)
        if newest is None:
            if now >= watchers.backoff.until:
                self._start("watcher", partial(self._spawner.watcher, plan), watchers, now)
            return
        for old in watchers.children:
            if old is not newest and newest.was_ready and old.state is ChildState.READY:
                self._tree.close_orders(old, now + LAST_WORD)

    def _staff_generation(self, pool: WorkerPool, generation: Generation, now: float) -> None:
        if (old := pool.recyclable()) is not None:
            log("info", f"{old.who} has served {old.request_count} requests (max_requests) and is replaced.")
            self._tree.retire(old, now)
        workers, wanted = pool.workers(generation), pool.wanted(generation)
        for surplus in workers[wanted:]:
            if surplus.state is ChildState.WORKING:
                self._tree.retire(surplus, now)
        if len(workers) >= wanted or now < pool.backoff.until:
            return
        missing = wanted - len(workers)
        preloads = pool.preloads(generation)
        template = pool.template(generation) if preloads else None
        name = f"worker({pool.name})"
        if preloads and template is None:
            self._start(name, partial(self._spawner.template, pool, generation), pool, now)
            return
        if template is not None and template.state is ChildState.STARTING:
            return
        for _ in range(min(missing, MOST_STARTS)):
            self._start(name, partial(self._spawner.worker, pool, generation, template), pool, now)
        self.is_behind = self.is_behind or missing > MOST_STARTS

    def _start_pump(self, now: float) -> None:
        pump = self._start("pump", partial(self._spawner.pump, self._tree.plan), self._tree.pumps, now)
        if pump is not None:
            pump.sent_plan = pump.has_plan = self._tree.plan.number
            pump.on(ChildEvent.READIED)
            pump.on(ChildEvent.JOINED)

    def _start(self, name: str, make: Callable[[], Child], pool: ChildPool, now: float) -> Child | None:
        """A new child of the pool; None if the machine has no room for one now."""
        try:
            child = make()
        except OSError as error:
            seconds = pool.backoff.ended(now, 0.0, was_ready=False)
            log(
                "error", f"no {name} can be started: {error.strerror}. The next try is {in_seconds(seconds)}."
            )
            return None
        self._unknown.take(child.pid)  # an older process of the same number
        pool.children.append(child)
        return child

    # --- the pump knows its workers

    def is_to_join(self, child: Child) -> bool:
        tree = self._tree
        if child.role is not Role.WORKER or tree.pump is None or child.channel is None:
            return False
        if tree.pump.state is not ChildState.WORKING or child.pump == tree.pump.id:
            return False
        if time.monotonic() < child.join_after:
            return False
        is_current = child.generation == tree.pools[child.pool].current.number
        return child.state is ChildState.WORKING or (child.state is ChildState.READY and is_current)

    def join(self, child: Child) -> None:
        assert self._tree.pump is not None
        joins.join(self._tree.pump, child)

    def open(self) -> None:
        pump = self._tree.pump
        assert pump is not None
        pump.order(messages.Open())
        pump.opened = True
