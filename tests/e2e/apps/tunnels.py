"""An application whose clients become something else than HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    tunnel = environ.get("halfsync.tunnel")
    if tunnel is None:
        start("426 Upgrade Required", [])
        return [b"Ask for an upgrade.\n"]
    if environ["PATH_INFO"] == "/to":  # another server's socket
        with socket.create_connection(("127.0.0.1", int(environ["QUERY_STRING"]))) as there:
            return handed_over(tunnel, there)
    if environ["PATH_INFO"] == "/wrong":
        with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            return handed_over(tunnel, datagrams)
    ours, theirs = socket.socketpair()
    threading.Thread(target=shout, args=[ours]).start()
    with theirs:
        return handed_over(tunnel, theirs, [("X-Said", "hello")], "shout")


def handed_over(tunnel: Callable[..., Iterable[bytes]], *arguments: Any) -> Iterable[bytes]:
    return tunnel(*arguments)


def shout(sock: socket.socket) -> None:
    """What comes, in upper case; and a last word at the end."""
    with sock, contextlib.suppress(OSError):
        while data := sock.recv(65536):
            sock.sendall(data.upper())
        sock.sendall(b"BYE")
