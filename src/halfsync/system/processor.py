"""How much processor time processes have had, and how long they have waited for it.

Both cost some microseconds, and nothing in the process that is looked at.
"""

from __future__ import annotations

import os
import time

_OF_ALL_THREADS = 2
"""CPUCLOCK_SCHED in the kernel's posix-timers.h."""


def used(pid: int) -> float | None:
    """Seconds that all threads of this process have had, those that have ended included. None: it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | _OF_ALL_THREADS)  # as clock_getcpuclockid(3) makes it
    except OSError:
        return None


def waited(pid: int) -> float:
    """Seconds in which its threads that are there now could run, and others had the processor (see
    proc_pid_schedstat in the kernel's Documentation/scheduler/sched-stats): summed over the threads, so it
    shrinks when one ends. 0 where the kernel does not tell."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0.0
    return sum(_run_delay(f"/proc/{pid}/task/{task}/schedstat") for task in tasks)


def run_delay() -> float:
    """The same of this process's main thread."""
    return _run_delay("/proc/self/schedstat")


def _run_delay(path: str) -> float:
    try:
        with open(path, "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
