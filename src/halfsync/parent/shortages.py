"""What the machine, or a limit that was set for the server, has no room for: in words."""

from __future__ import annotations

import errno

_CAUSES = {
    errno.EAGAIN: "there are as many processes and threads as there may be (ulimit -u, TasksMax)",
    errno.ENOMEM: "there is too little memory (ulimit -v, MemoryMax)",
    errno.ENOBUFS: "there is too little memory for sockets",
    errno.EMFILE: "this process has as many files open as it may (ulimit -n, LimitNOFILE)",
    errno.ENFILE: "this machine has as many files open as it may (fs.file-max)",
}


def in_words(error: OSError) -> str:
    """Part of a sentence."""
    return _CAUSES.get(error.errno or 0) or error.strerror or str(error)


def shortage_behind(error: BaseException | None) -> OSError | None:
    """The shortage, which may be over in a moment, of which this error came; None if it came of something
    else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _CAUSES:
            return error
        error = error.__context__
    return None
