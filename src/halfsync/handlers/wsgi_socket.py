"""`environ["gunicorn.socket"]`: the client's connection, for libraries that speak WebSocket by themselves.

simple-websocket, and with it Flask-Sock and Flask-SocketIO, take the socket of the server's connection out of
the environ, write a 101 to it, and talk. The connection is the pump's. So what they get is one end of a
socketpair: the header section that they write first becomes the head of a response, and what follows goes
through a tunnel (wsgi_tunnel.py, pump/tunnel.py), until the application returns.

The name is gunicorn's, because it is what these libraries look for: what they do at the end of a conversation
under that name, raise StopIteration, is known here (handlers/wsgi.py).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, ClassVar

from halfsync.handlers.wsgi_tunnel import switching
from halfsync.http.response import BadHead, Head, Replier
from halfsync.system.primitives import _thread, socket
from halfsync.system.temporary_files import out_of_reach

MAX_HEAD = 64 * 1024
"""Bytes of a header section."""


class _Process:
    """What is known of all of them."""

    conversing: ClassVar[set[UpgradeSocket]] = set()
    leaves: ClassVar = False  # the worker


class UpgradeSocket:
    """A socket, as far as such a library needs one. Until the 101 is written nothing can be read."""

    def __init__(self, replier: Callable[[], Replier]) -> None:
        """`replier`: gives that of the request. It is the calling thread's."""
        self._replier = replier
        self._thread = _thread.get_ident()
        self._head = bytearray()  # as far as it was written
        self._sock: socket.socket | None = None  # None: until the 101 is whole

    @property
    def has_client(self) -> bool:
        return self._sock is not None

    def send(self, data: bytes, flags: int = 0) -> int:
        if self._sock is not None:
            return self._sock.send(data, flags)
        head, end, rest = bytes(self._head + data).partition(b"\r\n\r\n")
        if not end:
            if len(head) > MAX_HEAD:
                raise OSError(errno.EMSGSIZE, f"a header section of more than {MAX_HEAD} bytes")
            self._head += data
            return len(data)
        sock = self._switch(head)
        if rest:
            sock.sendall(rest)
        return len(data)

    def sendall(self, data: bytes, flags: int = 0) -> None:
        view = memoryview(data)
        while view:
            view = view[self.send(bytes(view) if self._sock is None else view, flags) :]  # type: ignore[arg-type]

    def recv(self, size: int, flags: int = 0) -> bytes:
        return self._connected().recv(size, flags)

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()

    def __getattr__(self, name: str) -> Any:
        """All else that a socket has."""
        return getattr(self._connected(), name)

    def end(self) -> None:
        """The application has returned, and with that its conversation ends. A thread of its own that reads
        here still is woken."""
        _Process.conversing.discard(self)
        self.hang_up()
        self.close()

    def hang_up(self) -> None:
        if self._sock is not None:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by now
                pass

    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise OSError(errno.ENOTCONN, "the client is connected when the application has written its 101")
        return self._sock

    def _switch(self, head: bytes) -> socket.socket:
        """Respond with this head, and connect the client. Raises OSError."""
        if _thread.get_ident() != self._thread or (replier := self._replier()).begun:
            raise OSError(errno.ENOTCONN, "its request has a response already, or is another thread's")
        try:
            parsed = _parsed(head)
        except (BadHead, ValueError) as error:
            raise OSError(errno.EPROTO, f"gunicorn.socket is for a 101, and this is none: {error}") from None
        self._sock, theirs = socket.socketpair()
        _Process.conversing.add(self)
        replier.tunnel(parsed, out_of_reach(theirs.detach()))
        replier.soon()
        if _Process.leaves:
            # What the application writes now is still sent. When it reads, the client has ended.
            self._sock.shutdown(socket.SHUT_RD)
        return self._sock


def _parsed(head: bytes) -> Head:
    """Raises BadHead, or ValueError."""
    status, *lines = head.decode("latin-1").split("\r\n")
    if status.split(" ")[1:2] != ["101"]:
        raise ValueError(status)
    protocol, fields = "", []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(line)
        if name.lower() == "upgrade":
            protocol = value.strip()
        elif name.lower() != "connection":
            fields.append((name, value.strip()))
    if not protocol:
        raise ValueError("it has no Upgrade")
    return switching(protocol, fields)


def hang_up_all() -> None:
    """The worker leaves: who reads is told that nothing comes any more, so that it returns. Its client
    connects again, and talks to another worker."""
    _Process.leaves = True
    for one in list(_Process.conversing):
        one.hang_up()
