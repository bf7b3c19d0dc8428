"""What we ask of prctl(2) and sigaltstack(2), which Python has no calls for."""

from __future__ import annotations

import ctypes
import os
import signal

_PDEATHSIG = 1
_NAME = 15
_CHILD_SUBREAPER = 36
_NO_NEW_PRIVS = 38

_SS_DISABLE = 2

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


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def use_no_signal_stack() -> None:
    """This thread's signal handlers run on its own stack.

    faulthandler sets up one of some 16 KiB for the main thread, and Python's handlers use that from then on.
    A process that stood still gets the signals that came meanwhile at once, 3 KiB each, and would die of it.
    """
    _libc.sigaltstack(ctypes.byref(_SignalStack(None, _SS_DISABLE, 0)), None)
