"""Helper threads for what may block on a disk, so that the loop never does.

A job is a function without arguments that raises nothing. When it is done, the loop calls what was to
follow. The threads let go of the interpreter lock in their system calls, so a stuck disk costs the other
connections nothing.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

THREADS = 2

Job = Callable[[], None]


class Helpers:
    """`wakeup` is an eventfd that tells the loop to call `finished`."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[tuple[Job, Job]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._started = False
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def submit(self, job: Job, afterwards: Job) -> None:
        """Have `job` done by a helper, and then `afterwards` by the loop."""
        if not self._started:
            self._started = True
            for number in range(THREADS):
                threading.Thread(target=self._help, name=f"disk-{number}", daemon=True).start()
        self._wanted.put((job, afterwards))

    def finished(self) -> None:
        """The eventfd is readable: do what follows the jobs that are done."""
        try:
            os.eventfd_read(self.wakeup)
        except BlockingIOError:
            return
        while True:
            try:
                afterwards = self._done.get_nowait()
            except queue.Empty:
                return
            afterwards()

    def _help(self) -> None:
        while True:
            self._do(*self._wanted.get())

    def _do(self, job: Job, afterwards: Job) -> None:
        # A function of its own: no name of the loop above may hold on to what a job used, or its
        # descriptor would stay open until the next job.
        job()
        self._done.put(afterwards)
        os.eventfd_write(self.wakeup, 1)
