"""The threads of a worker: they take tasks, run handlers, and collect the responses.

Theory of operation
-------------------
All threads block in recvmsg(2) on the one `tasks` socket and the kernel wakes one of them for each
packet: no queue of our own, no thread that hands over. A packet may carry several tasks (one packet
per worker per turn of the pump's loop is what makes the seam cheap), so:

 - A thread puts the tasks of its packet into the task queue, which all threads share, and then works
   until the task queue is empty. Whoever has finished takes the next, so a task never waits for the
   thread that happened to receive it.
 - If that thread hangs in its first task and the siblings all sleep in recvmsg, the rest would wait.
   The pump sees it on the scoreboard (not begun), and sends a Nudge, which wakes a sibling.
 - Replies wait in the outbox to be batched. They leave when the task queue is empty; before the next task is
   begun if the oldest has waited 1 ms or they are many; when they stream; and when the pump
   nudges the watch thread, which is how a finished reply gets past a sibling that hangs.

The scoreboard's word *begun* is written when the handler begins, which tells the pump, with no message, what
was begun when the process dies. A task that the pump has withdrawn by then is dropped (see SCOREBOARD_SLOTS).

A thread must outlive whatever an application does: SystemExit, KeyboardInterrupt, RecursionError and
MemoryError end in a 500 (or an aborted reply) and a line in the error log.

One `Threads` serves one pair of sockets. After the pump died there is a new one of each; the threads of the
old one end at its end of file, or after the task that they are in.
"""

from __future__ import annotations

import array
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Protocol

from halfsync import channel
from halfsync.http.error_pages import ErrorPages
from halfsync.http.header_rules import HeaderRules
from halfsync.http.request import RequestBody, SpooledBody, request_named
from halfsync.http.request_ids import named_in
from halfsync.http.response import Head, Replier, internal_error
from halfsync.logs.error import failure, log
from halfsync.system.primitives import _thread, os, socket, threading, time
from halfsync.system.temporary_files import out_of_reach
from halfsync.wire.messages import (
    MAX_PACKET,
    Credit,
    Ending,
    LogRecord,
    LogTask,
    Nudge,
    Part,
    StreamedTask,
    Task,
    decode_tasks,
)
from halfsync.wire.task_slots import SCOREBOARD_SLOTS
from halfsync.wire.thread_rows import THREAD_ROWS, WORDS, idle
from halfsync.worker import forks
from halfsync.worker.bodies import ASK_EVERY, ResponseLimits, TaskReplier, TaskResponder
from halfsync.worker.interrupts import Interrupts
from halfsync.worker.osthreads import Handle, start_thread
from halfsync.worker.outbox import MAX_WAIT, NEVER, Outbox, OutboxOfChild, end_if_lost
from halfsync.worker.ruled import ruled
from halfsync.worker.streamed import StreamedBodies

FIRST_PAUSE, LAST_PAUSE = 0.01, 1.0
"""Seconds after an error of the thread's own, so that one that comes again and again neither takes the
processor nor fills the error log."""

OUT_OF_DESCRIPTORS = "this process has as many files open as it may (ulimit -n, LimitNOFILE)."

UNAVAILABLE = (
    Head(503, "Service Unavailable", b"Content-Type: text/plain; charset=utf-8\r\nRetry-After: 5\r\n"),
    b"503 Service Unavailable\nThe server is short of file descriptors. Please try again soon.\n",
)

_now = time.monotonic_ns


class NoDescriptorError(Exception):
    """A request's body was sent in a descriptor that found no room here."""


class Handler(Protocol):
    """What a thread invokes for a request. It responds through `replier`; if it raises, or
    returns without a response, the thread responds for it. `spool` is the body, if that is not in
    `task.body`; the thread closes it afterwards. It may still be coming: then a read may wait, and raises
    OSError if the rest of it never comes."""

    def __call__(self, task: Task, spool: RequestBody | None, replier: Replier, /) -> None: ...


Quick = Callable[[Task, int, TaskResponder], int]
"""A handler may have a method `quick`, its fast path. It is invoked for a task whose body is in memory,
with the time when it begins. It gives the time of its end, if it responded by `responder.put_small` or
`responder.outbox`; else it has used a Replier, or none, and gives 0."""


class LogHandler(Protocol):
    """What a thread invokes for records. `written` may be called later, by another thread."""

    def __call__(self, records: list[LogRecord], written: Callable[[], None], /) -> None: ...


class Threads:
    """`count` threads on one `tasks` socket. `handlers` and `rules` are by route; None where another pool is
    responsible, or where there are no rules. The socket is this object's: its last thread closes it."""

    def __init__(
        self,
        tasks: socket.socket,
        scoreboard: memoryview,
        handlers: Sequence[Handler | None],
        log_handler: LogHandler | None,
        limits: ResponseLimits,
        rules: Sequence[HeaderRules | None] | None = None,
        pages: Sequence[ErrorPages | None] | None = None,
        served: list[int] | None = None,
    ) -> None:
        """`served`: what the threads of the same places have served for pumps before, and serve here from now
        on: requests, and behind them bytes, as the scoreboard has them. It is added to."""
        self._served = [0] * (2 * THREAD_ROWS) if served is None else served
        self._rules = rules or [None] * len(handlers)
        self._pages = pages or [None] * len(handlers)
        self._tasks = tasks
        self._scoreboard = scoreboard
        self._handlers = handlers
        self._log_handler = log_handler
        self._limits = limits
        self._task_queue: deque[Task | LogTask] = deque()
        self._spools: dict[int, int] = {}  # task number -> descriptor of a body in the task queue
        self._at: dict[int, Task | LogTask | None] = {}  # thread's identity -> what it is doing
        self._asked_at: dict[int, int] = {}  # the same -> when it last asked for its client
        self._threads: list[Handle] = []
        self.interrupts = Interrupts(self._at, describe)
        self._living = 0
        self._ending = threading.Lock()
        self.outbox = Outbox(tasks)
        self._quick = [self._quick_of(route) for route in range(len(handlers))]
        self.bodies = StreamedBodies(self._give_credit)

    def _quick_of(self, route: int) -> Quick | None:
        quick: Quick | None = getattr(self._handlers[route], "quick", None)
        rules, pages = self._rules[route], self._pages[route]
        if quick is None or (rules is None and pages is None):
            return quick
        return ruled(quick, self.outbox, rules, pages)

    def start(self, count: int) -> None:
        self._living = count
        forks.call_in_child(self._forget_in_child)
        for number in range(count):
            live = partial(self._live, len(self._scoreboard) - WORDS + number)
            self._threads.append(start_thread(live, f"halfsync-{number + 1}"))

    def stop(self) -> None:
        """Take no more tasks; wait until those that were begun have ended and their responses are sent."""
        with self._ending:
            if self._living:
                try:
                    self._tasks.shutdown(socket.SHUT_RD)  # wakes all that wait there; responses still leave
                except OSError:
                    pass  # the pump is gone, or the application has closed it
        self.join()

    def join(self) -> None:
        """Wait until all have ended, which they do after the socket's end of file."""
        for thread in self._threads:
            thread.join()

    def is_client_gone(self) -> bool:
        """Whether the client of the request that the calling thread handles has disconnected, as far as is
        known by now. Of one that has only closed its side the pump tells when it is asked, so the next call
        knows. False in any other thread."""
        identity = _thread.get_ident()
        task = self._at.get(identity)
        if not isinstance(task, Task):
            return False
        if self.outbox.gone or self.outbox.is_disconnected(task.number):
            return True
        now = time.monotonic_ns()
        if now - self._asked_at.get(identity, 0) > ASK_EVERY:
            self._asked_at[identity] = now
            self.outbox.put(Part(task.number, [], Ending.UNFINISHED), 0, now)
            self.outbox.flush()
        return False

    def log_stack(self, number: int) -> None:
        """Say in the error log where the thread is that has the task of this number."""
        frames = sys._current_frames()
        for identity, task in list(self._at.items()):
            if task is not None and task.number == number and identity in frames:
                log("warning", _stack(task, frames[identity]))
                return

    def give_back(self) -> None:
        """Tell the pump which tasks wait here, and forget them: those in the task queue, and those that
        are still in the socket because all threads are busy."""
        buffer = channel.page_buffer(MAX_PACKET)
        while self._receive(buffer, channel.AT_ONCE):
            pass
        tasks: list[Task | LogTask] = []
        while self._task_queue:
            try:
                tasks.append(self._task_queue.popleft())
            except IndexError:  # a thread was faster
                break
        for task in tasks:
            if isinstance(task, LogTask):
                self._task_queue.append(task)
                continue
            self._drop(task.number)
        self.outbox.flush()

    def _drop(self, number: int) -> None:
        """Say of a task that no handler will see it."""
        descriptor = self._spools.pop(number, None)
        if descriptor is not None:
            os.close(descriptor)
        self.outbox.put(Part(number, [], Ending.NOT_BEGUN), 0, time.monotonic_ns())

    def _forget_in_child(self) -> None:
        """In a process that the application forked, in the thread that did it."""
        self._task_queue.clear()
        for descriptor in self._spools.values():
            os.close(descriptor)
        self._spools.clear()
        self._tasks.close()
        self._at.clear()
        self.outbox.__class__ = OutboxOfChild
        self.bodies.cut_all()

    # --- a thread's life ---------------------------------------------------------------------------

    def _live(self, row: int) -> None:
        """`row`: where the scoreboard says what this thread is doing (see wire/thread_rows.py)."""
        self._scoreboard[row] = idle(time.monotonic_ns())
        buffer = channel.page_buffer(MAX_PACKET)
        responder = TaskResponder(self.outbox, self._limits, self._task_queue)
        self._count(row, 0, responder)
        pause = FIRST_PAUSE
        while True:
            try:
                if not self._receive(buffer):
                    break
                self._work(responder, row)
                pause = FIRST_PAUSE
            except BaseException:  # noqa: BLE001 - the thread outlives everything
                forks.end_if_child()
                log("error", f"Error in a thread of the worker:\n{failure()}")
                self._scoreboard[row] = idle(time.monotonic_ns())
                time.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE)
        self._scoreboard[row] = 0
        self._end()

    def _end(self) -> None:
        self._at.pop(_thread.get_ident(), None)
        with self._ending:
            self._living -= 1
            if not self._living:
                forks.no_longer(self._forget_in_child)
                self._tasks.close()

    def _receive(self, buffer: memoryview, flags: int = channel.CLOSE_ON_EXEC) -> bool:
        """Wait for a packet and put its tasks into the task queue. False at the end, or if `flags` say
        not to wait and there is none."""
        try:
            size, ancillary, _, _ = self._tasks.recvmsg_into([buffer], channel.ROOM_FOR_DESCRIPTORS, flags)
        except OSError as error:
            forks.end_if_child()
            end_if_lost(self._tasks, error)
            return False
        if not size:
            return False
        messages = decode_tasks(buffer[:size])
        if ancillary:
            self._keep_spools(messages, ancillary)
        if type(messages[0]) is not Nudge:  # which comes alone
            self._task_queue.extend(messages)  # type: ignore[arg-type]
        return True

    def _keep_spools(
        self, messages: list[Task | StreamedTask | LogTask | Nudge], ancillary: list[tuple[int, int, bytes]]
    ) -> None:
        found = array.array("i")
        for _, _, data in ancillary:
            found.frombytes(data)
        descriptors = iter(found)
        for message in messages:
            if type(message) is Task and message.body is None:
                descriptor = next(descriptors, -1)
                if descriptor >= 0:
                    self._spools[message.number] = out_of_reach(descriptor)
        for descriptor in descriptors:
            os.close(descriptor)

    def _work(self, responder: TaskResponder, row: int) -> None:
        """Until the task queue is empty."""
        outbox, scoreboard, at = self.outbox, self._scoreboard, self._at
        take, quick_of = self._task_queue.popleft, self._quick
        identity = _thread.get_ident()
        ended = 0  # when the task before ended, which is when the next one begins; 0: the clock must tell
        count = 0  # of requests
        scoreboard[row] = _now() << 1 | 1  # `at_work`, without a call
        while True:
            try:
                task = take()
            except IndexError:
                break
            # It may have come while this thread waited for the interpreter lock, after `ended`.
            began = ended if ended > task.queued_ns else _now()
            if began > outbox.flush_at:
                outbox.flush()
                began = _now()
            number = task.number
            slot = number % SCOREBOARD_SLOTS
            scoreboard[slot] = began
            if scoreboard[SCOREBOARD_SLOTS + slot] == number:  # not before: see SCOREBOARD_SLOTS
                self._drop(number)
                continue
            at[identity] = task
            quick = quick_of[task.route] if task.body is not None else None
            if quick is None:
                count += type(task) is not LogTask
                self._general(task, began, responder)
                ended = 0
                continue
            count += 1
            try:
                ended = quick(task, began, responder)  # type: ignore[arg-type]
            except BaseException:  # noqa: BLE001
                self._log_failure(task)
                ended = 0
            if not ended:
                self._conclude_quick(task, began, responder)
            elif outbox.flush_at is NEVER:
                outbox.flush_at = ended + MAX_WAIT
        if outbox.small or outbox.waiting:
            outbox.flush()
        at[identity] = None
        if count:
            self._count(row, count, responder)
        scoreboard[row] = (ended or _now()) << 1  # `idle`

    def _count(self, row: int, count: int, responder: TaskResponder) -> None:
        """Requests, and the bytes that the responder has counted. (The thread at the same place that ends
        with the pump before adds to the same numbers.)"""
        served, place = self._served, row + WORDS - len(self._scoreboard)
        served[place] += count
        served[place + THREAD_ROWS] += responder.sent
        responder.sent = 0
        self._scoreboard[row + THREAD_ROWS] = served[place]
        self._scoreboard[row + 2 * THREAD_ROWS] = served[place + THREAD_ROWS]

    def _general(self, task: Task | LogTask, began: int, responder: TaskResponder) -> None:
        """What is not for a `quick`."""
        if isinstance(task, LogTask):
            self._log(task)
        else:
            self._handle(task, began, responder)

    def _conclude_quick(self, task: Task | LogTask, began: int, responder: TaskResponder) -> None:
        """After a `quick` that has used a Replier, or none."""
        assert isinstance(task, Task)
        rules, pages = self._rules[task.route], self._pages[task.route]
        replier = responder.replier_of(task.number, began, rules, pages)
        self._conclude(task, replier)
        responder.sent += replier.sent

    def _handle(self, task: Task, began: int, responder: TaskResponder) -> None:
        rules, pages = self._rules[task.route], self._pages[task.route]
        replier = TaskReplier(self.outbox, self._limits, task.number, began, self._task_queue, rules, pages)
        spool: RequestBody | None = None
        try:
            if task.body is None:
                spool = self.bodies.open(task) if isinstance(task, StreamedTask) else self._spool(task)
            handler = self._handlers[task.route]
            assert handler is not None
            handler(task, spool, replier)
        except NoDescriptorError:
            log("error", f"{describe(task)} gets 503: its body did not arrive, for {OUT_OF_DESCRIPTORS}")
            replier.own(UNAVAILABLE[0], named_in(UNAVAILABLE[1], task.head))
        except BaseException:  # noqa: BLE001
            self._log_failure(task)
        if spool is not None:
            spool.close()
        self._conclude(task, replier)
        responder.sent += replier.sent

    def _log_failure(self, task: Task | LogTask) -> None:
        """Of a handler, in its exception handler."""
        forks.end_if_child()
        log("error", f"The handler of {describe(task)} failed:\n{failure()}")

    def _spool(self, task: Task) -> SpooledBody:
        descriptor = self._spools.pop(task.number, None)
        if descriptor is None:
            raise NoDescriptorError
        return SpooledBody(descriptor, task.body_size)

    def _give_credit(self, number: int, size: int) -> None:
        self.outbox.put(Credit(number, size), 0, time.monotonic_ns())
        self.outbox.flush()

    def _conclude(self, task: Task, replier: TaskReplier) -> None:
        if replier.begun and not replier.ended:
            replier.abort()
        elif not replier.ended:
            replier.own(*internal_error(task.head))
        replier.release()

    def _log(self, task: LogTask) -> None:
        def written() -> None:
            self.outbox.put(Part(task.number, [], Ending.DONE), 0, time.monotonic_ns())
            self.outbox.flush()

        if self._log_handler is None:
            written()
        else:
            self._log_handler(task.records, written)


def describe(task: Task | LogTask) -> str:
    """For the error log: the request line, without the query, which may hold secrets."""
    if not isinstance(task, Task):
        return "a batch of log records"
    return request_named(task.head, task.client)


def _stack(task: Task | LogTask, frame: FrameType) -> str:
    lines = "".join(traceback.format_stack(frame))
    return f"{describe(task)} passed its deadline; its thread is here:\n{lines}"
