"""Ended children: which ones are ours, and what is known of those whose number we did not know yet.

A worker that a template forks becomes the parent's child, and tells its process id itself. It may end
before that report is read. And as the parent adopts orphans, it also reaps descendants that an application
left behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

MOST_UNKNOWN = 100
"""Statuses that are kept beyond the turn in which they came: of all but some of these, no report will ever
come."""


class UnknownChildren:
    """Wait statuses of reaped children whose number belongs to no child that is known."""

    def __init__(self) -> None:
        self._statuses: dict[int, int] = {}

    def add(self, pid: int, status: int) -> None:
        self._statuses[pid] = status

    def drop_oldest(self) -> None:
        """To be called before a turn's are added: however many come at once, each is there for those who wait
        for it."""
        while len(self._statuses) > MOST_UNKNOWN:
            self._statuses.pop(next(iter(self._statuses)))

    def take(self, pid: int) -> int | None:
        """The status of that process, once; None if it has not been reaped."""
        return self._statuses.pop(pid, None)

    def is_our_child(self, pid: int) -> bool:
        """Whether that number is, or was lately, a child's. A number that a child claims is not to be
        believed: we may be root, and will kill it. Asked of the kernel, and not of /proc, which may be
        missing."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except OSError:
            return pid in self._statuses
        self._statuses.pop(pid, None)  # an older process of the same number
        return True


BY_SIGNAL = 128
"""Added to a signal's number it is the exit status of whoever was ended by it, as a shell has it."""


def exit_status_of(wait_status: int) -> int:
    """For a process that ends as another one did."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else BY_SIGNAL - code


def ended_processes() -> Iterable[tuple[int, int]]:
    """(process id, wait status) of each child that has ended, once."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
