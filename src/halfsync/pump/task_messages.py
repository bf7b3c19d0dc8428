"""Messages to workers about tasks that they have: in order, none lost, a packet a turn.

They go through the channel that a worker's watch thread reads, whatever its handlers do. If the worker is
slow to read it, they wait here. What may wait is bounded by who sends them: of a streamed body no more than
the window that its handler has opened, of a WebSocket's messages no more than MESSAGE_WINDOW.

Small messages of WebSockets may be *gathered*, for up to GATHER_TURNS, as tasks are (see
`Dispatcher.end_of_turn`): a packet costs both sides some 20 µs, whatever is in it.
"""

from __future__ import annotations

import errno
import operator
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


class MessageQueue:
    """What waits for one channel. To put a small message of a WebSocket here, which is in no file: append it
    to `messages`, count it in `size` (OVERHEAD and its data), and call `gather` unless it `is_known`."""

    __slots__ = ("_all", "append", "channel", "is_known", "is_silent", "messages", "size")

    def __init__(self, channel: socket.socket, all_of_them: TaskMessages) -> None:
        self.channel = channel
        self._all = all_of_them
        self.messages: deque[TaskMessage | MessageColumns] = deque()
        self.append = self.messages.append
        self.size = 0  # bytes that they take, at most
        self.is_known = False  # it is due or gathered, or the channel is full: they will be sent
        self.is_silent = False  # the worker got small messages, and has said nothing since: it is busy

    def gather(self) -> None:
        self.is_known = True
        self._all.gathered[self] = None


class TaskMessages:
    """A channel is a worker's `watch` socket. `due`: queues with something in them, whose channel is not
    full. Flush it once a turn. `gathered`: those with small messages, and nothing else; call `end_of_turn`
    while there are any, and `heard` whenever a worker has said something."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._queues: dict[socket.socket, MessageQueue] = {}
        self._files: dict[int, Descriptor] = {}  # that go beside messages; by id() of these
        self.due: dict[MessageQueue, None] = {}
        self.gathered: dict[MessageQueue, None] = {}
        self._turns = 0  # for which small messages were kept

    def queue_of(self, channel: socket.socket) -> MessageQueue:
        """The same one as long as there is the channel."""
        queue = self._queues.get(channel)
        if queue is None:
            self._queues[channel] = queue = MessageQueue(channel, self)
        return queue

    def put(self, channel: socket.socket, message: TaskMessage, file: Descriptor | None = None) -> None:
        """`file`: of a Message that is in one."""
        if file is not None:
            self._files[id(message)] = file
        queue = self.queue_of(channel)
        if not queue.is_known:
            queue.is_known = True
            self.due[queue] = None
        elif queue in self.gathered:
            del self.gathered[queue]
            self.due[queue] = None
        queue.messages.append(message)
        queue.size += _size(message)

    def heard(self, channel: socket.socket) -> None:
        """Its worker has said something."""
        queue = self._queues.get(channel)
        if queue is not None:
            queue.is_silent = False

    def end_of_turn(self, events: int) -> None:
        """Send what is gathered; or keep it, if this turn had events, so that the next may have more, and the
        workers have something to do meanwhile."""
        if events and self._turns < GATHER_TURNS and all(map(_is_silent, self.gathered)):
            self._turns += 1
            return
        self._turns = 0
        gathered, self.gathered = self.gathered, {}
        for queue in gathered:
            queue.is_silent = True
            self._send(queue)

    def say(self, channel: socket.socket, message: TaskMessage) -> None:
        """At once, if the channel has room: from outside of a step, or where it is urgent."""
        self.put(channel, message)
        queue = self.queue_of(channel)
        if queue in self.due:
            del self.due[queue]
            self._send(queue)

    def flush(self) -> None:
        due, self.due = self.due, {}
        for queue in due:
            self._send(queue)

    def forget(self, channel: socket.socket) -> None:
        """Its worker is no more. To be called before it is closed."""
        queue = self._queues.pop(channel, None)
        if queue is not None:
            self._drop_files(queue.messages)
            queue.messages.clear()
            self.due.pop(queue, None)
            self.gathered.pop(queue, None)
            self._poller.forget(channel.fileno())

    def _send(self, queue: MessageQueue) -> None:
        """All that waits, or as much as the channel takes."""
        channel, messages = queue.channel, queue.messages
        while messages:
            if queue.size <= MAX_PACKET and len(messages) <= MOST and not self._files:
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
                self._wait_for_room(queue)
                return
            except OSError as error:
                if error.errno in _SHORT_OF:
                    self.due[queue] = None  # tried again at the next flush, which the sweep sees to
                    return
                self._drop_files(messages)
                messages.clear()  # nobody will read it; the worker's other channel tells the rest
                break
            if fds:
                self._drop_files(batch)
            if len(batch) == len(messages):
                messages.clear()
                break
            for message in batch:
                messages.popleft()
                queue.size -= _size(message)
        queue.size = 0
        queue.is_known = False

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

    def _wait_for_room(self, queue: MessageQueue) -> None:
        channel = queue.channel

        def event(_mask: int) -> None:
            self._poller.forget(channel.fileno())
            self._send(queue)

        self._poller.watch(channel.fileno(), event, select.EPOLLOUT)


_is_silent = operator.attrgetter("is_silent")


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
