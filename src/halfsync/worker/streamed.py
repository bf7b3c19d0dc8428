"""Request bodies that come while their handlers run: the worker's end of the window.

Theory of operation
-------------------
The handler's thread reads (`StreamedBody.readinto`); the watch thread, which runs no handler and so always
reads what the pump sends, delivers the pieces. Between them lies what has come and was not taken: at most
BODY_WINDOW bytes, for the pump sends no more than it was given credit for. The first read gives the whole
window; then what was taken is given back, half a window at a time, or all of it when the reader has to wait.
So a reader that keeps up costs two messages for each window, and the pump can tell who keeps whom waiting.

The watch thread is the main thread, in which a signal handler of the application may raise between any two
steps. So to deliver a piece is one step (`SimpleQueue.put`, which is written in C), it may be done twice, and
all that has to be kept together is the reader's: it drops what it has had already, by the piece's offset.

A body that will never be whole (the client has disconnected, its request was refused, the response is over,
the pump is gone) ends in BodyCutError at the read behind what did come.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from queue import SimpleQueue  # before an application can replace it
from typing import Any

from halfsync.http.response import ClientDisconnectedError
from halfsync.wire.messages import ABORTED, BODY_WINDOW, DONE, Piece, StreamedTask


class BodyCutError(ClientDisconnectedError, ConnectionResetError):
    """The rest of a request's body will not come. (An OSError, as frameworks expect of a failed read.)"""


class StreamedBody(io.RawIOBase):
    """One body. Read by one thread at a time, and closed by the one that handles the task; any may
    `deliver`."""

    def __init__(
        self, task: StreamedTask, ask: Callable[[int, int], None], forget: Callable[[int], None]
    ) -> None:
        """`ask(number, size)` says that so many bytes more may come."""
        self._number = task.number
        self._ask = ask
        self._forget = forget
        self._arrived: SimpleQueue[Piece] = SimpleQueue()
        self._piece = memoryview(task.first)  # and not read
        self._free = self._received = len(task.first)  # bytes that did not come through the window; that came
        self._taken = BODY_WINDOW  # and not given back: at first it is all of the window
        self._asked = False
        self._ended = False
        self._cut = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Waits until there is something. Raises BodyCutError, a ConnectionResetError."""
        if not self._asked:
            self._asked = True
            self._give_back()
        room = memoryview(buffer).cast("B")
        if not (self._piece or self._next()):
            return 0
        count = min(len(room), len(self._piece))
        room[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        free = min(count, self._free)
        self._free -= free
        self._taken += count - free
        if self._taken >= BODY_WINDOW // 2:
            self._give_back()
        return count

    def _next(self) -> bool:
        """Wait for a piece. False at the end."""
        while not self._piece:
            if self._ended:
                return False
            if self._cut:
                raise BodyCutError("the rest of the request's body will not come")
            if self._taken and self._arrived.empty():
                self._give_back()
            self._accept(self._arrived.get())
        return True

    def _accept(self, piece: Piece) -> None:
        if piece.ending is ABORTED:
            self._cut = True
        elif piece.offset == self._received:
            self._received += len(piece.data)
            self._piece = memoryview(piece.data)
            self._ended = piece.ending is DONE

    def _give_back(self) -> None:
        taken, self._taken = self._taken, 0
        if not (self._ended or self._cut):
            self._ask(self._number, taken)

    def deliver(self, piece: Piece) -> None:
        self._arrived.put(piece)

    def cut(self) -> None:
        """Nothing more will come."""
        self._arrived.put(Piece(self._number, 0, b"", ABORTED))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._forget(self._number)


class StreamedBodies:
    """Those of one worker and pump whose handlers run, by task number."""

    def __init__(self, ask: Callable[[int, int], None]) -> None:
        """`ask(number, size)` gives the pump credit."""
        self._ask = ask
        self._bodies: dict[int, StreamedBody] = {}
        self._lost = False

    def open(self, task: StreamedTask) -> StreamedBody:
        """By the thread that begins to handle it. Nothing comes before it is read."""
        self._bodies[task.number] = body = StreamedBody(task, self._give_credit, self._forget)
        if self._lost:
            body.cut()
        return body

    def _give_credit(self, number: int, size: int) -> None:
        if not self._lost:
            self._ask(number, size)

    def _forget(self, number: int) -> None:
        self._bodies.pop(number, None)

    def deliver(self, piece: Piece) -> None:
        """One that nobody reads any more is dropped."""
        body = self._bodies.get(piece.number)
        if body is not None:
            body.deliver(piece)

    def cut(self, number: int) -> None:
        """The task's client has disconnected, or nobody wants its response."""
        body = self._bodies.get(number)
        if body is not None:
            body.cut()

    def cut_all(self) -> None:
        """The pump is gone; or this is a process that the application forked."""
        self._lost = True
        for body in list(self._bodies.values()):
            body.cut()
