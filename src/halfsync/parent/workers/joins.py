"""What joins the pump and one worker, made by the parent: two socket pairs and the scoreboard."""

from __future__ import annotations

import fcntl
import os
import socket

from halfsync import channel
from halfsync.parent.states import ChildEvent
from halfsync.parent.workers.children import Child
from halfsync.parent.workers.thread_rows import ThreadRows
from halfsync.wire.blocks import SHARED_BYTES
from halfsync.wire.orders import Attach, Join
from halfsync.wire.task_slots import MOST_SLOTS, SCOREBOARD_SLOTS, scoreboard_bytes

CHANNEL_BUFFER = 208 * 1024
"""Of the `tasks` and `watch` sockets: Linux's default limit, of which it then makes twice as much
for its own accounts, so that a packet of MAX_PACKET fits beside others."""


SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Nobody changes the scoreboard's size, nor what may be done to it: to read from memory behind the end of its
file is SIGBUS, and a worker must not be able to do that to the pump."""


def make(concurrency: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`tasks`, `watch` and the scoreboard: the pump's descriptors, and the worker's. Raises OSError.

    `concurrency`: how many tasks a worker with an event loop takes; 0 for one with threads."""
    made: list[int] = []
    try:
        scoreboard = os.memfd_create("scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        made.append(scoreboard)
        slots = min(max(SCOREBOARD_SLOTS, concurrency), MOST_SLOTS)
        _size(scoreboard, scoreboard_bytes(slots), with_blocks=concurrency > 0)
        fcntl.fcntl(scoreboard, fcntl.F_ADD_SEALS, SEALS)
        for _ in ("tasks", "watch"):
            for end in channel.pair():
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHANNEL_BUFFER)
                made.append(end.detach())
        made.append(os.dup(scoreboard))
    except OSError:
        channel.close_all(made)
        raise
    scoreboard, pump_tasks, worker_tasks, pump_watch, worker_watch, second_scoreboard = made
    return (pump_tasks, pump_watch, scoreboard), (worker_tasks, worker_watch, second_scoreboard)


def _size(scoreboard: int, size: int, *, with_blocks: bool) -> None:
    """With the blocks of an event loop in front, if the limit of files' sizes (RLIMIT_FSIZE) lets it be as
    large; else bodies cross without them. Raises OSError."""
    if with_blocks:
        try:
            os.ftruncate(scoreboard, SHARED_BYTES + size)
        except OSError:
            pass
        else:
            return
    os.ftruncate(scoreboard, size)


def join(pump: Child, worker: Child) -> None:
    """Make the channels between the pump and this worker, and hand each its ends. Raises OSError; then the
    worker stays as it is, to be joined later."""
    pumps, workers = make(worker.concurrency)
    worker.thread_rows = None if worker.concurrency else ThreadRows.of(pumps[-1], worker.threads)
    worker.order(Attach(), workers)
    is_loop = worker.concurrency > 0
    threads = worker.concurrency if is_loop else worker.threads
    first, rows = worker.task_rows
    pump.order(Join(worker.id, worker.pid, worker.pool, threads, is_loop, worker.row, first, rows), pumps)
    worker.pump = pump.id
    worker.on(ChildEvent.JOINED)
