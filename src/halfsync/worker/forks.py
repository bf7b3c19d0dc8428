"""Child processes that an application forks: they must not act as the worker.

Theory of operation
-------------------
`os.fork()` in a handler (or multiprocessing, a daemonizing program, `pty.fork`) copies the worker with all it
has: the channels to the pump and the parent, the tasks that wait, half a response. The copy may run
as long as it likes, and may do anything but one thing: be taken for the worker. So at each fork, in the
child:

 - its copies of our channels are closed, so it cannot respond, and holds no channel open after the
   worker's end; the tasks that wait are forgotten;
 - signals for which the server has installed a handler that does nothing (the parent handles them)
   get their usual effect again, so the application can terminate its child;
 - if its call stack returns into our code, by `return`, an exception or `sys.exit`, it ends there
   (`end_if_child`).

The signals are blocked while it forks: one that the application sends at once is delivered when its
effect is the usual one, and is not swallowed by the old handler.

Programs that are started (subprocess, posix_spawn) need none of it: at exec(2) the kernel closes our
descriptors and resets the handlers.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from halfsync.logs.error import failure, log
from halfsync.system.primitives import _thread, os, signal, socket

_STOPPING = (signal.SIGTTIN, signal.SIGTTOU)
"""Where there is a terminal, the server ignores them."""

_installed = False
_is_child = False
_forking = 0  # identity of the thread that forks a process of the server's own
_handlers: dict[int, Any] = {}  # the server's own, by signal
_channels: list[socket.socket] = []
_forgets: list[Callable[[], None]] = []
_blocked = threading.local()  # the forking thread's mask, from before to after


def install() -> None:
    """From now on, what this process forks (except by `fork`) is a child of the application. To be called
    before the application is imported."""
    global _installed
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        is_ours = callable(handler) and handler is not signal.default_int_handler
        if is_ours or (number in _STOPPING and handler == signal.SIG_IGN):
            _handlers[number] = handler
    if not _installed:  # what is registered stays registered in a child
        _installed = True
        os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def close_in_child(channel: socket.socket) -> None:
    """This channel is none of a child's business."""
    _channels[:] = [one for one in _channels if one.fileno() >= 0]
    _channels.append(channel)


def call_in_child(forget: Callable[[], None]) -> None:
    _forgets.append(forget)


def no_longer(forget: Callable[[], None]) -> None:
    if forget in _forgets:
        _forgets.remove(forget)


def fork() -> int:
    """`os.fork` for a process of the server's own, which keeps what it has."""
    global _forking
    _flush()  # or what waits in the streams' buffers would be written twice
    _forking = _thread.get_ident()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads that the application has: it was warned by the docs
            return os.fork()
    finally:
        _forking = 0


def end_if_child() -> None:
    """To be called where an application's call stack comes back, on a path that is not hot: by an
    exception that is being handled now, or without one. In a child this does not return."""
    if _is_child:
        _end(sys.exc_info()[1])


def _end(error: BaseException | None) -> NoReturn:
    """As Python would end, but without exit hooks: they are the worker's."""
    status = 0
    try:
        if error is None:
            log(
                "warning",
                "a child process that the application forked has returned into the server and ends here; "
                "only the worker itself responds.",
            )
        elif isinstance(error, SystemExit):
            status = _status_of(error)
        else:
            status = 1
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        _flush()
        os._exit(status & 0xFF)


def _status_of(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code
    print(leaving.code, file=sys.stderr)
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001 - full, closed, None, or the application's own
            pass


# --- around each fork --------------------------------------------------------------------------------


def _is_ours() -> bool:
    return _forking == _thread.get_ident()


def _before() -> None:
    _blocked.mask = None if _is_ours() else signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)


def _after_in_parent() -> None:
    mask, _blocked.mask = getattr(_blocked, "mask", None), None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_in_child() -> None:
    global _is_child
    if _is_ours():
        return
    try:
        if not _is_child:
            _is_child = True
            _forget()
        _reset_signals()
    finally:
        _after_in_parent()


def _forget() -> None:
    for step in (*(channel.close for channel in _channels), *_forgets):
        try:
            step()
        except Exception:  # noqa: BLE001 - such as an error in the middle of what another thread did
            log("error", f"In a child that the application forked:\n{failure()}")


def _reset_signals() -> None:
    for number, ours in _handlers.items():
        if signal.getsignal(number) == ours:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
