"""What wakes the loop: epoll, and who is to be called for which descriptor.

Client sockets are registered once, edge-triggered, for both directions. That saves the epoll_ctl(2)
calls of changing one's mind (two for each response that does not fit the send buffer), and a client
that goes on sending while nobody wants to read it wakes us once and not in every turn. The price:
we must remember (`Connection.readable`) that there was something to read. (A new socket that is watched for
sending is reported at once, for it has room. With TLS that would be a turn for each handshake, so it is
watched for sending from the first time on that it is full.) Everything else (listeners,
workers, pipes, orders) is level-triggered or as its owner says, and a callable by descriptor.
"""

from __future__ import annotations

import select
from collections.abc import Callable

READ_EVENTS = select.EPOLLET | select.EPOLLIN | select.EPOLLRDHUP
CLIENT_EVENTS = select.EPOLLET | select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP

Source = Callable[[int], None]
"""Called with the mask of events."""


class Poller:
    """Descriptors of clients are the loop's to look up; `sources` are the callables of all others."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.sources: dict[int, Source] = {}
        self.poll = self._epoll.poll

    def watch_client(self, fd: int, events: int = CLIENT_EVENTS) -> None:
        """Raises OSError where the kernel can't watch any more descriptors for this user."""
        self._epoll.register(fd, events)

    def watch_sending(self, fd: int) -> None:
        """Of a client that was watched with READ_EVENTS: its socket is full."""
        self._epoll.modify(fd, CLIENT_EVENTS)

    def forget_client(self, fd: int) -> None:
        """One that another process has open too. (Else its close is enough.)"""
        self._epoll.unregister(fd)

    def watch(self, fd: int, source: Source, events: int = select.EPOLLIN) -> None:
        self._epoll.register(fd, events)
        self.sources[fd] = source

    def want(self, fd: int, events: int) -> None:
        """Other events from now on."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        if self.sources.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._epoll.close()
