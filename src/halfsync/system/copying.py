"""A part of a file is copied to another, by the kernel where it permits that."""

from __future__ import annotations

import errno
import os

NO_SENDFILE = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP}
"""Of file systems that sendfile(2) can't read from, and of sandboxes that do not permit it."""
READ = 64 * 1024


def copy_part(to: int, fd: int, offset: int, size: int) -> int:
    """To the position of `to`, which moves on. How many bytes were copied: fewer than `size` where the file
    ends. Raises OSError."""
    copied = 0
    while copied < size and (count := _copy_some(to, fd, offset + copied, size - copied)):
        copied += count
    return copied


def _copy_some(to: int, fd: int, offset: int, size: int) -> int:
    try:
        return os.sendfile(to, fd, offset, size)
    except OSError as error:
        if error.errno not in NO_SENDFILE:
            raise
    return os.write(to, os.pread(fd, min(size, READ), offset))
