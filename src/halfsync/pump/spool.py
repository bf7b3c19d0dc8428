"""A request's body, kept aside until it is whole: in memory, then in an unnamed file.

Written by the pump with plain write(2): to the page cache, in pieces of at most one read. So a
stalled upload holds a few kilobytes here and nobody's thread.
"""

from __future__ import annotations

import os

from halfsync.pump.descriptors import Descriptor
from halfsync.unnamed import unnamed_file


class Spool:
    """`memory`: bytes it may hold before it moves to a file in `folder`. Raises OSError from
    `write` when the disk is full."""

    __slots__ = ("_folder", "_memory", "_parts", "file", "size")

    def __init__(self, memory: int, folder: str) -> None:
        self._memory = memory
        self._folder = folder
        self._parts: list[bytes] = []
        self.size = 0
        self.file: Descriptor | None = None

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.file is None:
            self._parts.append(data)
            if self.size <= self._memory:
                if len(self._parts) > 64:  # a body that drips in is many small objects otherwise
                    self._parts = [b"".join(self._parts)]
                return
            self.file = Descriptor(unnamed_file(self._folder))
            data = b"".join(self._parts)
            self._parts.clear()
        view = memoryview(data)
        while view:
            view = view[os.write(self.file.fd, view) :]

    def memory(self) -> bytes:
        """The whole body, if it is not in a file."""
        if len(self._parts) != 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]
