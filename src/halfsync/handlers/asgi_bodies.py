"""Request bodies as an ASGI application gets them: event by event.

Whatever has no more to say gives None from `next`: then `receive` waits for the client to leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from halfsync.system.primitives import os
from halfsync.wire.messages import ABORTED, BODY_WINDOW, DONE, Piece, StreamedTask

READ_SIZE = 64 * 1024
"""Bytes of a body in a file that one event carries."""

Event = dict[str, Any]


class Body(Protocol):
    async def next(self) -> Event | None:
        """The next event; None after the last, or when the rest will never come."""

    def close(self) -> None: ...


def _event(data: bytes, *, more: bool) -> Event:
    return {"type": "http.request", "body": data, "more_body": more}


class KeptBody:
    """In a file, which is closed with it. Reads by position: others may have the descriptor too."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._position = 0
        self._ended = False

    async def next(self) -> Event | None:
        if self._ended:
            return None
        data = os.pread(self._descriptor, min(READ_SIZE, self._size - self._position), self._position)
        self._position += len(data)
        self._ended = self._position >= self._size or not data
        return _event(data, more=not self._ended)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._ended = True


class ArrivingBody:
    """One that comes while its handler runs: the worker's end of the window (see worker.streamed)."""

    def __init__(
        self, task: StreamedTask, ask: Callable[[int], None], wait: Callable[[], Awaitable[None]]
    ) -> None:
        """`ask(size)` says that so many bytes more may come; `wait` returns when `deliver` or `cut` were
        called since."""
        self._ask = ask
        self._wait = wait
        self._pieces = deque([task.first] if task.first else [])
        self._free = self._received = len(task.first)  # bytes that did not come through the window; that came
        self._taken = BODY_WINDOW  # and not given back: at first it is all of the window
        self._asked = False
        self._ended = False  # the last has come
        self._said = False  # and its event was given
        self._cut = False

    async def next(self) -> Event | None:
        if not self._asked:
            self._asked = True
            self._give_back()
        while not (self._pieces or self._ended or self._cut):
            if self._taken:
                self._give_back()
            await self._wait()
        if self._pieces:
            data = self._pieces.popleft()
            free = min(len(data), self._free)
            self._free -= free
            self._taken += len(data) - free
            if self._taken >= BODY_WINDOW // 2:
                self._give_back()
            self._said = self._ended and not self._pieces
            return _event(data, more=not self._said)
        if self._ended and not self._said:
            self._said = True
            return _event(b"", more=False)
        return None

    def _give_back(self) -> None:
        taken, self._taken = self._taken, 0
        if taken and not (self._ended or self._cut):
            self._ask(taken)

    def deliver(self, piece: Piece) -> None:
        if piece.ending is ABORTED:
            self._cut = True
        elif piece.offset == self._received and not self._ended:
            self._received += len(piece.data)
            self._ended = piece.ending is DONE
            if piece.data:
                self._pieces.append(piece.data)

    def cut(self) -> None:
        """Nothing more will come."""
        self._cut = True

    def close(self) -> None:
        self._cut = True
        self._pieces.clear()
