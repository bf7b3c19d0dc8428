"""Signals, made into something that a poll loop can wait for.

The handlers only note the number; the loop looks at the notes. The wake-up descriptor makes
poll(2) return for a signal that comes just before it; what is written there is of no matter, so
that it does not matter either if it is full.
"""

from __future__ import annotations

import signal
import socket
from types import FrameType

HEEDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)

LEFT_TO_THE_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""These often reach the whole group: a terminal's Ctrl-C, or its end, and a service manager's TERM
(systemd sends it to every process of the service). What follows is the parent's to say: a pump or
worker that left on its own would drop the very requests that a graceful stop waits for."""


class Signals:
    """Notes the signals of this process from now on."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self.wake, self._ring = socket.socketpair()
        self.wake.setblocking(False)
        self._ring.setblocking(False)
        self._former = {number: signal.signal(number, self._note) for number in HEEDED}
        self._former_wakeup = signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)

    def take(self) -> list[int]:
        """The signals noted since the last call, in order."""
        try:
            while self.wake.recv(4096):
                pass
        except BlockingIOError:
            pass
        taken, self._noted = self._noted, []
        return taken

    def close(self) -> None:
        """Put things back as they were. To call it again does nothing."""
        if self.wake.fileno() < 0:
            return
        signal.set_wakeup_fd(self._former_wakeup)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self.wake.close()
        self._ring.close()

    def forget_in_child(self) -> None:
        """In a forked process: the descriptors are closed already."""
        self.wake.detach()
        self._ring.detach()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(number)


def reset_in_child() -> None:
    """In a forked child: no trace of the parent's handlers. Call it with all signals blocked."""
    signal.set_wakeup_fd(-1)
    for number in HEEDED:
        signal.signal(number, signal.SIG_DFL)
    for number in LEFT_TO_THE_PARENT:
        signal.signal(number, _leave_to_the_parent)


def _leave_to_the_parent(_number: int, _frame: FrameType | None) -> None:
    """A handler, because SIG_IGN would be inherited by programs that an application starts, and
    those could then not be terminated."""
