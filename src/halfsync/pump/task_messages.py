"""Messages to workers about tasks that they have: in order, none lost, a packet a turn.

They go through the channel that a worker's watch thread reads, whatever its handlers do. If the worker is
slow to read it, they wait here. What may wait is bounded by who sends them: of a streamed body no more than
the window that its handler has opened, of a WebSocket's messages no more than MESSAGE_WINDOW.

Small messages of WebSockets may be *gathered*, for up to GATHER_TURNS, as tasks are (see
`Dispatcher.end_of_turn`): a packet costs both sides some 20 µs, whatever is in it.
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
    MessageColumns,
    Piece,
    Taken,
    encode,
)

TaskMessage = ClientDisconnected | Piece | Taken | Cancel | Message | Close
GATHER_TURNS = 4
"""At most so many turns are small messages kept, for what the next ones bring."""

OVERHEAD = 32
"""Bytes of a message beside its data, at most."""
MOST = 512
"""Messages in a packet."""

_SHORT_OF = {errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS}


class _Waiting:
    """What waits for one channel. `size`: bytes that it takes, at most."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: deque[TaskMessage | MessageColumns] = deque()
        self.size = 0


class TaskMessages:
    """A channel is a worker's `watch` socket. `due`: those for which something waits, and which are not full.
    Flush it once a turn. `gathered`: those for which there are small messages, and nothing else; call
    `end_of_turn` while there are any. `silent`: those whose worker got small messages and has said nothing
    since, so that it has something to do; whoever reads what a worker says takes it out."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._waiting: dict[socket.socket, _Waiting] = {}
        self._files: dict[int, Descriptor] = {}  # that go beside messages; by id() of these
        self.due: dict[socket.socket, None] = {}
        self.gathered: dict[socket.socket, None] = {}
        self.silent: set[socket.socket] = set()
        self._turns = 0  # for which small messages were kept

    def put(self, channel: socket.socket, message: TaskMessage, file: Descriptor | None = None) -> None:
        """`file`: of a Message that is in one."""
        if file is not None:
            self._files[id(message)] = file
        waiting = self._waiting.get(channel)
        if waiting is None:
            self._waiting[channel] = waiting = _Waiting()
            self.due[channel] = None
        elif channel in self.gathered:
            del self.gathered[channel]
            self.due[channel] = None
        waiting.messages.append(message)
        waiting.size += _size(message)

    def put_small(self, channel: socket.socket, messages: list[MessageColumns], size: int) -> None:
        """Messages of a WebSocket, which are in no files; they may be gathered. `size`: of their data."""
        waiting = self._waiting.get(channel)
        if waiting is None:
            self._waiting[channel] = waiting = _Waiting()
            self.gathered[channel] = None
        waiting.messages += messages
        waiting.size += size + OVERHEAD * len(messages)

    def end_of_turn(self, events: int) -> None:
        """Send what is gathered; or keep it, if this turn had events, so that the next may have more, and the
        workers have something to do meanwhile."""
        if events and self._turns < GATHER_TURNS and self.silent.issuperset(self.gathered):
            self._turns += 1
            return
        self._turns = 0
        gathered, self.gathered = self.gathered, {}
        for channel in gathered:
            self._send(channel)
            self.silent.add(channel)

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
        self.silent.discard(channel)
        waiting = self._waiting.pop(channel, None)
        if waiting is not None:
            self._drop_files(waiting.messages)
            self.due.pop(channel, None)
            self.gathered.pop(channel, None)
            self._poller.forget(channel.fileno())

    def _send(self, channel: socket.socket) -> None:
        """All that waits, or as much as the channel takes."""
        waiting = self._waiting[channel]
        messages = waiting.messages
        while messages:
            if waiting.size <= MAX_PACKET and len(messages) <= MOST and not self._files:
                batch = list(messages)
            else:
                batch = _batch(messages)
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
                self._drop_files(messages)
                messages.clear()  # nobody will read it; the worker's other channel tells the rest
                break
            if fds:
                self._drop_files(batch)
            if len(batch) == len(messages):
                break
            for message in batch:
                messages.popleft()
                waiting.size -= _size(message)
        del self._waiting[channel]

    def _descriptors_of(self, batch: list[TaskMessage | MessageColumns]) -> list[int]:
        fds: list[int] = []
        for message in batch:
            if type(message) is Message and message.objects:
                file = message.objects[0]
                assert isinstance(file, File)
                file.fd = len(fds)
                fds.append(self._files[id(message)].fd)
        return fds

    def _drop_files(self, messages: Iterable[TaskMessage | MessageColumns]) -> None:
        for message in messages:
            self._files.pop(id(message), None)

    def _wait_for_room(self, channel: socket.socket) -> None:
        def event(_mask: int) -> None:
            self._poller.forget(channel.fileno())
            self._send(channel)

        self._poller.watch(channel.fileno(), event, select.EPOLLOUT)


def _size(message: TaskMessage | MessageColumns) -> int:
    """Of its encoding, at most."""
    if type(message) is tuple:
        return OVERHEAD + len(message[3])
    if type(message) is Message or type(message) is Piece:
        return OVERHEAD + len(message.data)
    if type(message) is Close:
        return OVERHEAD + len(message.reason)
    return OVERHEAD


def _batch(waiting: deque[TaskMessage | MessageColumns]) -> list[TaskMessage | MessageColumns]:
    """The first ones, as many as a packet has room for."""
    batch: list[TaskMessage | MessageColumns] = []
    size = files = 0
    for message in waiting:
        size += _size(message)
        if type(message) is Message:
            files += len(message.objects)
        if batch and (size > MAX_PACKET or len(batch) == MOST or files > MAX_DESCRIPTORS):
            break
        batch.append(message)
    return batch
