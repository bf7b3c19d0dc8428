"""What the parent knows of the server and its processes, for those who ask (control.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from halfsync import __version__
from halfsync.parent.states import ChildState
from halfsync.parent.tree import Tree
from halfsync.parent.workers.children import UNKNOWN, Child, Role
from halfsync.parent.workers.pools import WorkerPool
from halfsync.parent.workers.thread_rows import ThreadRows
from halfsync.scoreboard.scoreboard import PROCESSES, ProcessRow, Scoreboard, TaskRow
from halfsync.system.memory import resident
from halfsync.wire.thread_rows import ThreadRow, paired

_STARTED = time.monotonic()


def status_of(tree: Tree, now: float) -> dict[str, Any]:
    """`now` is monotonic."""
    return {
        "version": __version__,
        "pid": os.getpid(),
        "phase": tree.phase.value,
        "uptime": round(now - _STARTED, 3),
        "addresses": tree.plan.addresses,
        "reloads": tree.plan.number,
        "pools": [_pool(pool) for pool in tree.pools if pool.current.size or pool.children],
    }


def workers_of(tree: Tree, scoreboard: Scoreboard, now: float) -> dict[str, Any]:
    """All processes, the parent too."""
    own = {"role": "parent", "pid": os.getpid(), "state": tree.phase.value, "memory": resident(os.getpid())}
    return {"processes": [own, *(_process(tree, child, scoreboard, now) for child in tree.children())]}


def rows_of(tree: Tree, scoreboard: Scoreboard, now: float) -> list[dict[str, Any]]:
    """The scoreboard's rows, those of processes that have ended lately behind the others."""
    threads = _threads(tree)
    found = [_row(scoreboard, index, threads.get(index), now) for index in range(PROCESSES)]
    return sorted(filter(None, found), key=lambda row: (bool(row.get("ending")), row["seconds"]))


def _threads(tree: Tree) -> dict[int, ThreadRows]:
    """By the row of their process."""
    return {child.row: child.thread_rows for child in tree.children() if child.thread_rows is not None}


def _row(scoreboard: Scoreboard, index: int, threads: ThreadRows | None, now: float) -> dict[str, Any]:
    process = scoreboard.process(index)
    if process is None:
        return {}
    said = process.described(now, scoreboard.served(index))
    if process.ending:
        return said
    tasks = _tasks(scoreboard, process)
    if tasks:
        said["tasks"] = [_described(task, now) for task in tasks]
    if threads is not None and (rows := threads.read()):
        said["slots"] = _slots(rows, tasks, now)
    return said


def _tasks(scoreboard: Scoreboard, process: ProcessRow) -> list[TaskRow]:
    """The oldest first."""
    rows = range(process.first_task, process.first_task + process.task_rows)
    tasks = [task for row in rows if (task := scoreboard.task(row)) is not None]
    return sorted(tasks, key=lambda task: task.began_ns)


def _described(task: TaskRow, now: float) -> dict[str, Any]:
    return {
        "seconds": round(now - task.began_ns / 1e9, 3),
        "request": task.request,
        "host": task.host,
        "client": task.client,
    }


def _slots(rows: Sequence[ThreadRow], tasks: Sequence[TaskRow], now: float) -> list[dict[str, Any]]:
    """One for each thread: its letter, as on the status page; since when; and its request, if that runs for
    long enough to stand on the scoreboard."""
    found = []
    for row, task in zip(rows, paired(rows, [task.began_ns for task in tasks]), strict=True):
        slot: dict[str, Any] = {
            "letter": "W" if row.is_busy or task is not None else "_",
            "seconds": round(max(0.0, now - row.since_ns / 1e9), 3) if row.since_ns else None,
            "requests": row.request_count,
            "bytes": row.response_bytes,
        }
        found.append(slot if task is None else slot | _described(tasks[task], now))
    return found


def _pool(pool: WorkerPool) -> dict[str, Any]:
    workers = [child for child in pool.children if child.role is Role.WORKER]

    def count(*states: ChildState) -> int:
        return sum(child.state in states for child in workers)

    said: dict[str, Any] = {
        "pool": pool.name,
        "size": pool.current.size,
        "threads": pool.planned.threads,
        "working": count(ChildState.WORKING),
        "starting": count(ChildState.STARTING, ChildState.READY),
        "retiring": count(ChildState.RETIRING, ChildState.EXITING),
        "generation": pool.current.number,
    }
    if pool.scaling is not None:
        said |= {"least": pool.scaling.least, "most": pool.scaling.most}
    return said


def _process(tree: Tree, child: Child, scoreboard: Scoreboard, now: float) -> dict[str, Any]:
    said: dict[str, Any] = {
        "role": child.role.value,
        "pid": child.pid if child.pid != UNKNOWN else None,
        "state": child.state.value,
        "age": round(now - child.started, 3),
        "memory": resident(child.pid),
    }
    if child.role in (Role.WORKER, Role.TEMPLATE):
        said |= {"pool": tree.pools[child.pool].name, "generation": child.generation}
    if child.role is Role.WORKER:
        requests, sent = scoreboard.served(child.row)
        said |= {"threads": child.threads, "id": child.id, "requests": requests, "bytes": sent}
    return said
