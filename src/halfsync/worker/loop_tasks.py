"""A worker's event loop and one pump: tasks in, replies out.

Theory of operation
-------------------
The loop reads `tasks` and `watch` when they are readable. Each task becomes an asyncio.Task, so whatever
frameworks expect of one (timeouts, task groups, context) is there. Replies wait in the outbox and leave
together, one packet for what one turn of the loop has made.

What the pump says of a task on `watch` goes to its invocation, by the task's number. One that has ended is
not there any more, and what is said of it is dropped.

`turned` on the scoreboard is written when tasks are taken, and four times a second while there are any: so
the pump sees from outside whether the loop is blocked, and `orders` (loop_orders.py) whether to say where.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from halfsync import channel
from halfsync.handlers.asgi import ASGIHandler
from halfsync.handlers.asgi_response import ASGIInvocation, OutgoingResponse
from halfsync.handlers.asgi_websocket import WebSocketInvocation
from halfsync.http.response import Head
from halfsync.logs.error import failure, log
from halfsync.objects import File, Memory
from halfsync.system.primitives import os, socket, time
from halfsync.system.temporary_files import out_of_reach
from halfsync.wire.blocks import AREA, BLOCK_FROM, BlockCopier, BlockWriter, has_blocks, scoreboard_of
from halfsync.wire.messages import (
    DONE,
    MAX_PACKET,
    NOT_BEGUN,
    Cancel,
    ClientDisconnected,
    Close,
    Credit,
    FromWorker,
    LogTask,
    Message,
    MessageColumns,
    Nudge,
    Part,
    PartColumns,
    Piece,
    StreamedTask,
    Taken,
    Task,
    ToWatch,
    WebSocketTask,
    decode_tasks,
    decode_watch,
)
from halfsync.wire.task_slots import MOST_SLOTS, slots_of
from halfsync.worker import forks
from halfsync.worker.outbox import Outbox, OutboxOfChild, end_if_lost
from halfsync.worker.resuming import resume

BEAT = 0.25
"""Seconds between two signs of life while there are tasks."""
SWALLOWED = 5.0
"""Seconds after which a task that was cancelled, and goes on, is complained of."""


class LoopTasks:
    """The tasks of one pump. `handlers` are by route; None where another pool is responsible. The sockets are
    this object's. See `Line` and `LineWithCredit` for what invocations have of it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tasks: socket.socket,
        watch: socket.socket,
        shared: memoryview,
        handlers: Sequence[ASGIHandler | None],
        lost: Callable[[LoopTasks], None],
        one_more: Callable[[], None] | None,
    ) -> None:
        """`shared`: the scoreboard's file, as bytes. `lost` is called when the pump has let go, or is gone;
        `one_more` after each request."""
        self._loop = loop
        self._tasks = tasks
        self._watch = watch
        self._scoreboard = scoreboard_of(shared)
        self._slots = slots_of(self._scoreboard)
        self._blocks = BlockWriter(shared[:AREA]) if has_blocks(shared) else None
        self._uploads = BlockCopier(shared[AREA : 2 * AREA])
        self._handlers = handlers
        self._lost = lost
        self._one_more = one_more
        self._buffer = channel.page_buffer(MAX_PACKET)
        self._watched = channel.page_buffer(MAX_PACKET)
        self._outbox = Outbox(tasks)
        self.flushes = False  # soon
        self._due: list[OutgoingResponse] = []  # have something to send then
        self._beats = False
        self.invocations: dict[int, ASGIInvocation] = {}
        self.wait = partial(asyncio.Future, loop=loop)  # what every loop makes of `create_future`
        self.said: Callable[[MessageColumns | PartColumns], None] = self._outbox.waiting.append
        self.is_open = False

    def open(self) -> None:
        self.is_open = True
        forks.close_in_child(self._watch)
        forks.call_in_child(self._forget_in_child)
        self._loop.add_reader(self._watch.fileno(), self._guarded, self._read_watch)
        self._loop.add_reader(self._tasks.fileno(), self._guarded, self._read_tasks)

    def close(self) -> None:
        """Nothing more is taken, or sent."""
        if not self.is_open:
            return
        self.is_open = False
        forks.no_longer(self._forget_in_child)
        self._outbox.flush()
        self._outbox.gone = True
        for end in (self._tasks, self._watch):
            self._loop.remove_reader(end.fileno())
            end.close()
        for invocation in list(self.invocations.values()):
            invocation.disconnected()
        self._lost(self)

    def _forget_in_child(self) -> None:
        """In a process that the application forked."""
        self._tasks.close()
        self._outbox.__class__ = OutboxOfChild
        self.said = self._outbox.say

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException:  # noqa: BLE001 - what an application's signal handler raises, or a bug of ours
            forks.end_if_child()
            log("error", f"Error in the event loop's reading:\n{failure()}")

    # --- tasks -------------------------------------------------------------------------------------

    def _read_tasks(self) -> None:
        try:
            size, ancillary, _, _ = self._tasks.recvmsg_into(
                [self._buffer], channel.ROOM_FOR_DESCRIPTORS, channel.AT_ONCE
            )
        except BlockingIOError:
            return
        except OSError as error:
            forks.end_if_child()
            end_if_lost(self._tasks, error)
            size, ancillary = 0, []
        if not size:
            self.close()
            return
        messages = decode_tasks(self._buffer[:size])
        descriptors = _descriptors(ancillary) if ancillary else iter(())
        now = time.monotonic_ns()
        self._scoreboard[2 * self._slots] = now
        for message in messages:
            if isinstance(message, Task):
                fd = -1
                if message.body is None and not isinstance(message, StreamedTask):
                    fd = next(descriptors, -1)
                self._begin(message, fd, now)
            elif isinstance(message, LogTask):
                self.put(Part(message.number, [], DONE), 0)
        for descriptor in descriptors:
            os.close(descriptor)
        if not self._beats:
            self._beats = True
            self._beat()

    def _begin(self, task: Task, descriptor: int, now: int) -> None:
        slot = task.number % MOST_SLOTS
        self._scoreboard[slot] = now
        if self._scoreboard[self._slots + slot] == task.number:  # withdrawn: see SCOREBOARD_SLOTS
            if descriptor >= 0:
                os.close(descriptor)
            self.put(Part(task.number, [], NOT_BEGUN), 0)
            return
        handler = self._handlers[task.route]
        assert handler is not None
        invocation: ASGIInvocation
        if type(task) is WebSocketTask:
            invocation = handler.websocket(task, now, self)
        else:
            invocation = handler.invocation(task, descriptor, now, self)
        self.invocations[task.number] = invocation
        # Not started eagerly, as Python 3.12 can (eager_start): that saves 0.5 of the 13.9 us that the worker
        # takes for a small response (3.13), and an application that computes before it awaits would keep the
        # other tasks of this packet from beginning, without being named as the one that blocks the loop.
        invocation.running = self._loop.create_task(invocation.run())

    def _beat(self) -> None:
        self._scoreboard[2 * self._slots] = time.monotonic_ns()
        if self.invocations and self.is_open:
            self._loop.call_later(BEAT, self._beat)
        else:
            self._beats = False

    @property
    def turned(self) -> float:
        """When the loop last turned (monotonic seconds), as far as it is known; inf if it has no tasks."""
        return self._scoreboard[2 * self._slots] / 1e9 if self._beats else float("inf")

    # --- what the pump says of them ----------------------------------------------------------------

    def _read_watch(self) -> None:
        try:
            size, ancillary, _, _ = self._watch.recvmsg_into(
                [self._watched], channel.ROOM_FOR_DESCRIPTORS, channel.AT_ONCE
            )
        except BlockingIOError:
            return
        except OSError:
            size, ancillary = 0, []
        if not size:
            self.close()
            return
        descriptors = dict(enumerate(_descriptors(ancillary))) if ancillary else {}
        try:
            messages = decode_watch(self._watched[:size])
            woken = self._hand_out(messages, descriptors)
            if woken:
                self.flushes = True  # what they send waits for the others, and leaves then
                resume(woken, self._loop)
                self._flush()
        except msgspec.MsgspecError as error:
            log("error", f"a message of the pump's can't be read: {error}")
        for descriptor in descriptors.values():
            os.close(descriptor)

    def _hand_out(  # noqa: C901 (a look-up in a table would cost more for each)
        self, messages: ToWatch, descriptors: dict[int, int]
    ) -> list[Any]:
        """To invocations. Descriptors that one has now are taken out. Gives the futures that are to be
        resolved, because their tasks wait for messages of WebSockets that are here now."""
        invocations = self.invocations
        woken: list[Any] = []
        for message in messages:
            if type(message) is Message:
                receiver = invocations.get(message.number)
                if type(receiver) is not WebSocketInvocation:
                    continue
                if message.objects:
                    receiver.in_file(message, _descriptor_of(message, descriptors))
                if receiver.ending is None:
                    receiver.unread.append(message)
                    if (waiter := receiver.receiver) is not None:
                        receiver.receiver = None
                        woken.append(waiter)
                    if receiver.waiters:
                        receiver.wake()
                continue
            if isinstance(message, Nudge):
                continue
            if type(message) is Piece and message.block >= 0:  # also for one that has ended
                message.data = self._uploads.take(message.block, message.size)
            invocation = self.invocations.get(getattr(message, "number", 0))
            if invocation is None:
                continue
            if isinstance(message, Close):
                if isinstance(invocation, WebSocketInvocation):
                    invocation.closed(message.code, message.reason)
            elif isinstance(message, Taken):
                invocation.taken(message.size)
            elif isinstance(message, Piece):
                invocation.deliver(message)
            elif isinstance(message, ClientDisconnected):
                invocation.disconnected()
            elif isinstance(message, Cancel):
                self._cancel(invocation)
        return woken

    def _cancel(self, invocation: ASGIInvocation) -> None:
        stack = _stack(invocation.running)
        log("warning", f"{invocation.named} passed its deadline and is cancelled; it waits here:\n{stack}")
        invocation.cancel()
        self._loop.call_later(SWALLOWED, self._complain, invocation)

    def _complain(self, invocation: ASGIInvocation) -> None:
        if invocation.number in self.invocations:
            log("warning", f"{invocation.named} was cancelled {SWALLOWED:g} s ago and goes on.")

    # --- what invocations call ---------------------------------------------------------------------

    def put(self, message: FromWorker, size: int) -> None:
        self._outbox.put(message, size, time.monotonic_ns())
        if not self.flushes:
            self.flushes = True
            self._loop.call_soon(self._flush)

    def put_pieces(self, part: Part, pieces: list[bytes], size: int) -> None:
        forks.end_if_child()  # before it writes what its parent has lent
        block = -1
        if size >= BLOCK_FROM and self._blocks is not None:
            block = self._blocks.fill(pieces)
        if block >= 0:
            part.objects[0] = Memory(b"", sum(map(len, pieces)), block)
            self._outbox.put(part, size, time.monotonic_ns())
        else:
            self._outbox.put_pieces(part, pieces, size, time.monotonic_ns())
        if not self.flushes:
            self.flushes = True
            self._loop.call_soon(self._flush)

    def say(self, message: MessageColumns | PartColumns) -> None:
        self.said(message)
        if not self.flushes:
            self.flush_soon()

    def flush_soon(self) -> None:
        self.flushes = True
        self._loop.call_soon(self._flush)

    def whole(self, number: int, head: Head, body: bytes, began: int) -> None:
        self._outbox.whole(number, head, body, began)
        if not self.flushes:
            self.flushes = True
            self._loop.call_soon(self._flush)

    def ask(self, number: int, size: int) -> None:
        self.put(Credit(number, size), 0)

    def ended(self, invocation: ASGIInvocation) -> None:
        self.invocations.pop(invocation.number, None)
        if self._one_more is not None:
            self._one_more()

    def end_if_child(self) -> None:
        forks.end_if_child()

    def soon(self, response: OutgoingResponse) -> None:
        self._due.append(response)
        if not self.flushes:
            self.flushes = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        due, self._due = self._due, []
        for response in due:
            response.send_kept()
        self.flushes = False
        self._outbox.flush()

    def named_running(self) -> str:
        """Which request the loop runs now; for another thread."""
        running = asyncio.current_task(self._loop)
        for invocation in list(self.invocations.values()):
            if invocation.running is running:
                return invocation.named
        return "a callback or a task of the application"


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> Any:
    found = array.array("i")
    for _, _, data in ancillary:
        found.frombytes(data)
    return iter([out_of_reach(fd) for fd in found])


def _descriptor_of(message: Message, descriptors: dict[int, int]) -> int:
    """Of the file that a message is in; or -1."""
    for item in message.objects:
        if isinstance(item, File):
            return descriptors.pop(item.fd, -1)
    return -1


def _stack(running: asyncio.Task[None]) -> str:
    """Where a task waits, the outermost call first."""
    lines: list[str] = []
    waiting: Any = running.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            lines.append(f"  {waiting!r:.200}")
            break
        lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}')
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return "\n".join(lines)
