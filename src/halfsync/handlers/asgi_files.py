"""Files that an ASGI application names: by path (pathsend), or open (zerocopysend)."""

from __future__ import annotations

import stat
from typing import Any

import msgspec

from halfsync.handlers.asgi_errors import BrokenRule
from halfsync.system.primitives import os
from halfsync.system.stamps import Stamp, is_at_rest, size_is_unknown, stamp_of
from halfsync.system.temporary_files import out_of_reach


def opened_path(path: object) -> tuple[int, int, Stamp, bool]:
    """Descriptor, size, stamp, and whether the file has not been written lately. Raises BrokenRule and
    OSError."""
    if not isinstance(path, (str, os.PathLike)):
        raise BrokenRule(f"the 'path' of 'http.response.pathsend' must be a str, not {path!r:.60}")
    name = os.fspath(path)
    if not os.path.isabs(name):
        raise BrokenRule(f"the 'path' of 'http.response.pathsend' must be absolute, unlike {name!r:.200}")
    # O_NONBLOCK: to open a FIFO waits for whoever writes to it.
    descriptor = out_of_reach(os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BrokenRule(f"'http.response.pathsend' names no regular file: {name!r:.200}")
    if size_is_unknown(descriptor, status):
        os.close(descriptor)
        raise BrokenRule(f"the file of 'http.response.pathsend' {_NOT_SAID}: {name!r:.200}")
    return descriptor, status.st_size, stamp_of(status), is_at_rest(status)


_NOT_SAID = "has a size that its file system does not tell, as in /proc"


def shared_file(data: bytes) -> int:
    """The descriptor of a file in memory that holds these bytes. Raises OSError."""
    descriptor = out_of_reach(os.memfd_create("response", os.MFD_CLOEXEC))
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return descriptor


class OpenFile(msgspec.Struct, frozen=True):
    """A span of a file that the application has open."""

    descriptor: int
    offset: int
    count: int

    @classmethod
    def of(cls, message: dict[str, Any]) -> OpenFile:
        """What 'http.response.zerocopysend' names. Without an offset the file is read from where it is, and
        is behind the span afterwards, as with os.sendfile. Raises BrokenRule and OSError."""
        file = message.get("file")
        try:
            descriptor = file if isinstance(file, int) else file.fileno()  # type: ignore[union-attr]
            status = os.fstat(descriptor)
        except (AttributeError, OSError, ValueError, TypeError):
            raise BrokenRule(
                f"the 'file' of 'http.response.zerocopysend' is no open file: {file!r:.60}"
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise BrokenRule("the 'file' of 'http.response.zerocopysend' is no regular file")
        try:
            is_unknown = size_is_unknown(descriptor, status)
        except OSError as error:
            raise BrokenRule(
                f"the 'file' of 'http.response.zerocopysend' can't be read: {error.strerror}"
            ) from None
        if is_unknown:
            raise BrokenRule(f"the 'file' of 'http.response.zerocopysend' {_NOT_SAID}")
        offset, count = message.get("offset"), message.get("count")
        for name, number in (("offset", offset), ("count", count)):
            if number is not None and (not isinstance(number, int) or number < 0):
                raise BrokenRule(f"the {name!r} of 'http.response.zerocopysend' is {number!r:.60}")
        moves = offset is None
        if offset is None:
            offset = os.lseek(descriptor, 0, os.SEEK_CUR) if isinstance(file, int) else file.tell()  # type: ignore[union-attr]
        left = max(0, status.st_size - offset)
        count = left if count is None else min(count, left)
        if moves:
            if isinstance(file, int):
                os.lseek(descriptor, offset + count, os.SEEK_SET)
            else:
                file.seek(offset + count)  # type: ignore[union-attr]
        return cls(descriptor, offset, count)

    def duplicate(self) -> int:
        """A descriptor of our own. Raises OSError."""
        return out_of_reach(os.dup(self.descriptor))
