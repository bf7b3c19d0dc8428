"""Faults that are clients of HTTP/2: as those of crowds.py, nothing is promised to them."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from faults.run import Scene
from faults.slow_clients import Work, connect, crowd
from faults.table import fault

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
KINDS = (*range(10), 16, 0x42)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _get(stream: int, path: str) -> bytes:
    fields = ((":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a"))
    block = b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields
    )
    return _frame(1, 5, stream, block)


def _client(port: int, speak: Callable[[socket.socket], None]) -> Work:
    def work(_goes_on: Callable[[], bool]) -> None:
        with connect(port) as sock:
            sock.sendall(PREFACE + _frame(4, 0, 0))
            speak(sock)

    return work


@fault(harmless=True)
def http2_resets(scene: Scene) -> None:
    """Twenty clients of HTTP/2 that ask and take it back at once, until the server has enough of them."""

    def speak(sock: socket.socket) -> None:
        for stream in range(1, 2001, 2):
            sock.sendall(_get(stream, f"/stream?n={stream}&size=50000") + _frame(3, 0, stream, b"\0\0\0\x08"))

    crowd(scene, _client(scene.server.port, speak), 20)


@fault(harmless=True)
def http2_noise(scene: Scene) -> None:
    """Twenty clients of HTTP/2 that send requests, and random frames of every kind between them."""

    def speak(sock: socket.socket) -> None:
        for stream in range(1, 101, 2):
            sock.sendall(_get(stream, "/files/small-1"))
            if random.random() < 0.3:
                payload = random.randbytes(random.randrange(40))
                sock.sendall(
                    _frame(random.choice(KINDS), random.randrange(256), random.randrange(9), payload)
                )
        while sock.recv(65536):
            pass

    crowd(scene, _client(scene.server.port, speak), 20)
