"""Helper threads for what may block on a disk, so that the loop never does.

A job is a function without arguments that raises nothing. When it is done the connection that waited
for it is driven again, by the loop. The threads let go of the interpreter lock in their system calls,
so a stuck disk costs the other connections nothing.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halfsync.pump.connection import Connection
    from halfsync.pump.loop import Pump

THREADS = 2

Job = Callable[[], None]


class Helpers:
    """`wakeup` is an eventfd that tells the loop to call `finished`."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._wanted: queue.SimpleQueue[tuple[Connection, Job]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._started = False
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def submit(self, conn: Connection, job: Job) -> None:
        """Have `job` done; `conn` is driven afterwards, whatever has become of it."""
        if not self._started:
            self._started = True
            for number in range(THREADS):
                threading.Thread(target=self._help, name=f"disk-{number}", daemon=True).start()
        self._wanted.put((conn, job))

    def finished(self) -> None:
        """The eventfd is readable: go on with the connections whose jobs are done."""
        try:
            os.eventfd_read(self.wakeup)
        except BlockingIOError:
            return
        while True:
            try:
                conn = self._done.get_nowait()
            except queue.Empty:
                return
            self._pump.drive(conn)

    def _help(self) -> None:
        while True:
            self._do(*self._wanted.get())

    def _do(self, conn: Connection, job: Job) -> None:
        # A function of its own: no name of the loop above may hold on to what a job used, or its
        # descriptor would stay open until the next job.
        job()
        self._done.put(conn)
        os.eventfd_write(self.wakeup, 1)
