"""What the threads of a worker are doing, as the parent sees it, whatever the worker and the pump do."""

from __future__ import annotations

import fcntl
import os
from array import array

from halfsync.wire.task_slots import SCOREBOARD_BYTES
from halfsync.wire.thread_rows import WORDS, ThreadRow, rows_of

_SIZE = 8 * WORDS

TRIES = 8
"""An application can write there without pause, and must not keep the parent."""


class ThreadRows:
    """Those of one worker: a descriptor of its scoreboard, which is closed with the object."""

    def __init__(self, fd: int, threads: int) -> None:
        self._fd = fd
        self._threads = threads

    @classmethod
    def of(cls, scoreboard: int, threads: int) -> ThreadRows | None:
        """By a descriptor of their own; None if there is no room for it now, which costs nobody a request."""
        try:
            return cls(fcntl.fcntl(scoreboard, fcntl.F_DUPFD_CLOEXEC, 3), threads)
        except OSError:
            return None

    def read(self) -> list[ThreadRow]:
        """Twice, until both are the same (no lock is taken to copy them), or TRIES are over: then a word may
        be half of one moment and half of another, which costs a wrong letter."""
        if self._fd < 0:
            return []
        found = self._read()
        for _ in range(TRIES):
            before, found = found, self._read()
            if found == before:
                break
        return rows_of(array("Q", found), self._threads)

    def _read(self) -> bytes:
        return os.pread(self._fd, _SIZE, SCOREBOARD_BYTES - _SIZE)

    def forget_in_child(self) -> None:
        """In a forked process, where it is closed already, and its number may be another's."""
        self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
