"""`environ["halfsync.tunnel"]`: how an application connects its client to a socket, after an upgrade."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from typing import Any

from halfsync.http.response import Head, Replier, head_of
from halfsync.system.primitives import os, socket
from halfsync.system.temporary_files import out_of_reach


class TunnelResponse:
    """What the application returns. Holds a descriptor of its own, so the application may close its
    socket."""

    def __init__(self, head: Head, descriptor: int) -> None:
        self._head = head
        self._descriptor = descriptor

    def hand_over(self, replier: Replier) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        replier.tunnel(self._head, descriptor)

    def __iter__(self) -> Iterator[bytes]:
        """Middleware that iterates a response can't pass on what this is."""
        raise TypeError("the response that halfsync.tunnel made must be returned to the server as it is")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def may_switch(environ: dict[str, Any]) -> bool:
    """RFC 9110 7.8: whether the request asks for another protocol, in a version that has upgrades."""
    if environ["SERVER_PROTOCOL"] != "HTTP/1.1" or not environ.get("HTTP_UPGRADE"):
        return False
    options = environ.get("HTTP_CONNECTION", "").lower().split(",")
    return "upgrade" in [option.strip(" \t") for option in options]


class TunnelMaker:
    """The callable in the environ of a request that may be upgraded."""

    def __init__(self, offered: str) -> None:
        """`offered`: what the client asks for, the value of its Upgrade."""
        self._offered = [one.strip(" \t") for one in offered.split(",")]

    def __call__(
        self, sock: socket.socket, fields: Iterable[tuple[str, str]] = (), protocol: str | None = None
    ) -> TunnelResponse:
        """Return what this gives, without having called start_response: the client gets a 101 with these
        fields, and is connected to the socket: a connected stream socket, one end of `socket.socketpair()` or
        a connection to another server. `protocol` is one of those that the client offers, by default the
        first.

        Raises ValueError, TypeError, or response.BadHead."""
        protocol = self._offered[0] if protocol is None else protocol
        if protocol not in self._offered:
            raise ValueError(f"the client offers {', '.join(self._offered)}, and not {protocol!r}")
        if hasattr(sock, "cipher"):
            raise TypeError("a tunnel needs a plain socket: what an SSLSocket encrypts, the server can't")
        if not stat.S_ISSOCK(os.fstat(sock.fileno()).st_mode) or sock.type != socket.SOCK_STREAM:
            raise TypeError("a tunnel needs a stream socket")
        return TunnelResponse(switching(protocol, list(fields)), out_of_reach(os.dup(sock.fileno())))


def switching(protocol: str, fields: list[tuple[str, str]]) -> Head:
    """The head of a 101. Raises response.BadHead."""
    lines = head_of("200 OK", fields).fields
    upgrade = f"Upgrade: {protocol}\r\nConnection: Upgrade\r\n".encode("latin-1")
    return Head(101, "Switching Protocols", upgrade + lines)
