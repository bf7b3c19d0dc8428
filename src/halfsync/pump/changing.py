"""Files that somebody may write into while they are sent: never a mixture of two versions.

Theory of operation
-------------------
sendfile(2) does not copy. What it was given waits in the socket as references to the file's pages, and on the
same machine even in the client's socket: a write into the file changes what has been "sent" already, and
no look at the file afterwards can tell. So a file that has a stamp (see stamps.py) is not sent with sendfile:

    first time, or large    read and sent from a buffer. Before the last byte is given to the socket, the file
                            is looked at once more; if it has changed, the response is aborted
    leased, up to MAX_COPY  copied to an anonymous file at the second request, checked once, and then sent
                            with sendfile(2) from there as often as the lease says: nobody can write into it

(An anonymous file of the spool's file system, written by one write(2): there the page cache may consist of
large pages, and sendfile(2) takes 60 to 130 µs a MiB. From a memfd, always of small ones, it took 210.)

Reading costs 150 µs a MiB more than sendfile(2); the copy is made once a lease, and not again if the file has
not changed when the lease is renewed.
"""

from __future__ import annotations

import os

from halfsync import channel
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.leases.leased import MAX_COPY, Leased
from halfsync.pump.sendables import FileSpan
from halfsync.system.stamps import Stamp, is_same_content, stamp_of
from halfsync.system.temporary_files import temporary_file

PIECE = 256 * 1024
"""Bytes read at a time: they fit the second level cache."""


class FileChangedError(Exception):
    """A file changed after its head was sent."""


class FileCopy(Descriptor):
    """A copy of (a part of) a file; `held` of its maker counts the bytes of all that live."""

    __slots__ = ("_count", "_held", "_maker", "_memory")

    def __init__(self, fd: int, count: int, maker: ChangingFiles) -> None:
        super().__init__(fd)
        self._count = self._held = count
        self._maker = maker
        self._memory: memoryview | None = None
        maker.held += count

    def __del__(self) -> None:
        self._maker.held -= self._held
        super().__del__()

    def in_memory(self) -> memoryview | None:
        """All of it, where sendfile(2) can't be used: then it is read once, and not for each response. None
        if there is no room for that. Raises OSError. (Mapped, it would cost nothing; but a disk that fails
        then ends the process.)"""
        maker, count = self._maker, self._count
        if self._memory is None and maker.held + count <= maker.memory:
            self._memory = memoryview(os.pread(self.fd, count, 0))
            self._held += count
            maker.held += count
        return self._memory


class ChangingFiles:
    def __init__(self, memory: int, folder: str) -> None:
        """`memory`: bytes that all copies may take, which slow clients hold beyond their lease. `folder`:
        where they are."""
        self.memory = memory
        self._folder = folder
        self._view = channel.page_buffer(PIECE)
        self.held = 0

    def read(self, span: FileSpan, stamp: Stamp, most: int) -> memoryview:
        """The span's next bytes, up to `most` or PIECE; none if the file has become shorter. What is
        returned with the last of them is of one version with all that was read before. Raises
        FileChangedError, OSError."""
        fd = span.file.fd
        size = os.preadv(fd, [self._view[: min(span.count, most)]], span.offset)
        if size == span.count and not is_same_content(stamp, stamp_of(os.fstat(fd))):
            raise FileChangedError
        return self._view[:size]

    def may_repeat(self, leased: Leased) -> bool:
        """Whether the file of a lease is what it was when the lease was granted, to the letter. If so, it
        may be a copy afterwards; if not, the lease is over."""
        file, stamp = leased.file, leased.stamp
        if file is None or stamp is None:
            return True
        copy = self._copy(file, leased.offset, leased.count)
        if stamp_of(os.fstat(file.fd)) != stamp:
            leased.end()
            return False
        if copy is not None:
            leased.file, leased.offset, leased.stamp = copy, 0, None
        return True

    def _copy(self, file: Descriptor, offset: int, count: int) -> FileCopy | None:
        """None if it is too large, there are too many, or it can't be had without waiting for a disk."""
        if not 0 < count <= MAX_COPY or self.held + count > self.memory:
            return None
        try:
            os.preadv(file.fd, [self._view[:1]], offset + count - 1, os.RWF_NOWAIT)
            data = os.pread(file.fd, count, offset)
            copy = FileCopy(temporary_file(self._folder), count, self)
            written = os.write(copy.fd, data)
        except OSError:  # short of descriptors or room, or not in memory: then without
            return None
        return copy if written == count else None
