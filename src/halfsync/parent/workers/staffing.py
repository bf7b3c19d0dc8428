"""What there should be: is there a pump, has every pool its workers, does the pump know them?

`staff` compares that with what there is, once a turn, and starts, joins or retires what differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from halfsync.logs.error import log
from halfsync.parent.limits import LAST_WORD, MOST_STARTS, TRIES_AT_FIRST, Phase
from halfsync.parent.shortages import in_words
from halfsync.parent.states import ChildEvent, ChildState
from halfsync.parent.tree import Tree
from halfsync.parent.workers import joins
from halfsync.parent.workers.backoff import in_seconds
from halfsync.parent.workers.children import Child, Role
from halfsync.parent.workers.pools import ChildPool, Generation, WorkerPool
from halfsync.parent.workers.reaping import UnknownChildren
from halfsync.parent.workers.recycling import Recycling
from halfsync.parent.workers.spawn import Spawner
from halfsync.wire import orders

QUIET = 10.0
"""Seconds without one after which a shortage is another one, which is told again."""


class Staffing:
    def __init__(self, tree: Tree, spawner: Spawner, unknown: UnknownChildren) -> None:
        self._tree = tree
        self._spawner = spawner
        self._unknown = unknown
        self._recycling = Recycling()
        self.is_behind = False  # there are more workers to start, in the next turn
        self._quiet_until = 0.0  # no word until then of workers that can't be joined
        self._told: dict[str, float] = {}  # why no child can be started -> no word of it until then

    def staff(self, now: float) -> None:
        tree = self._tree
        self.is_behind = False
        if tree.phase in (Phase.EXITING, Phase.OVER) or self._has_drained:
            return
        if self._lacks_pump(now):
            self._start_pump(now)
        if tree.settings.reload:
            self._staff_watcher(now)
        if tree.phase is Phase.SERVING:
            self._recycling.look(tree.pools, now)
        self._staff_issuer(now)
        if self._may_import:
            tree.imported_since = tree.imported_since or time.time()
            for pool in tree.pools:
                if tree.phase is Phase.SERVING:
                    pool.scale(now)
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

    @property
    def _has_drained(self) -> bool:
        """There is nothing left that a worker could do."""
        pump = self._tree.pump
        return self._tree.phase is Phase.DRAINING and (pump is None or pump.drained)

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
        """One that looks where the applications are now. The one before it goes when the new one is ready,
        which tells what changed before."""
        watchers, plan = self._tree.watchers, self._tree.plan
        newest = next((one for one in watchers.children if one.has_plan == plan.number), None)
        if newest is None:
            if now >= watchers.backoff.until:
                since = self._tree.imported_since
                self._start("watcher", partial(self._spawner.watcher, plan, since), watchers, now)
            return
        for old in watchers.children:
            if old is not newest and newest.was_ready and old.state is ChildState.READY:
                self._tree.close_orders(old, now + LAST_WORD)

    def _staff_issuer(self, now: float) -> None:
        """One that knows which certificates are wanted now."""
        issuers, plan = self._tree.issuers, self._tree.plan
        if self._tree.phase is not Phase.SERVING:
            return
        for old in issuers.children:
            if old.has_plan != plan.number and old.state is ChildState.READY:
                self._tree.close_orders(old, now + LAST_WORD)
        if plan.acme is None:
            return
        if all(one.has_plan != plan.number for one in issuers.children) and now >= issuers.backoff.until:
            self._start("acme", partial(self._spawner.issuer, plan), issuers, now)

    def _staff_generation(self, pool: WorkerPool, generation: Generation, now: float) -> None:
        if (old := pool.recyclable()) is not None:
            log("info", f"{old.who} {old.worn} and is replaced.")
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
        if preloads and template is None:
            name = f"template({pool.name})"
            self._start(name, partial(self._spawner.template, pool, generation), pool, now)
            return
        if template is not None and template.state is ChildState.STARTING:
            return
        name = f"worker({pool.name})"
        for _ in range(min(missing, MOST_STARTS)):
            if (
                self._start(name, partial(self._spawner.worker, pool, generation, template), pool, now)
                is None
            ):
                return
        self.is_behind = self.is_behind or missing > MOST_STARTS

    def _start_pump(self, now: float) -> None:
        pump = self._start("pump", partial(self._spawner.pump, self._tree.plan), self._tree.pumps, now)
        if pump is not None:
            pump.sent_plan = pump.has_plan = self._tree.plan.number
            pump.on(ChildEvent.READIED)
            pump.on(ChildEvent.JOINED)

    def _start(self, name: str, make: Callable[[], Child], pool: ChildPool, now: float) -> Child | None:
        """A new child of the pool; None if the machine has no room for one now."""
        if self._tree.phase is Phase.EXITING:
            return None  # as of a moment ago: it gave up
        try:
            child = make()
        except OSError as error:
            self._cannot_start(f"no {name} can be started: {in_words(error)}.", pool, now)
            return None
        self._unknown.take(child.pid)  # an older process of the same number
        pool.children.append(child)
        return child

    def _cannot_start(self, sentence: str, pool: ChildPool, now: float) -> None:
        """At the first start, with none of its kind there, it is tried a few times; later, every second at
        least, since the shortage may be over at any time, and is told now and then."""
        is_starting = self._tree.phase is Phase.STARTING
        delay = pool.backoff.ended(now, 0.0, was_ready=not is_starting)
        if is_starting and pool.backoff.early_ends >= TRIES_AT_FIRST and not pool.children:
            self._tree.give_up(
                f"{sentence[0].upper()}{sentence[1:]} It was tried {TRIES_AT_FIRST} times.", "", now
            )
            return
        if is_starting or sentence not in self._told or now >= self._told[sentence]:
            log("error", f"{sentence} The next try is {in_seconds(delay)}.")
            self._told[sentence] = now + QUIET

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
        """If there is no room for it now, `is_to_join` says so again in the next turn."""
        now = time.monotonic()
        try:
            self._join(child)
        except OSError:
            for other in reversed(self._tree.children()):
                other.flush(now)  # what is on its way to others holds descriptors: see Supervisor._flush
            try:
                self._join(child)
            except OSError as error:
                self._cannot_join(child, error, now)

    def _join(self, child: Child) -> None:
        assert self._tree.pump is not None
        joins.join(self._tree.pump, child)

    def _cannot_join(self, child: Child, error: OSError, now: float) -> None:
        if now >= self._quiet_until:  # not for each worker, twenty times a second
            log("error", f"{child.who} can't be joined to the pump now: {in_words(error)}.")
        self._quiet_until = now + QUIET

    def open(self) -> None:
        pump = self._tree.pump
        assert pump is not None
        pump.order(orders.Open())
        pump.opened = True
        if self._tree.challenges is not None:
            pump.order(self._tree.challenges)
