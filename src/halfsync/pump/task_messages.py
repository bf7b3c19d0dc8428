"""Messages to workers about tasks that they have: in order, none lost, a packet a turn.

They go through the channel that a worker's watch thread reads, whatever its handlers do. If the worker is
slow to read it, they wait here. What may wait is bounded by who sends them: of a streamed body no more than
the window that its handler has opened, of a WebSocket's messages no more than MESSAGE_WINDOW.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from collections.abc import Iterable

from halfsync.objects import File
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.poller import Poller
from halfsync.wire.messages import (
    MAX_DESCRIPTORS,
    MAX_PACKET,
    Cancel,
    ClientDisconnected,
    Close,
    Message,
    Piece,
    Taken,
    encode,
)

TaskMessage = ClientDisconnected | Piece | Taken | Cancel | Message | Close

OVERHEAD = 32
"""Bytes of a message beside its data, at most."""
MOST = 512
"""Messages in a packet."""

_SHORT_OF = {errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS}


class TaskMessages:
    """A channel is a worker's `watch` socket. `due`: those for which something waits, and which are not full.
    Flush it once a turn."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._waiting: dict[socket.socket, deque[TaskMessage]] = {}
        self._files: dict[int, Descriptor] = {}  # that go beside messages; by id() of these
        self.due: dict[socket.socket, None] = {}

    def put(self, channel: socket.socket, message: TaskMessage, file: Descriptor | None = None) -> None:
        """`file`: of a Message that is in one."""
        if file is not None:
            self._files[id(message)] = file
        waiting = self._waiting.get(channel)
        if waiting is None:
            self._waiting[channel] = waiting = deque()
            self.due[channel] = None
        waiting.append(message)

    def say(self, channel: socket.socket, message: TaskMessage) -> None:
        """At once, if the channel has room: from outside of a step, or where it is urgent."""
        self.put(channel, message)
        if channel in self.due:
            del self.due[channel]
            self._send(channel)

    def flush(self) -> None:
        due, self.due = self.due, {}
        for channel in due:
            self._send(channel)

    def forget(self, channel: socket.socket) -> None:
        """Its worker is no more. To be called before it is closed."""
        waiting = self._waiting.pop(channel, None)
        if waiting is not None:
            self._drop_files(waiting)
            self.due.pop(channel, None)
            self._poller.forget(channel.fileno())

    def _send(self, channel: socket.socket) -> None:
        """All that waits, or as much as the channel takes."""
        waiting = self._waiting[channel]
        while waiting:
            batch = _batch(waiting)
            fds = self._descriptors_of(batch) if self._files else []
            try:
                if fds:
                    socket.send_fds(channel, [encode(batch)], fds)
                else:
                    channel.send(encode(batch))
            except BlockingIOError:
                self._wait_for_room(channel)
                return
            except OSError as error:
                if error.errno in _SHORT_OF:
                    self.due[channel] = None  # tried again at the next flush, which the sweep sees to
                    return
                self._drop_files(waiting)
                waiting.clear()  # nobody will read it; the worker's other channel tells the rest
                break
            if fds:
                self._drop_files(batch)
            for _ in batch:
                waiting.popleft()
        del self._waiting[channel]

    def _descriptors_of(self, batch: list[TaskMessage]) -> list[int]:
        fds: list[int] = []
        for message in batch:
            if type(message) is Message and message.objects:
                file = message.objects[0]
                assert isinstance(file, File)
                file.fd = len(fds)
                fds.append(self._files[id(message)].fd)
        return fds

    def _drop_files(self, messages: Iterable[TaskMessage]) -> None:
        for message in messages:
            self._files.pop(id(message), None)

    def _wait_for_room(self, channel: socket.socket) -> None:
        def event(_mask: int) -> None:
            self._poller.forget(channel.fileno())
            self._send(channel)

        self._poller.watch(channel.fileno(), event, select.EPOLLOUT)


def _batch(waiting: deque[TaskMessage]) -> list[TaskMessage]:
    """The first ones, as many as a packet has room for."""
    batch: list[TaskMessage] = []
    size = files = 0
    for message in waiting:
        size += OVERHEAD
        if type(message) is Message:
            size += len(message.data)
            files += len(message.objects)
        elif type(message) is Piece:
            size += len(message.data)
        elif type(message) is Close:
            size += len(message.reason)
        if batch and (size > MAX_PACKET or len(batch) == MOST or files > MAX_DESCRIPTORS):
            break
        batch.append(message)
    return batch
