"""The processes of one kind, as the parent staffs them: the pump, the watcher, and each pool of workers.

A pool of workers has one current generation, whose workers the pump knows. A reload starts a second one
beside it, with the code as it is now; when all of its workers are ready, the pump is switched over to it
in one step. If any of them fails, the next generation is dropped, and nothing has happened.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from halfsync.parent.states import ChildState
from halfsync.parent.workers.backoff import Backoff
from halfsync.parent.workers.children import Child, Role
from halfsync.parent.workers.scaling import Scaling
from halfsync.plan.plan import Plan, PoolPlan
from halfsync.wire.orders import Failed

COUNTED = (ChildState.STARTING, ChildState.READY, ChildState.WORKING)
"""States in which a worker counts toward the size of its generation."""


class ChildPool:
    """Children that replace each other. The pump and the watcher are pools of size one."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.backoff = Backoff()

    @property
    def only(self) -> Child | None:
        """Of a pool of size one: the child that there is, until it is reaped."""
        return self.children[0] if self.children else None


class Generation(msgspec.Struct, eq=False):
    """Workers that were started for the same reason, with the same code and the same configuration."""

    number: int  # given once in a pool
    plan: Plan
    size: int  # workers wanted; TTIN and TTOU change it


class WorkerPool(ChildPool):
    """Its children are workers, and templates. A pool that a reload removes stays, with a size of 0."""

    def __init__(self, index: int, plan: Plan, size: int) -> None:
        """`index` into Plan.pools."""
        super().__init__()
        self.index = index
        self.current = Generation(0, plan, size)
        self.next: Generation | None = None
        self.last_failure = ""  # already told in full
        self.scaling: Scaling | None = None  # if its size changes with the load
        self._newest = 0
        self._plan_scaling()

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def planned(self) -> PoolPlan:
        """As the newest configuration has it."""
        return (self.next or self.current).plan.pools[self.index]

    @property
    def has_application(self) -> bool:
        return self.planned.target is not None

    def preloads(self, generation: Generation) -> bool:
        return generation.plan.settings.preload and self.has_application

    def start_generation(self, plan: Plan, size: int) -> None:
        self._newest += 1
        self.next = Generation(self._newest, plan, size)

    def switch_over(self) -> None:
        assert self.next is not None
        self.current, self.next = self.next, None
        self._plan_scaling()

    def _plan_scaling(self) -> None:
        """By the current generation's plan. What TTIN and TTOU did lasts as long as that is the same."""
        planned = self.planned
        if planned.scale is None:
            self.scaling = None
        elif self.scaling is None or self.scaling.planned != planned.scale:
            self.scaling = Scaling(planned.name, planned.scale, planned.threads)

    def scale(self, now: float) -> None:
        """Change its size if the load asks for it. Not while there is a next generation."""
        if self.scaling is None or self.next is not None:
            return
        working = sum(child.state is ChildState.WORKING for child in self.workers(self.current))
        size = self.current.size
        self.current.size = self.scaling.size(size, max(0, size - working), now)

    def scale_to(self, size: int) -> None:
        """So many processes; where the number follows the load, no fewer from now on."""
        if self.scaling is not None:
            self.scaling.hold(size)
        for generation in self.generations:
            generation.size = size

    def resize(self, by: int) -> None:
        """So many processes more."""
        if self.scaling is not None:
            self.scaling.shift(by)
        for generation in self.generations:
            generation.size = max(1, generation.size + by)

    @property
    def generations(self) -> Iterable[Generation]:
        """Those that are to be kept at their size."""
        return (self.current,) if self.next is None else (self.current, self.next)

    def of(self, generation: Generation | None) -> list[Child]:
        if generation is None:
            return []
        return [child for child in self.children if child.generation == generation.number]

    def is_of_next(self, child: Child) -> bool:
        return self.next is not None and child.generation == self.next.number

    def workers(self, generation: Generation | None) -> list[Child]:
        """Those that count, oldest first."""
        return [
            child for child in self.of(generation) if child.role is Role.WORKER and child.state in COUNTED
        ]

    def template(self, generation: Generation) -> Child | None:
        for child in self.of(generation):
            if child.role is Role.TEMPLATE and child.state in COUNTED:
                return child
        return None

    @property
    def to_recycle(self) -> Child | None:
        """A worker that is worn. (While there is a next generation, all are replaced.)"""
        if self.next is not None:
            return None
        return next((child for child in self.workers(self.current) if child.worn), None)

    def wanted(self, generation: Generation) -> int:
        """How many workers: one more while one is to be recycled, since its successor comes first."""
        return generation.size + (generation is self.current and self.to_recycle is not None)

    def recyclable(self) -> Child | None:
        """That worker, once there is one more that works."""
        working = [child for child in self.workers(self.current) if child.state is ChildState.WORKING]
        return self.to_recycle if len(working) > self.current.size else None

    @property
    def next_is_ready(self) -> bool:
        """All of the next generation is ready."""
        ready = [child for child in self.workers(self.next) if child.state is ChildState.READY]
        return self.next is not None and len(ready) >= self.next.size

    @property
    def works(self) -> bool:
        return any(child.state is ChildState.WORKING for child in self.workers(self.current))

    @property
    def is_complete(self) -> bool:
        """As many work as there should be."""
        working = sum(child.state is ChildState.WORKING for child in self.workers(self.current))
        return working >= self.current.size

    def start_with(self, size: int) -> None:
        """So many, where the number follows the load and as far as the settings allow."""
        if self.scaling is not None:
            self.current.size = self.scaling.within(size)

    def told_once(self, failure: Failed) -> str:
        """The sentence; the traceback before it, unless it is the same as last time."""
        sentence = failure.sentence.rstrip(".") + "."
        told = sentence + failure.traceback
        if told == self.last_failure or not failure.traceback:
            return sentence
        self.last_failure = told
        return f"\n{failure.traceback.rstrip()}\n{sentence}"
