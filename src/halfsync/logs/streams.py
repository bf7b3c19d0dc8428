"""Sending log messages by TCP, framed as RFC 6587 has it, without ever waiting long. Also to a unix socket
that is a stream, each with a NUL behind it, as the C library does.

Everything that datagrams.py says holds here, too. And:

A connection may take long to be made, or never be. It is waited for a moment when it is begun, and from then
on looked at when there is the next message; until it is there, messages are the caller's to count.

What the kernel takes is all that is kept for a receiver that reads too slowly (net.ipv4.tcp_wmem; some
100 KB to 4 MB), and in addition the rest of the one message that it took in part: it goes before the next.

Nobody confirms a message. So those that the kernel has when a connection breaks may be lost. That the
receiver has closed is seen before the next message, and it is connected to again.
"""

from __future__ import annotations

import errno

from halfsync.logs.datagrams import Address, Datagrams, connecting, has_room, moved_up
from halfsync.system.primitives import os, socket, time

LINE_END, NUL = b"\n", b"\0"
"""What may stand behind a message."""
FIRST_WAIT = 0.05
"""Seconds for a connection to be made. It takes a round trip; a handler or the pump may be who waits."""
UNCONFIRMED_MS = 30_000
"""Milliseconds for which a receiver's machine may say nothing to what was sent: then the connection is over
(tcp(7): TCP_USER_TIMEOUT)."""


class MessageStream(Datagrams):
    """`is_counted`: each message has its size before it (RFC 6587 3.4.1), and not `end` behind it (3.4.2)."""

    def __init__(self, address: Address, *, is_counted: bool = False, end: bytes = LINE_END) -> None:
        super().__init__(address)
        self._is_counted = is_counted
        self._end = end
        self._is_connected = False  # for certain
        self._rest = b""  # of a message whose beginning was sent

    def send(self, data: bytes, wait: float = 0.0, fds: tuple[int, ...] = ()) -> bool:
        """Whether the kernel has it. Raises nothing. `data`: a message without a line end."""
        framed = b"%d %b" % (len(data), data) if self._is_counted else data + self._end
        until = time.monotonic() + wait
        for _ in range(2):  # the receiver may have started again
            sock = self._connected()
            if sock is None:
                return False
            try:
                return self._send(sock, framed, until)
            except OSError as error:
                self.why = os.strerror(error.errno or 0)
                self._drop()
                if not self._is_connected:
                    return False
                self._retry_at = 0.0
        return False

    def _connect(self) -> socket.socket:
        self._is_connected = False
        self._rest = b""
        made = moved_up(connecting(self._address, socket.SOCK_STREAM))
        if isinstance(self._address, str):
            return made  # it is connected at once, or not at all
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNCONFIRMED_MS)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        has_room(made, FIRST_WAIT)
        return made

    def _send(self, sock: socket.socket, framed: bytes, until: float) -> bool:
        """Raises OSError if the connection is over."""
        if not self._is_there(sock, until):
            self.why = "it does not accept the connection"
            return False
        if not self._push(sock, until):
            self.why = "it reads too slowly"
            return False
        self._rest = framed
        if not self._push(sock, until) and len(self._rest) == len(framed):
            self._rest = b""
            self.why = "it reads too slowly"
            return False
        return True

    def _is_there(self, sock: socket.socket, until: float) -> bool:
        if not self._is_connected:
            if not has_room(sock, max(0.0, until - time.monotonic())):
                return False
            if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
            self._is_connected = True
        try:
            while sock.recv(4096):
                pass  # a receiver has nothing to say
        except BlockingIOError:
            return True
        raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _push(self, sock: socket.socket, until: float) -> bool:
        """Whether all that is begun was taken."""
        while self._rest:
            try:
                self._rest = self._rest[sock.send(self._rest, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                left = until - time.monotonic()
                if left <= 0 or not has_room(sock, left):
                    return False
        return True
