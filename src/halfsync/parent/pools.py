"""The processes of one pool, as the parent staffs them.

A pool has one current generation, whose workers the pump knows. A reload raises a second one
beside it, with the code as it is now; when all of its workers are ready, it takes the place of
the current one in one step. If any of them fails, the next generation is dropped, and nothing
has happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from halfsync.parent.backoff import Backoff
from halfsync.parent.children import Child, Role
from halfsync.parent.states import ChildState
from halfsync.plan import PoolPlan
from halfsync.wire.messages import Failed

COUNTED = (ChildState.STARTING, ChildState.READY, ChildState.WORKING)
"""States in which a worker counts toward the size of its generation."""


@dataclass(eq=False)
class WorkerPool:
    index: int  # into Plan.pools
    plan: PoolPlan
    preload: bool
    size: int  # workers wanted; TTIN and TTOU change it
    children: list[Child] = field(default_factory=list)  # templates too
    current: int = 0
    next: int | None = None
    backoff: Backoff = field(default_factory=Backoff)
    last_failure: str = ""  # already told in full
    _newest: int = 0

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def has_application(self) -> bool:
        return self.plan.target is not None

    def start_generation(self) -> None:
        self._newest += 1
        self.next = self._newest

    def switch_over(self) -> None:
        assert self.next is not None
        self.current, self.next = self.next, None

    @property
    def generations(self) -> Iterable[int]:
        """Those that are to be kept at their size."""
        return (self.current,) if self.next is None else (self.current, self.next)

    def of(self, generation: int | None) -> list[Child]:
        return [child for child in self.children if child.generation == generation]

    def workers(self, generation: int | None) -> list[Child]:
        """Those that count, oldest first."""
        return [
            child for child in self.of(generation) if child.role is Role.WORKER and child.state in COUNTED
        ]

    def template(self, generation: int) -> Child | None:
        for child in self.of(generation):
            if child.role is Role.TEMPLATE and child.state in COUNTED:
                return child
        return None

    @property
    def to_recycle(self) -> Child | None:
        """A worker that has served max_requests. (While there is a next generation, all are replaced.)"""
        if self.next is not None:
            return None
        return next((child for child in self.workers(self.current) if child.served), None)

    def wanted(self, generation: int) -> int:
        """How many workers: one more while one is to be recycled, since its successor comes first."""
        return self.size + (generation == self.current and self.to_recycle is not None)

    def recyclable(self) -> Child | None:
        """That worker, once there is one more that works."""
        working = [child for child in self.workers(self.current) if child.state is ChildState.WORKING]
        return self.to_recycle if len(working) > self.size else None

    @property
    def next_is_ready(self) -> bool:
        """All of the next generation is ready."""
        ready = [child for child in self.workers(self.next) if child.state is ChildState.READY]
        return self.next is not None and len(ready) >= self.size

    @property
    def works(self) -> bool:
        return any(child.state is ChildState.WORKING for child in self.workers(self.current))

    def told_once(self, failure: Failed) -> str:
        """The sentence; the traceback before it, unless it is the same as last time."""
        sentence = failure.sentence.rstrip(".") + "."
        told = sentence + failure.traceback
        if told == self.last_failure or not failure.traceback:
            return sentence
        self.last_failure = told
        return f"\n{failure.traceback.rstrip()}\n{sentence}"
