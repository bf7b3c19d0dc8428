"""Where all threads of a worker are, said when the parent is about to kill it.

`Threads.log_stack` says it better, with the request, but needs the interpreter lock: a handler whose C code
keeps that for itself is not found so. Python's faulthandler is C code that is called by a signal and needs no
lock. It reads what other threads may be changing at that moment, so it is called only when the process is
to end anyway.
"""

from __future__ import annotations

import contextlib
import faulthandler

from halfsync.logs.error import descriptor
from halfsync.system import prctl
from halfsync.system.stacks_signal import SHOW_STACKS

_register = faulthandler.register


def show_when_told() -> None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no standard error: then it stays unsaid
        _register(SHOW_STACKS, file=descriptor(), all_threads=True, chain=False)
        prctl.use_no_signal_stack()
