"""What a connection's queue holds: simple objects on their way out, and the bytes that frame them."""

from __future__ import annotations

from halfsync.pump.descriptors import Descriptor
from halfsync.system.stamps import Stamp


class Framing(bytes):
    """Bytes that are sent but are not of the body: head, chunk lines."""

    __slots__ = ()


class FileSpan:
    """`count` bytes of a file, from `offset`."""

    __slots__ = ("being_read", "cached_until", "count", "file", "offset", "stamp")

    def __init__(self, file: Descriptor, offset: int, count: int, stamp: Stamp | None = None) -> None:
        self.file = file
        self.stamp = stamp  # what the file has to be to the end; None: nobody can change it
        self.offset = offset
        self.count = count
        self.cached_until = 0  # offset up to which the pages were in memory when looked at
        self.being_read = False  # by a helper thread

    def continues_with(self, other: FileSpan) -> bool:
        return self.file is other.file and self.offset + self.count == other.offset


class PipeEnd:
    """A pipe to read until it ends."""

    __slots__ = ("ended", "file")

    def __init__(self, file: Descriptor) -> None:
        self.file = file
        self.ended = False
