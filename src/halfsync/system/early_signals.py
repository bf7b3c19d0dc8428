"""Signals that come before the server can handle them: they are held back, and handled then.

Between a process's first instruction and the parent's handlers (parent/signals.py) lie all imports, some 0.3
seconds. A HUP in that time, as a deployment sends it when two releases follow each other closely, would end
the process by its default action. So these signals are blocked first of all, and let in when there are
handlers. What is left is the time that Python itself takes to start, which nothing of ours can change.

TERM, INT and QUIT are not among them: they end a start at once, as everywhere. Except for process 1, as a
container has it: the kernel keeps signals from it that it neither handles nor blocks (pid_namespaces(7)). It
would not hear of its end, and be killed when the container's time to stop is over.
"""

from __future__ import annotations

# Not `signal`: that imports `enum` and takes 8 ms, during which a signal would end us still.
from _signal import (  # type: ignore[import-not-found]
    SIG_BLOCK,
    SIG_UNBLOCK,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGTERM,
    SIGTTIN,
    SIGTTOU,
    SIGUSR1,
    SIGUSR2,
    pthread_sigmask,
)
from posix import getpid

HELD = (SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU)
TO_END = (SIGTERM, SIGINT, SIGQUIT)


def hold() -> None:
    """Keep them for later."""
    pthread_sigmask(SIG_BLOCK, HELD + TO_END if getpid() == 1 else HELD)


def let_in() -> None:
    """What has come is handled now, by the handler that there is or by its default action."""
    pthread_sigmask(SIG_UNBLOCK, HELD + TO_END)
