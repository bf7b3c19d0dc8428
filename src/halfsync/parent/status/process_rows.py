"""The process rows of the scoreboard: who there is, as the parent knows it.

Compared in each turn with what stands there, and written where it differs, so that no event has to be
noticed; memory is looked up every few seconds.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from dataclasses import dataclass

from halfsync.parent.states import ChildState
from halfsync.parent.tree import Tree
from halfsync.parent.workers.children import UNKNOWN, Child, Role
from halfsync.scoreboard.scoreboard import NO_TASK, PROCESSES, TASKS, ProcessRow, Scoreboard, cut
from halfsync.system.memory import resident

MEMORY_EVERY = 5.0
"""Seconds. To look it up costs 15 µs a process."""
MOST_TASK_ROWS = 128
"""Of one worker: a thread runs one task; an event loop may run thousands."""

OWN = 0
"""The parent's row."""

NO_ROW = -1


@dataclass(eq=False)
class _KnownChild:
    """What was written of a child."""

    index: int
    row: ProcessRow
    memory_at: float = 0.0  # when that is due


class ProcessRows:
    def __init__(self, scoreboard: Scoreboard, now: float) -> None:
        self.scoreboard = scoreboard
        self._free = deque(range(1, PROCESSES))  # those that were used last are used again last
        self._spans = FreeRows(TASKS)
        self._known: dict[Child, _KnownChild] = {}
        self._own = ProcessRow("parent", os.getpid(), "", now, now, 0)
        self._own_memory_at = 0.0
        scoreboard.header[0] = int(now * 1e9)
        scoreboard.header[1] = secrets.randbits(64)  # of this server, for those who see several

    def look(self, tree: Tree, now: float) -> None:
        """`now` is monotonic seconds."""
        self._look_at_self(tree, now)
        children = tree.children()
        for child in children:
            known = self._known.get(child) or self._make_room(child)
            if known is not None:
                self._look_at(tree, child, known, now)
        if len(self._known) > len(children):
            for child in set(self._known).difference(children):
                self._end(child, now)

    def _look_at_self(self, tree: Tree, now: float) -> None:
        own = self._own
        due = now >= self._own_memory_at
        if own.state == tree.phase.value and not due:
            return
        if own.state != tree.phase.value:
            own.state, own.since = tree.phase.value, now
        if due:
            own.memory = resident(own.pid)
            self._own_memory_at = now + MEMORY_EVERY
        self.scoreboard.write_process(OWN, own)

    def _make_room(self, child: Child) -> _KnownChild | None:
        if not self._free:
            return None
        child.row = index = self._free.popleft()
        served = self.scoreboard.served(index)
        served[0] = served[1] = 0
        row = ProcessRow(child.role.value, UNKNOWN, "", 0.0, child.started, 0)
        self._known[child] = known = _KnownChild(index, row)
        return known

    def _give_task_rows(self, child: Child, row: ProcessRow) -> None:
        """It can work: what kind of worker it is, is known by now."""
        most = MOST_TASK_ROWS if child.concurrency else min(child.threads, MOST_TASK_ROWS)
        child.task_rows = row.first_task, row.task_rows = self._spans.take(most)
        for task in range(row.first_task, row.first_task + row.task_rows):
            self.scoreboard.write_task(task, NO_TASK)

    def _look_at(self, tree: Tree, child: Child, known: _KnownChild, now: float) -> None:
        row = known.row
        if row.state == child.state.value and row.pid == child.pid and now < known.memory_at:
            return
        if row.state != child.state.value:
            row.state, row.since = child.state.value, now
        if child.state is ChildState.READY and child.role is Role.WORKER and not row.task_rows:
            self._give_task_rows(child, row)
        row.pid = child.pid
        row.threads = child.concurrency or child.threads
        if child.role in (Role.WORKER, Role.TEMPLATE):
            row.pool, row.generation = cut(tree.pools[child.pool].name, 80), child.generation
        if child.pid != UNKNOWN:
            row.memory = resident(child.pid)
            known.memory_at = now + MEMORY_EVERY
        self.scoreboard.write_process(known.index, row)

    def _end(self, child: Child, now: float) -> None:
        known = self._known.pop(child)
        row = known.row
        row.state, row.since, row.memory, row.ending = ChildState.ENDED.value, now, 0, cut(child.ending, 60)
        self.scoreboard.write_process(known.index, row)
        self._spans.give((row.first_task, row.task_rows))
        self._free.append(known.index)


class FreeRows:
    """Parts of a row of places, in a row."""

    def __init__(self, size: int) -> None:
        self._free = [(0, size)]  # in order

    def take(self, count: int) -> tuple[int, int]:
        """Where it begins, and how many; (0, 0) if there is no such room."""
        for place, (first, there) in enumerate(self._free):
            if there >= count:
                self._free[place : place + 1] = [(first + count, there - count)] if there > count else []
                return first, count
        return 0, 0

    def give(self, span: tuple[int, int]) -> None:
        if not span[1]:
            return
        joined: list[tuple[int, int]] = []
        for first, count in sorted([*self._free, span]):
            if joined and sum(joined[-1]) == first:
                joined[-1] = (joined[-1][0], joined[-1][1] + count)
            else:
                joined.append((first, count))
        self._free = joined
