"""A load of WebSocket echoes: so many connections, each of which sends its next message when the last one has
come back. Run as a program of its own, so that it can have a core for itself; prints its outcome as JSON.

A client library would be most of what is measured: frames are made once, and of what comes back only the size
is looked at.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

HEAD = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MASK = b"\x11\x22\x33\x44"


def frame(payload: bytes) -> bytes:
    """A text, masked."""
    size = len(payload)
    masked = bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))
    if size < 126:
        return bytes((0x81, 0x80 | size)) + MASK + masked
    return b"\x81\xfe" + size.to_bytes(2, "big") + MASK + masked


class Echo:
    """One connection."""

    def __init__(self, port: int, sent: bytes, size: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(HEAD.encode())
        found = b""
        while not found.endswith(b"\r\n\r\n"):
            found += self._received()
        if not found.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"no WebSocket: {found[:100]!r}")
        self.sent = sent
        self.size = size + (2 if size < 126 else 4)
        self.socket.sendall(sent)
        self.missing = self.size
        while self.missing:
            self.missing -= len(self._received())
        self.missing = self.size
        self.since = 0.0

    def _received(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed a WebSocket")
        return data

    def begin(self, now: float) -> None:
        self.since = now
        self.socket.sendall(self.sent)

    def receive(self) -> bool:
        """Whether the message is back, whole."""
        self.missing -= len(self._received())
        if self.missing > 0:
            return False
        self.missing = self.size
        return True


def run(port: int, size: int, seconds: float, connections: int) -> dict[str, float]:
    sent = frame(b"x" * size)
    poll = select.epoll()
    echoes: dict[int, Echo] = {}
    for _ in range(connections):
        one = Echo(port, sent, size)
        echoes[one.socket.fileno()] = one
        poll.register(one.socket.fileno(), select.EPOLLIN)
    began = now = time.monotonic()
    used = time.process_time()
    for one in echoes.values():
        one.begin(now)
    count = 0
    took: list[float] = []
    while now < began + seconds:
        ready = poll.poll(1.0)
        now = time.monotonic()
        for descriptor, _ in ready:
            one = echoes[descriptor]
            if one.receive():
                count += 1
                took.append(now - one.since)
                one.begin(now)
    took.sort()
    return {
        "count": count,
        "seconds": now - began,
        "p99": took[len(took) * 99 // 100] if took else 0.0,
        "busy": (time.process_time() - used) / (now - began),
    }


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))))
