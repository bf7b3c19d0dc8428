"""Files without a name: what is spooled in them goes when the last descriptor does."""

from __future__ import annotations

import errno
import os
import tempfile

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
"""What open(2) says of O_TMPFILE on file systems and kernels that do not have it."""


def unnamed_file(folder: str) -> int:
    """A new file without a name, open for reading and writing. Raises OSError."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="halfsync-")
    os.unlink(name)
    return descriptor
