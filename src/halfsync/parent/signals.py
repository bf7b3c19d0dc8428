"""Signals, made into something that a poll loop can wait for.

The handlers only note the number; the loop looks at the notes. The wake-up descriptor makes
poll(2) return for a signal that comes just before it; what is written there is of no matter, so
that it does not matter either if it is full.
"""

from __future__ import annotations

import os
import signal
import socket
from types import FrameType

from halfsync.system import early_signals

HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)
"""Those that mean something to the parent."""

_DEFAULT = {
    # A process that raised one of these is broken. Python code can't handle them: it would return to the
    # instruction that raised the signal, for ever.
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV),
    signal.SIGSYS,
    # can't be handled
    *(signal.SIGKILL, signal.SIGSTOP),
    # Ctrl-Z and fg work as everywhere
    *(signal.SIGTSTP, signal.SIGCONT),
    # do nothing by default
    *(signal.SIGURG, signal.SIGWINCH),
    # ignored by Python itself: write(2) fails instead
    *(signal.SIGPIPE, signal.SIGXFSZ),
}

MEANINGLESS = tuple(sorted(signal.valid_signals() - _DEFAULT - set(HANDLED)))
"""Signals that end a process by default and mean nothing here: ALRM, VTALRM, PROF, IO, PWR, XCPU,
STKFLT, and the real-time signals. The parent logs and ignores them; a pump or worker ignores them. (An
application may set handlers of its own.)"""

LEFT_TO_THE_PARENT = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""These often reach the whole group: a terminal's Ctrl-C, or its end, and a service manager's TERM
(systemd sends it to every process of the service). What follows is the parent's to say: a pump or
worker that left on its own would drop the very requests that a graceful stop waits for."""

_STOPPING = (signal.SIGTTIN, signal.SIGTTOU)
"""By default these stop a process until SIGCONT, and requests with it. Where there is a terminal, they are
ignored in the children, and not given a handler: a read(2) from it by a background process would be repeated
for ever. (Programs that an application starts inherit that.)"""


class Signals:
    """Notes the signals of this process from now on."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self.wake, self._ring = socket.socketpair()
        self.wake.setblocking(False)
        self._ring.setblocking(False)
        self._former = {number: signal.signal(number, self._note) for number in (*HANDLED, *MEANINGLESS)}
        self._former_wakeup = signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)
        early_signals.let_in()

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


TWICE = 5.0
"""Seconds within which the same signal, directly and passed on by the keeper, is one. (A busy machine may
take its time to pass it on.)"""


class Doubles:
    """Signals that reach the whole group (Ctrl-C, a service manager's TERM) come to the server directly, and
    once more by the keeper (keeper.py). They are one signal, and not a second one that stops at once."""

    def __init__(self) -> None:
        self._latest: dict[int, tuple[bool, float]] = {}

    def is_one(self, number: int, now: float, *, passed_on: bool) -> bool:
        before = self._latest.get(number)
        if before is not None and before[0] != passed_on and now - before[1] < TWICE:
            del self._latest[number]
            return True
        self._latest[number] = (passed_on, now)
        return False


def name_of(number: int) -> str:
    """ "SIGUSR2"; real-time signals are named by their distance from the first: "SIGRTMIN+3"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def reset_in_child() -> None:
    """In a forked child: no trace of the parent's handlers. Call it with all signals blocked."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN if _has_terminal() else _ignore)
    for number in (*LEFT_TO_THE_PARENT, *MEANINGLESS):
        signal.signal(number, _ignore)


def reset_for_program() -> None:
    """Before another program takes this process's place. Call it with all signals blocked."""
    signal.set_wakeup_fd(-1)
    for number in (*HANDLED, *MEANINGLESS):
        signal.signal(number, signal.SIG_DFL)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal (the kernel sends these signals for no other)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler, because SIG_IGN would be inherited by programs that an application starts, and
    those could then not be terminated."""
