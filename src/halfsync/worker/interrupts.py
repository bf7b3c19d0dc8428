"""Raises HandlerTimeout in one thread, in the code of its application.

Theory of operation
-------------------
CPython can have an exception raised in another thread (PyThreadState_SetAsyncExc). The thread raises it
where it next looks for such things: at the start of a function, at a loop's jump back, behind a call of
C code. A thread that waits in C code sees it when that returns.

It must meet the handler that it is for, and nothing else: neither the next request of this thread, nor our
own code, which would lose the responses of others if it ended anywhere. So it is set only

 - while the thread is in the task that it is for, by the task's number, and
 - while what it runs is the application's: the innermost frame is not ours, and the innermost of ours is one
   of those few that call applications (CALLERS), which are prepared for whatever is raised there.

Then it is raised in the application, or at the first call that the caller makes after the application has
returned; both are within its `try`. For this the look and the setting must be one step, as the thread sees
it. They are one while this thread holds the interpreter lock, which others ask for after the switch interval:
that is made long, and the lock is let go of and taken again, so that it starts now. And in the last line, in
which nothing but a C function is called, it is seen that the thread has not moved since the look.

From Python 3.14 on, what waits in the `__enter__` of a lock, or of anything else in C, would raise it with
the lock taken and its `with` block not begun, so that nobody lets go of the lock. That is no good moment
either.

If it is not a good moment, it is tried again, until `handler_grace` is over. The thread of a handler that
never runs code of its own gets no exception, and its worker is replaced.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from halfsync.exceptions import HandlerTimeout
from halfsync.handlers.wsgi import WSGIHandler
from halfsync.handlers.wsgi_iterables import _iterate, send
from halfsync.logs.error import log
from halfsync.system.primitives import os, time
from halfsync.wire.messages import LogTask, Task

AGAIN = 20
"""Milliseconds until the next try."""
LONG_INTERVAL = 0.1
"""Seconds of the switch interval meanwhile: some thousand times what has to be done."""

CALLERS = {one.__code__ for one in (WSGIHandler.quick, WSGIHandler.__call__, send, _iterate)}
OURS = os.path.dirname(os.path.dirname(send.__code__.co_filename)) + os.sep

SetException = Callable[[Any, Any], int]


class Interrupts:
    """For the threads of one `Threads`. To be called by one thread, which is none of them."""

    def __init__(self, at: dict[int, Task | LogTask | None], name: Callable[[Task], str]) -> None:
        """`at`: what each thread is doing, by its identity; `name`: a task's, for the log."""
        self._at = at
        self._name = name
        self._wanted: dict[int, float] = {}  # task's number -> until when (monotonic)
        self._done: deque[int] = deque(maxlen=64)  # numbers of those that have been: a message may come twice

    @property
    def timeout(self) -> int | None:
        """Milliseconds after which `work` is to be called; None: it need not be."""
        return AGAIN if self._wanted else None

    def want(self, number: int, seconds: float) -> None:
        """The handler of this task is to be interrupted, if that is possible within so many seconds."""
        if number not in self._done and can_interrupt():
            self._wanted[number] = time.monotonic() + seconds
            self.work()

    def work(self) -> None:
        now = time.monotonic()
        for number, until in list(self._wanted.items()):
            found = self._find(number)
            if found is None or now > until or self._interrupt(*found):
                del self._wanted[number]

    def _find(self, number: int) -> tuple[int, Task] | None:
        """The thread that is in this task."""
        for identity, task in list(self._at.items()):
            if isinstance(task, Task) and task.number == number:
                return identity, task
        return None

    def _interrupt(self, identity: int, task: Task) -> bool:
        """False: not now."""
        if not self._raise_in(identity, task):
            return False
        self._done.append(task.number)
        log("warning", f"HandlerTimeout is raised in {self._name(task)}.")
        return True

    def _raise_in(self, identity: int, task: Task) -> bool:
        """Whether it was done: see above."""
        at = self._at
        set_exception, thread, exception = _prepared(identity)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(LONG_INTERVAL)
        try:
            time.sleep(0.0001)  # lets go of the interpreter lock
            frame = sys._current_frames()[identity]
            place = frame.f_lasti
            if not is_applications(frame) or _enters_with(frame):
                return False
            if sys._current_frames()[identity] is not frame:
                return False
            if frame.f_lasti == place and at[identity] is task and set_exception(thread, exception) == 1:
                return True
        except KeyError:  # the thread has ended
            pass
        finally:
            sys.setswitchinterval(interval)
        return False


def is_applications(innermost: FrameType) -> bool:
    """Whether what a thread runs there is an application's code, called by one of CALLERS."""
    frame: FrameType | None = innermost
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            return frame is not innermost and frame.f_code in CALLERS
        frame = frame.f_back
    return False


def _enters_with(frame: FrameType) -> bool:
    """Whether it is in the call of an `__enter__`, by the instruction before that (two bytes long), which is
    there from Python 3.14 on."""
    from opcode import opmap

    before = frame.f_lasti - 2
    return before >= 0 and frame.f_code.co_code[before] == opmap.get("LOAD_SPECIAL")


def can_interrupt() -> bool:
    """Not where threads run at the same time (a build without the interpreter lock): there no moment is
    good. Nor without ctypes."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    try:
        _prepared(0)
    except ImportError:
        return False
    return True


def _prepared(identity: int) -> tuple[SetException, Any, Any]:
    import ctypes

    set_exception: SetException = ctypes.pythonapi.PyThreadState_SetAsyncExc
    return set_exception, ctypes.c_ulong(identity), ctypes.py_object(HandlerTimeout)
