"""The clients of bench/crowd.py, in a process of their own: slow ones, idle ones, and new ones all the time.

`python -m bench.crowd_clients PORT SLOW IDLE NEW`: SLOW clients of each kind, IDLE connections that have had
a response and say nothing, NEW connections a second with a request each. It prints a line when all are
connected, and what became of them when its standard input ends.

One thread moves all slow clients, one step of each a second, spread over the second. Who is disconnected
comes again.
"""

from __future__ import annotations

import resource
import select
import socket
import sys
import threading
import time
from collections import Counter

UPLOAD = 100_000
PIECE = b"x" * 512
READ = 2048
STEPS = 100
"""Groups of slow clients; one is moved every 10 ms."""
ADDRESSES = 200
"""Source addresses, so that ports are plenty."""
IP_BIND_ADDRESS_NO_PORT = 24

HEAD = b"GET / HTTP/1.1\r\nHost: crowd\r\nX-Slow: "
POST = b"POST / HTTP/1.1\r\nHost: crowd\r\nContent-Length: %d\r\n\r\n" % UPLOAD
LARGE = b"GET /large HTTP/1.1\r\nHost: crowd\r\n\r\n"
SMALL = b"GET / HTTP/1.1\r\nHost: crowd\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: crowd\r\nConnection: close\r\n\r\n"


class Slow:
    """One client, that comes again when it is done or disconnected."""

    def __init__(self, port: int, number: int, kind: str) -> None:
        self._port = port
        self._number = number
        self.kind = kind
        self._sock: socket.socket | None = None
        self.begin()

    def begin(self) -> None:
        self.close()
        self._sock = connect(self._port, self._number, 4096 if self.kind == "reading" else 0)
        self._sock.sendall({"head": HEAD, "upload": POST, "reading": LARGE}[self.kind])
        self._sock.setblocking(False)
        self._left = {"head": 1 << 30, "upload": UPLOAD, "reading": 1 << 30}[self.kind]

    def step(self) -> str:
        """What became of it: "", "done" or "ended" (by the server)."""
        assert self._sock is not None
        try:
            if self.kind == "reading":
                return "" if self._sock.recv(READ) else "ended"
            if self.kind == "head":
                self._left -= self._sock.send(b"y")
            else:
                self._left -= self._sock.send(PIECE[: self._left])
            if self._left <= 0:
                return "done"
            if self._sock.recv(4096, socket.MSG_PEEK) is not None:
                return "ended"  # a response before the request is complete, or the end
        except BlockingIOError:
            return ""
        except OSError:
            return "ended"
        return ""

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()


def connect(port: int, number: int, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(30)
    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((f"127.0.0.{2 + number % ADDRESSES}", 0))
    sock.connect(("127.0.0.1", port))
    return sock


def idle(port: int, number: int) -> socket.socket:
    """A connection that has had a response."""
    sock = connect(port, number)
    sock.sendall(SMALL)
    sock.recv(4096)
    return sock


class New(threading.Thread):
    """So many connections a second, each with one request."""

    def __init__(self, port: int, rate: int, outcomes: Counter[str]) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._rate = rate
        self._outcomes = outcomes

    def run(self) -> None:
        number = 0
        due = time.monotonic()
        while True:
            due += 1 / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
            number += 1
            try:
                with connect(self._port, number) as sock:
                    sock.sendall(LAST)
                    answer = b""
                    while data := sock.recv(4096):
                        answer += data
                self._outcomes["new: " + ("served" if answer.startswith(b"HTTP/1.1 200") else "failed")] += 1
            except OSError:
                self._outcomes["new: failed"] += 1


def main() -> None:
    port, slow, idle_count, rate = map(int, sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    outcomes: Counter[str] = Counter()
    held = [idle(port, number) for number in range(idle_count)]
    clients = [Slow(port, number, kind) for kind in ("head", "upload", "reading") for number in range(slow)]
    if rate:
        New(port, rate, outcomes).start()
    groups = [clients[first::STEPS] for first in range(STEPS)]
    print("ready", flush=True)
    while True:
        for group in groups:
            began = time.monotonic()
            for client in group:
                if said := client.step():
                    outcomes[f"{client.kind}: {said}"] += 1
                    client.begin()
            if select.select([sys.stdin], [], [], max(0.0, began + 1 / STEPS - time.monotonic()))[0]:
                alive = sum(1 for sock in held if is_open(sock))
                print(
                    f"{alive} idle; "
                    + ", ".join(f"{what} {count}" for what, count in sorted(outcomes.items()))
                )
                return


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
