"""Faults that are clients: slow ones, and ones that send what is no request.

Nothing is promised to them except that they come to an end; what counts is what the load sees meanwhile.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

from faults.requests import LARGE
from faults.run import Scene
from faults.slow_clients import STEP, connect, crowd, drip, drip_heads
from faults.table import fault


@fault(harmless=True)
def slow_heads(scene: Scene) -> None:
    """Forty clients whose heads come byte by byte and never end."""
    crowd(scene, drip_heads(scene.server.port))


@fault(harmless=True)
def long_slow_heads(scene: Scene) -> None:
    """Forty clients whose heads of many fields come byte by byte behind the first 50 KB."""
    lines = b"".join(b"X-%04d: %s\r\n" % (number, b"v" * 580) for number in range(85))
    crowd(scene, drip(scene.server.port, b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"Y: ", b"y"))


@fault(harmless=True)
def slow_uploads(scene: Scene) -> None:
    """Forty clients whose bodies come byte by byte."""
    head = b"POST /post?n=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    crowd(scene, drip(scene.server.port, head, b"x"))


@fault(quick=True, harmless=True)
def tiny_chunks(scene: Scene) -> None:
    """Two clients that send chunks of one byte as fast as they can."""
    head = b"POST /never?n=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    def work(goes_on: Callable[[], bool]) -> None:
        with connect(scene.server.port) as sock:
            sock.sendall(head)
            while goes_on():
                sock.sendall(b"1\r\nx\r\n" * 10_000)

    crowd(scene, work, 2)


@fault(harmless=True)
def slow_readers(scene: Scene) -> None:
    """Forty clients that pipeline requests for large responses and read a few bytes a second."""
    number = "files/large-1"

    def work(goes_on: Callable[[], bool]) -> None:
        with connect(scene.server.port, 4096) as sock:
            for target in (number, f"get?n=1&size={LARGE}", f"stream?n=1&size={LARGE}"):
                sock.sendall(f"GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            while goes_on() and sock.recv(1):
                time.sleep(STEP)

    crowd(scene, work)


@fault(quick=True, harmless=True)
def leaving_clients(scene: Scene) -> None:
    """Twenty clients that ask, and reset the connection at some moment of the response."""

    def work(_goes_on: Callable[[], bool]) -> None:
        chance = random.Random()
        with connect(scene.server.port) as sock:
            target = chance.choice(["files/large-2", "stream?n=1&size=50000", "get?n=1&size=20000"])
            sock.sendall(f"GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * chance.randrange(1, 4))
            time.sleep(chance.random() * STEP)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    crowd(scene, work, 20)


@fault(quick=True, harmless=True)
def noise(scene: Scene) -> None:
    """Twenty clients that send random bytes, halves of requests and wrong framings."""
    starts = [
        b"",
        b"GET / HTTP/1.1\r\n",
        b"POST /post?n=1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /post?n=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET /files/small-1 HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]

    def work(_goes_on: Callable[[], bool]) -> None:
        chance = random.Random()
        with connect(scene.server.port) as sock:
            sock.sendall(chance.choice(starts) + chance.randbytes(chance.randrange(2000)))
            time.sleep(STEP)

    crowd(scene, work, 20)
