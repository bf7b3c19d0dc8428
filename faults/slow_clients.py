"""Clients beside the load: many at once, and slow ones."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from faults.run import Aside, Scene

CROWD = 40
STEP = 0.02

Work = Callable[[Callable[[], bool]], None]


def connect(port: int, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(1.0)  # so that a client of whom nothing is read notices when its fault is over
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect(("127.0.0.1", port))
    return sock


def crowd(scene: Scene, work: Work, count: int = CROWD) -> None:
    with Aside([work] * count):
        scene.lasts(scene.seconds)


def drip(port: int, start: bytes, piece: bytes) -> Work:
    """`start` at once, then `piece` again and again, until the server has enough."""

    def work(goes_on: Callable[[], bool]) -> None:
        with connect(port) as sock:
            sock.sendall(start)
            while goes_on():
                sock.sendall(piece)
                time.sleep(STEP)

    return work


def drip_heads(port: int) -> Work:
    return drip(port, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y")
