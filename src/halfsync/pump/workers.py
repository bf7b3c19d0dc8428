"""The pump's side of worker processes: their channels, boards, slots, and the pools they are in."""

from __future__ import annotations

import mmap
import os
import socket
from collections import deque

from halfsync.logs.error import log
from halfsync.pump.connection import Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.wire.messages import BOARD_SLOTS, Join, Left, LogTask, Nudge, Recall, Stacks, Task, encode

LOOK_AHEAD = 64
"""Tasks that a worker may hold beyond one for each thread, if its handlers are fast."""
FAST_NS = 1_000_000
"""A mean time in the handler under this earns look-ahead: the cost that batching saves is some
50 µs a request, so a handler of milliseconds gains nothing by it."""
MEAN_OF = 8
NUDGE_AFTER = 0.004
"""Seconds. A fast batch of LOOK_AHEAD tasks takes less than this; a slow one shows by then."""

LOG_BATCH = object()
"""What owns the slot of a LogTask; a request's slot is owned by its Exchange."""


class Worker:
    """The pump's side of one worker process."""

    def __init__(self, join: Join, pool: Pool, fds: list[Descriptor]) -> None:
        """`fds`: the pump's ends of `tasks` and `watch`, and the board."""
        tasks, watch, board = fds
        self.id = join.worker
        self.pid = join.pid
        self.threads = join.threads
        self.pool = pool
        self.tasks = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(tasks.fd))
        self.watch = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(watch.fd))
        self.tasks.setblocking(False)
        self.watch.setblocking(False)
        self.board = memoryview(mmap.mmap(board.fd, BOARD_SLOTS * 8)).cast("Q")
        self.slots: dict[int, object] = {}  # who owns the task in a slot
        self.free = list(range(BOARD_SLOTS - 1, -1, -1))
        self.retiring = False  # no more tasks; closed when the last has ended
        self.full = False  # its socket took no more: wait until it does
        self.recalled = False  # tasks had to be taken back: no look-ahead until it has caught up
        self.patience = NUDGE_AFTER  # seconds of silence until it is nudged
        self.heard_at = 0.0  # when it last ended a task, or was given one with nothing else to do

    @property
    def outstanding(self) -> int:
        return len(self.slots)

    @property
    def room(self) -> int:
        if self.retiring or self.full:
            return 0
        ahead = LOOK_AHEAD if self.pool.fast and not self.recalled else 0
        return min(self.threads + ahead - self.outstanding, len(self.free))

    def take_slot(self, owner: object) -> int:
        slot = self.free.pop()
        self.slots[slot] = owner
        self.board[slot] = 0
        return slot

    def give_slot(self, slot: int) -> None:
        del self.slots[slot]
        self.free.append(slot)

    def unbegun(self) -> int:
        """How many tasks wait behind others in this worker."""
        board = self.board
        return sum(1 for slot in self.slots if board[slot] == 0)

    def send(self, messages: list[Task] | list[LogTask] | list[Nudge], fds: list[int]) -> bool:
        """One packet. False: its socket is full, or gone, which its next event tells."""
        packet = encode(messages)
        try:
            if fds:
                socket.send_fds(self.tasks, [packet], fds)
            else:
                self.tasks.send(packet)
        except OSError:
            self.full = True
            return False
        return True

    def tell(self, message: Nudge | Recall | Stacks | Left) -> None:
        """Say something to its watch thread."""
        try:
            self.watch.send(encode(message))
        except BlockingIOError:
            pass  # it has many of these to read already
        except OSError as error:
            log("debug", f"worker {self.pid} does not hear: {error.strerror}")

    def tell_left(self, exchange: Exchange) -> None:
        """The exchange's client has left: its handler may stop, if it has begun and not ended."""
        slot = exchange.slot
        if slot >= 0 and self.slots.get(slot) is exchange and self.board[slot]:
            self.tell(Left(slot, self.board[slot]))

    def close(self) -> None:
        self.tasks.close()
        self.watch.close()


class Pool:
    """Requests that wait for the workers of one pool."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Exchange] = deque()
        self._left = 0  # of those in the queue, how many have no client any more
        self.workers: list[Worker] = []  # the one that was idle most recently is the last
        self.mean_ns = 10.0 * FAST_NS  # of the time in the handler; at first it has to be earned

    @property
    def waiting(self) -> int:
        """How many requests of living clients wait in the queue."""
        return len(self.queue) - self._left

    def oldest(self) -> Exchange | None:
        """The request that waits longest; None if there is none."""
        queue = self.queue
        while queue and queue[0].conn is None:
            queue.popleft()
            self._left -= 1
        return queue[0] if queue else None

    def take_oldest(self) -> Exchange | None:
        """The same, taken off the queue."""
        if self._left and self.oldest() is None:
            return None
        return self.queue.popleft() if self.queue else None

    def client_left(self, exchange: Exchange) -> None:
        """A request in the queue has no client any more: what it holds is let go of at once."""
        exchange.spool = None
        self._left += 1
        if self._left > 64 and self._left > len(self.queue) // 2:
            living = [one for one in self.queue if one.conn is not None]
            self.queue.clear()
            self.queue.extend(living)
            self._left = 0

    @property
    def fast(self) -> bool:
        return self.mean_ns < FAST_NS
