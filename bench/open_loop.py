"""A client that sends requests at a steady rate, whatever becomes of them (an open loop, as wrk2 has).

wrk waits for each response before it sends the next request, so it never sends more than the server takes,
and shows no overload. Users who do not know of each other do. Each request here is due at a time of its own,
from which its time counts, also if this client is late to send it.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")
LEFT_OVER = 30.0
"""Seconds in which the last responses have to come."""


@dataclass
class Seen:
    """What came of the requests of one run. Seconds are from when each was due."""

    seconds: float = 0.0
    sent: int = 0
    served: list[float] = field(default_factory=list)  # sorted
    refused: list[float] = field(default_factory=list)  # sorted: 503
    others: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Responses a second that were of use."""
        return len(self.served) / self.seconds


def part(sorted_seconds: list[float], share: float) -> float:
    """A percentile; nan if there are none."""
    return sorted_seconds[int(share * len(sorted_seconds))] if sorted_seconds else float("nan")


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: open-loop\r\n\r\n".encode()


class _Connection:
    __slots__ = ("due", "inbox", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.sock.setblocking(False)
        self.inbox = b""
        self.due = 0.0

    def received(self) -> int | None:
        """The status of its response, if that is complete; 0: it was closed."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            return 0
        self.inbox += data
        head, end, body = self.inbox.partition(b"\r\n\r\n")
        if not end:
            return None
        length = _LENGTH.search(head + b"\r\n")
        if length is None or len(body) < int(length[1]):
            return None
        self.inbox = b""
        return int(head[9:12])


class OpenLoop:
    def __init__(self, port: int, path: str = "/", *, seed: int = 1) -> None:
        self._port = port
        self._request = request(path)
        self._random = random.Random(seed)
        self._idle: list[_Connection] = []
        self._waiting: dict[int, _Connection] = {}
        self._poll = select.epoll()

    def close(self) -> None:
        for connection in (*self._idle, *self._waiting.values()):
            connection.sock.close()
        self._poll.close()

    def run(self, rate: float, seconds: float, *, even: bool = False, skip: float = 0.0) -> Seen:
        """`even`: at equal distances, and not at random as requests of independent users come. Those of the
        first `skip` seconds do not count."""
        seen = Seen(seconds)
        due = time.perf_counter()
        counts_from = due + skip
        end = counts_from + seconds
        while due < end:
            now = time.perf_counter()
            while due <= min(now, end):
                self._send(due, seen)
                due += 1 / rate if even else self._random.expovariate(rate)
            self._read(max(0.0, min(due, end) - now), seen, counts_from)
        while self._waiting and time.perf_counter() < end + LEFT_OVER:
            self._read(0.1, seen, counts_from)
        seen.served.sort()
        seen.refused.sort()
        return seen

    def _send(self, due: float, seen: Seen) -> None:
        connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = _Connection(self._port)
            self._poll.register(connection.sock, select.EPOLLIN)
        connection.due = due
        self._waiting[connection.sock.fileno()] = connection
        with contextlib.suppress(OSError):  # its next event tells
            connection.sock.send(self._request)

    def _read(self, wait: float, seen: Seen, counts_from: float) -> None:
        for fd, _ in self._poll.poll(wait):
            connection = self._waiting.get(fd)
            status = 0 if connection is None else connection.received()
            if status is None:
                continue
            if not status:
                self._ended(fd, seen)
                continue
            assert connection is not None
            del self._waiting[fd]
            self._idle.append(connection)
            now = time.perf_counter()
            took = now - connection.due
            if connection.due < counts_from:
                continue
            seen.sent += 1
            if status == 503:
                seen.refused.append(took)
            elif status == 200:
                seen.served.append(took)
            else:
                seen.others[str(status)] += 1

    def _ended(self, fd: int, seen: Seen) -> None:
        connection = self._waiting.pop(fd, None)
        if connection is None:
            connection = next(one for one in self._idle if one.sock.fileno() == fd)
            self._idle.remove(connection)
        else:
            seen.others["closed"] += 1
        self._poll.unregister(fd)
        connection.sock.close()
