"""The end of a worker process."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from typing import Any

from halfsync.logs.error import failure, log
from halfsync.system.primitives import signal, threading

PUMP_TIMEOUT = 5.0
"""Seconds without a pump after which a worker that was not retired leaves all the same. The parent
forks a new pump at once when one dies."""


def leave_finalizers_to_the_parent() -> None:
    """To be called in a process that was forked from the parent, first. Exit functions that were registered
    before the fork run here as well: `opentelemetry-instrument` and others register theirs in the process
    that becomes the parent, and what they have to send is here. But weakref.finalize's are not run: what
    they would remove, such as a temporary folder, is the parent's."""
    finalize = getattr(sys.modules.get("weakref"), "finalize", None)
    for finalizer in list(getattr(finalize, "_registry", ())):
        finalizer.atexit = False


def stop_timers() -> None:
    """The application's: a signal handler that raises would interrupt its exit functions."""
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        try:
            signal.setitimer(timer, 0)
        except BaseException:  # noqa: BLE001 - its last word
            pass


def leave() -> None:
    """What Python does at its end, since the caller ends the process with os._exit: non-daemon
    threads are joined, exit hooks run, the standard streams are flushed."""
    steps: list[Callable[[], None]] = [
        threading._shutdown,  # type: ignore[attr-defined]
        _run_exit_functions,
        _shut_down_logging,
        lambda: _flush(sys.stdout),
        lambda: _flush(sys.stderr),
    ]
    for step in steps:
        try:
            step()
        except BaseException:  # noqa: BLE001 - one that fails must not keep the others from their turn
            log("error", f"At the worker's end:\n{failure()}")


def _shut_down_logging() -> None:
    """Where an application has not imported it there is nothing to do, and it takes 10 ms to import."""
    if (logging := sys.modules.get("logging")) is not None:
        logging.shutdown()


_run_exit_functions = atexit._run_exitfuncs


def _flush(stream: Any) -> None:
    """An application may have put anything there, None as well."""
    if stream is not None and not stream.closed:
        stream.flush()
