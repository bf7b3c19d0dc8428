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

from halfsync.logs.error import log

THREADS = 2

Job = Callable[[], None]


class Helpers:
    """`wakeup` is an eventfd that tells the loop to call `finished`."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[tuple[Job, Job]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._started = 0
        self._told = False  # that there is no room for one
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def submit(self, job: Job, afterwards: Job) -> None:
        """Have `job` done by a helper, and then `afterwards` by the loop."""
        if self._started < THREADS:
            self._start()
        if self._started:
            self._wanted.put((job, afterwards))
        else:
            self._do(job, afterwards)

    def _start(self) -> None:
        """As many as there is room for. If for none, the loop has to wait for the disk itself."""
        try:
            while self._started < THREADS:
                threading.Thread(target=self._help, name=f"disk-{self._started}", daemon=True).start()
                self._started += 1
        except RuntimeError as error:
            if not self._told:
                self._told = True
                log(
                    "warning", f"no thread for the disk: {error} (ulimit -u, TasksMax). It may delay clients."
                )

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
