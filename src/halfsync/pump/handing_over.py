"""At an upgrade: connections that are between two requests go to the pump of the server that takes over.

A connection is passed on as a descriptor, with what the other pump must know of it. That can be done with
HTTP/1.1 in clear while nothing is under way: before the first request, between two, and even in the midst of
a head. Also before TLS or the PROXY protocol has begun. It can't be done with TLS, whose keys are in this
process's memory, nor with HTTP/2: those end as at a stop, behind the response that they have, and clients are
told so (Connection: close, GOAWAY). Requests that are under way are finished here, and then their connections
are passed on; only what can't be passed on, or not any more, has to be closed.

Each connection is in one pump at any time: it is forgotten here as soon as the kernel has the packet. A byte
that comes meanwhile stays in the kernel, and is read by whoever has the connection then.
"""

from __future__ import annotations

import select
import socket

from halfsync import channel
from halfsync.logs.error import log
from halfsync.pump.connection import Connection
from halfsync.pump.endings import Endings
from halfsync.pump.poller import Poller
from halfsync.pump.states import FRESH, HANDSHAKE, HEAD, IDLE, ConnectionEvent
from halfsync.pump.tls.transport import TLSTransport
from halfsync.pump.transport import PlainTransport
from halfsync.wire.upgrade import MAX_PASSED, PASSED_AT_ONCE, Passed, encode

_PASSABLE = (FRESH, IDLE, HEAD, HANDSHAKE)


class HandingOver:
    """`places`: the listeners whose connections the other pump takes. `is_broken`: it takes no more."""

    def __init__(
        self, sock: socket.socket, places: list[int], protocols: tuple[object, ...], poller: Poller
    ) -> None:
        """`protocols`: what is spoken on connections that may be passed on."""
        self.places = frozenset(places)
        self.is_broken = False
        self.count = 0  # of connections that were passed on
        self._has_told = False
        self._sock = sock
        self._sock.setblocking(False)
        self._protocols = protocols
        self._poller = poller
        # Edge-triggered: when there is room again, a turn begins, and with it the next try.
        poller.watch(sock.fileno(), self._event, select.EPOLLOUT | select.EPOLLET)

    def _event(self, mask: int) -> None:
        self.is_broken = self.is_broken or bool(mask & (select.EPOLLHUP | select.EPOLLERR))

    def close(self) -> None:
        """No more is passed on."""
        self._poller.forget(self._sock.fileno())
        self._sock.close()

    def takes(self, conn: Connection) -> bool:
        """Whether this connection can be passed on, now or when it has no request."""
        return (
            not self.is_broken
            and conn.origin.listener in self.places
            and conn.protocol in self._protocols
            and not conn.ended
            and _socket_of(conn) is not None
        )

    def pass_on(self, connections: list[Connection], endings: Endings) -> None:
        """Those of them that can be, as many as there is room for."""
        due = [conn for conn in connections if conn.state in _PASSABLE and self.takes(conn)]
        while due and not self.is_broken:
            some: list[Connection] = []
            size = 0
            while due and len(some) < PASSED_AT_ONCE and (not some or size + len(due[-1].inbox) < MAX_PASSED):
                size += len(due[-1].inbox)
                some.append(due.pop())
            if size > MAX_PASSED:
                continue  # one head that long: it is served here
            if not self._send(some):
                return
            for conn in some:
                self._let_go(conn, endings)
        if not self._has_told:
            self._has_told = True
            log("debug", f"connections that wait are handed over: {self.count}")

    def _send(self, some: list[Connection]) -> bool:
        """Whether it was taken."""
        sockets = [sock for conn in some if (sock := _socket_of(conn)) is not None]
        packet = encode([_passed(conn) for conn in some])
        sent = channel.send(self._sock, packet, tuple(sock.fileno() for sock in sockets))
        self.is_broken = sent is channel.SendResult.GONE
        return sent is channel.SendResult.YES

    def _let_go(self, conn: Connection, endings: Endings) -> None:
        """Nothing is said to the client. The kernel would tell us of it as long as anybody has it open."""
        sock = _socket_of(conn)
        assert sock is not None
        self._poller.forget_client(conn.fd)
        conn.move(ConnectionEvent.CLOSE)
        endings.forget(conn, None)
        sock.close()
        self.count += 1


def _socket_of(conn: Connection) -> PlainTransport | None:
    """None if the connection has more to it than its socket."""
    transport = conn.transport
    if isinstance(transport, TLSTransport) and conn.state is HANDSHAKE and not transport.has_begun:
        transport = transport.plain
    # A subclass may keep back what it has read.
    return transport if type(transport) is PlainTransport else None


def _passed(conn: Connection) -> Passed:
    origin = conn.origin
    return Passed(
        origin.listener,
        conn.state.name,
        origin.client,
        origin.client_port,
        conn.deadline,
        conn.request_count,
        conn.inbox,
        conn.scanned,
        conn.when,
        conn.first_byte,
    )
