"""A request's body, kept aside until it is whole: in memory, then in an anonymous temporary file.

The first DIRECT bytes of a file are written by the loop itself, to the page cache: 15 µs for a read's
64 KiB. But a file that grows can meet a disk that has enough (the kernel stops a writer whose dirty pages
are too many), so what follows is written by helper threads, a BATCH at a time; while one is written
the next is collected, and while two wait the client is not read.

All spools together are bounded (`SpoolSpace`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from halfsync.pump.descriptors import Descriptor
from halfsync.system.temporary_files import temporary_file

Submit = Callable[[Callable[[], None]], None]
"""Has a job done by a helper thread, and wakes who waits for it."""

DIRECT = 1024 * 1024
"""Bytes of a body that the loop writes by itself."""
BATCH = 256 * 1024
"""Bytes that a helper writes at a time."""
MOST_PARTS = 64
"""Pieces that wait in memory by themselves: each is an object, of 33 bytes and what is in it."""


class SpoolSpace:
    """What all spools together may hold, in bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def has_room(self, size: int) -> bool:
        return self.used + size <= self.limit


class Spool:
    """`memory`: bytes it may hold before it moves to a file in `folder`."""

    __slots__ = (
        "_being_written",
        "_errno",
        "_folder",
        "_memory",
        "_parts",
        "_space",
        "_waiting",
        "file",
        "size",
    )

    def __init__(self, memory: int, folder: str, space: SpoolSpace) -> None:
        self._memory = memory
        self._folder = folder
        self._space = space
        self._parts: list[bytes] = []  # in memory: the whole body, or what has yet to be written
        self._waiting = 0  # bytes in `_parts` that are for a helper
        self._being_written = False
        self._errno = 0  # of what a helper failed with (the exception itself would hold on to us)
        self.size = 0
        self.file: Descriptor | None = None

    is_whole = True  # when a task is made of it

    def __del__(self) -> None:
        self._space.used -= self.size

    def write(self, data: bytes) -> None:
        """Raises OSError if a file can't be made or written, such as on a full disk; also if a helper
        has met that meanwhile."""
        self._raise_error()
        self.size += len(data)
        self._space.used += len(data)
        if self.size <= self._memory:
            self._hold(data)
            return
        if self.size > DIRECT and self.file is not None:
            self._hold(data)
            self._waiting += len(data)
            return
        if self.file is None:
            self.file = Descriptor(temporary_file(self._folder))
            data = b"".join((*self._parts, data))
            self._parts.clear()
        _write_all(self.file.fd, data)

    def _hold(self, data: bytes) -> None:
        """In memory."""
        self._parts.append(data)
        if len(self._parts) > MOST_PARTS:
            self._parts = [b"".join(self._parts)]

    def flush(self, submit: Submit, *, whole: bool) -> bool:
        """Whether there is nothing to wait for: the body may go on coming or, if it is `whole`, be used.
        If not, a job was submitted. Raises OSError."""
        self._raise_error()
        if self._waiting and not self._being_written and (whole or self._waiting >= BATCH):
            self._being_written = True
            batch, self._parts, self._waiting = self._parts, [], 0
            submit(lambda: self._write_batch(batch))
        return not self._being_written or not (whole or self._waiting >= BATCH)

    def _raise_error(self) -> None:
        if self._errno:
            raise OSError(self._errno, os.strerror(self._errno))

    @property
    def is_behind(self) -> bool:
        """Whether a helper is writing: the client may wait for the disk."""
        return self._being_written

    def _write_batch(self, batch: list[bytes]) -> None:
        """In a helper thread."""
        assert self.file is not None
        try:
            _write_all(self.file.fd, b"".join(batch))
        except OSError as error:
            self._errno = error.errno or errno.EIO
        self._being_written = False

    def memory(self) -> bytes:
        """The whole body, if it is not in a file."""
        if len(self._parts) != 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
