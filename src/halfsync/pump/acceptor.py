"""Accepts clients, a bounded number a turn, and makes room when descriptors run out."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from halfsync.logs.error import log
from halfsync.pump.closes import CloseReason
from halfsync.pump.connection import Connection
from halfsync.pump.states import State

if TYPE_CHECKING:
    from halfsync.pump.loop import Pump

ACCEPTS_A_TURN = 64
"""For each listener. More would let a flood of new clients delay the old ones."""

_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """The listening sockets stay open until the server stops: a client that comes while nobody
    accepts waits in the kernel's backlog. At a stop they are closed, so that a client which comes then is
    refused at once; one that waited in a backlog which nobody empties would be reset at our exit."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._listeners = [listener.socket for listener in pump.plan.listeners]
        self._watched = False
        self._paused = False
        self._short = False  # and it has been said; until a client could be accepted again
        self.due: list[tuple[int, socket.socket]] = []  # where clients wait, by this turn's events

    def start(self) -> None:
        """Accept from now on."""
        if self._watched:
            return
        self._watched = True
        for index, listener in enumerate(self._listeners):
            listener.setblocking(False)
            self._pump.watch(listener.fileno(), self._source(index, listener))

    def stop(self) -> None:
        """Accept what has connected by now, and then close the listening sockets."""
        self._unwatch()
        self._paused = False
        self.due = []
        for index, listener in enumerate(self._listeners):
            listener.setblocking(False)
            while self._accept(index, listener) == ACCEPTS_A_TURN:
                pass
            listener.close()
        self._listeners = []

    def resume(self) -> None:
        """Try again after a shortage."""
        if self._paused:
            self._paused = False
            self.start()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            for listener in self._listeners:
                self._pump.forget(listener.fileno())

    def _source(self, index: int, listener: socket.socket) -> Callable[[int], None]:
        def event(_mask: int) -> None:
            self.due.append((index, listener))

        return event

    def accept_due(self) -> None:
        """When all events of a turn are dealt with, and not before: a new client may get the
        descriptor's number of one that was closed in this turn, and that one's events with it."""
        due, self.due = self.due, []
        for index, listener in due:
            self._accept(index, listener)

    def _accept(self, index: int, listener: socket.socket) -> int:
        """Accept up to ACCEPTS_A_TURN clients; how many came."""
        expires = self._pump.clock.now + self._pump.settings.head_timeout
        for count in range(ACCEPTS_A_TURN):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return count
            except OSError as error:
                if error.errno in _SHORT:
                    self._make_room(error)
                    return count
                continue  # that client has gone already (ECONNABORTED and its like)
            self._short = False
            client, port = address[:2] if isinstance(address, tuple) else ("", 0)
            try:
                self._pump.add(Connection(sock, client, port, index, expires))
            except OSError as error:  # the kernel watches no more descriptors for this user
                sock.close()
                self._make_room(error)
                return count
        return ACCEPTS_A_TURN

    def _make_room(self, error: OSError) -> None:
        """Out of descriptors: close those that idle longest; if none does, stop accepting a while."""
        connections = self._pump.connections.values()
        idle = sorted((c for c in connections if c.state is State.IDLE), key=lambda c: c.expires)
        for conn in idle[:ACCEPTS_A_TURN]:
            self._pump.close(conn, CloseReason.DESCRIPTORS_SHORT)
        if not idle and not self._paused:
            if not self._short:  # once a shortage, not at every try
                log("warning", f"not accepting for now: {error.strerror} ({len(connections)} connections)")
            self._short = self._paused = True
            self._unwatch()
