"""fork(2), so that no handler of the parent's runs in the child."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

Mask = set[int] | set[signal.Signals]
"""Signals that are blocked."""


def forked(child: Callable[[Mask], NoReturn]) -> int:
    """Gives the process id of a child that runs `child`, which must end in os._exit. All signals are blocked
    there; it is given those that were before. Raises OSError."""
    before: Mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            child(before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid
