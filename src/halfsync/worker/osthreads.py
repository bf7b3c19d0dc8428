"""Starting the threads that run handlers: threads of the operating system, whatever became of `threading`.

Usually they are `threading.Thread` objects, and no daemons: threads that an application starts inherit
that, and as daemons they would end unfinished. But gevent and eventlet turn a `threading.Thread` into a
coroutine of the thread that starts it, which would never run, since that thread waits. Then
the handlers' threads are started below `threading`; an application sees them as "Dummy" threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from halfsync.system.primitives import _thread, threading, threading_is_patched

SMALL_STACK = 512 * 1024
"""Bytes. An application that asks for less stack for its own threads (`threading.stack_size`) does not get
it for ours: deep C code, such as a regular expression, would crash the process."""


class Handle(Protocol):
    def join(self) -> None:
        """Wait until it has ended."""


class _Bare:
    """A thread that `threading` does not know."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._running = _thread.allocate_lock()
        self._running.acquire()
        _thread.start_new_thread(self._live, ())

    def _live(self) -> None:
        try:
            self._run()
        finally:
            self._running.release()

    def join(self) -> None:
        with self._running:
            pass


def start_thread(run: Callable[[], None], name: str) -> Handle:
    asked = _thread.stack_size()
    if 0 < asked < SMALL_STACK:
        _thread.stack_size(0)
    try:
        if threading_is_patched():
            return _Bare(run)
        thread = threading.Thread(target=run, name=name, daemon=False)
        thread.start()
        return thread
    finally:
        if 0 < asked < SMALL_STACK:
            _thread.stack_size(asked)


def check_room_for(count: int) -> None:
    """Have so many threads at once for a moment. Raises RuntimeError or MemoryError where the machine, or a
    limit of this process or user, has no room for them."""
    gate = _thread.allocate_lock()

    def wait() -> None:
        with gate:
            pass

    started: list[Handle] = []
    gate.acquire()
    try:
        while len(started) < count:
            started.append(start_thread(wait, "halfsync-try"))
    finally:
        gate.release()
        for thread in started:
            thread.join()


def start_daemon(run: Callable[[], None], name: str) -> None:
    """One that nobody waits for at the end of the process."""
    if threading_is_patched():
        _thread.start_new_thread(run, ())
    else:
        threading.Thread(target=run, name=name, daemon=True).start()
