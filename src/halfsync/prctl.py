"""The four things that we ask of prctl(2), which Python has no call for."""

from __future__ import annotations

import ctypes
import os
import signal

_PDEATHSIG = 1
_NAME = 15
_CHILD_SUBREAPER = 36
_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int) -> None:
    """Be killed when the process `parent`, which must be this one's parent, ends.

    The kernel forgets this at a change of user or group, and sends the signal when the parent
    *now* ends: so call it after dropping privileges, and not before an intermediate parent is
    gone. If `parent` is gone already, this process ends here.
    """
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _libc.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)


def gain_no_privileges() -> None:
    """From now on, neither this process nor any descendant gains rights by execve(2) of a setuid program."""
    _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)


def be_called(name: str) -> None:
    """The name that ps and top show; the kernel keeps 15 bytes of it."""
    _libc.prctl(_NAME, name.encode("utf-8", "replace")[:15], 0, 0, 0)
