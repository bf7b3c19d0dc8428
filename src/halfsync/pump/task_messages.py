"""Messages to workers about tasks that they have: in order, none lost, a packet a turn.

They go through the channel that a worker's watch thread reads, whatever its handlers do. If the worker is
slow to read it, they wait here. What may wait is bounded by who sends them: of a streamed body no more than
the window that its handler has opened.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque

from halfsync.pump.poller import Poller
from halfsync.wire.messages import MAX_PACKET, Cancel, ClientDisconnected, Piece, Taken, encode

Message = ClientDisconnected | Piece | Taken | Cancel

OVERHEAD = 32
"""Bytes of a message beside its data, at most."""
MOST = 512
"""Messages in a packet."""

_SHORT_OF = {errno.ENOMEM, errno.ENOBUFS}


class TaskMessages:
    """A channel is a worker's `watch` socket. `due`: those for which something waits, and which are not full.
    Flush it once a turn."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._waiting: dict[socket.socket, deque[Message]] = {}
        self.due: dict[socket.socket, None] = {}

    def put(self, channel: socket.socket, message: Message) -> None:
        waiting = self._waiting.get(channel)
        if waiting is None:
            self._waiting[channel] = waiting = deque()
            self.due[channel] = None
        waiting.append(message)

    def say(self, channel: socket.socket, message: Message) -> None:
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
        if self._waiting.pop(channel, None) is not None:
            self.due.pop(channel, None)
            self._poller.forget(channel.fileno())

    def _send(self, channel: socket.socket) -> None:
        """All that waits, or as much as the channel takes."""
        waiting = self._waiting[channel]
        while waiting:
            batch = _batch(waiting)
            try:
                channel.send(encode(batch))
            except BlockingIOError:
                self._wait_for_room(channel)
                return
            except OSError as error:
                if error.errno in _SHORT_OF:
                    self.due[channel] = None  # tried again at the next flush, which the sweep sees to
                    return
                waiting.clear()  # nobody will read it; the worker's other channel tells the rest
                break
            for _ in batch:
                waiting.popleft()
        del self._waiting[channel]

    def _wait_for_room(self, channel: socket.socket) -> None:
        def event(_mask: int) -> None:
            self._poller.forget(channel.fileno())
            self._send(channel)

        self._poller.watch(channel.fileno(), event, select.EPOLLOUT)


def _batch(waiting: deque[Message]) -> list[Message]:
    """The first ones, as many as a packet has room for."""
    batch: list[Message] = []
    size = 0
    for message in waiting:
        size += OVERHEAD + (len(message.data) if type(message) is Piece else 0)
        if batch and (size > MAX_PACKET or len(batch) == MOST):
            break
        batch.append(message)
    return batch
