"""Anonymous temporary files: they have no name, and are freed when their last descriptor is closed."""

from __future__ import annotations

import errno
import fcntl
import tempfile

from halfsync.system.primitives import os

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
"""What open(2) says of O_TMPFILE on file systems and kernels that do not have it."""


LOWEST = 3
"""The least number of a descriptor of ours: below are the standard streams, to which anything may write."""


def out_of_reach(descriptor: int) -> int:
    """The same file by a descriptor that is none of the standard streams'.

    Where an application has closed one of these, the next file gets its number, and whatever is printed
    would be written into that file. The number it had leads to /dev/null afterwards.
    """
    if descriptor >= LOWEST:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LOWEST)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    if null != descriptor and null >= LOWEST:
        os.close(null)
    return moved


def temporary_file(folder: str) -> int:
    """A new anonymous temporary file, open for reading and writing. Raises OSError."""
    try:
        return out_of_reach(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="halfsync-")
    os.unlink(name)
    return out_of_reach(descriptor)
