"""Streams of ASGI applications that last: uploads that are read while they come, and server-sent events.

Rates alone say little of them, so processor time and memory are measured, of all processes of a server.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench import asgi_apps, compare, processes, report
from bench.asgi_cases import chosen_servers
from bench.compare import Pace
from bench.idle import IP_BIND_ADDRESS_NO_PORT
from bench.servers import Server

APP = "bench.asgi_apps:streams"
MIB = 1024 * 1024
UPLOAD = 100
"""MiB."""
STREAMS = 10_000
SPARE = 2000
"""Descriptors that the harness and the server need for other things."""
OPEN_WITHIN = 60.0
"""Seconds for all streams to begin."""
CONNECT_WITHIN = 2.0
"""Seconds, for one connection."""


@dataclass
class Cost:
    """Of a server's processes, between two moments."""

    seconds: float = 0.0
    processor: float = 0.0
    memory: int = 0  # bytes by which it has grown at most


@contextlib.contextmanager
def cost_of(server: Server) -> Iterator[Cost]:
    """What happens within costs this; it is known afterwards."""
    cost = Cost()
    pids = [server.pid, *processes.children(server.pid)]
    memory, processor = _memory(pids), _processor(pids)
    began = time.monotonic()
    yield cost
    cost.seconds = time.monotonic() - began
    cost.processor = _processor(pids) - processor
    cost.memory = max(cost.memory, _memory(pids) - memory)


def _memory(pids: list[int]) -> int:
    return sum(map(processes.resident_bytes, pids))


def _processor(pids: list[int]) -> float:
    return sum(map(processes.processor_seconds, pids))


@contextlib.contextmanager
def _running(pace: Pace) -> Iterator[list[Server]]:
    with (
        compare.workplace() as place,
        compare.running(chosen_servers(place, pace, APP), "/", asgi_apps.HELLO) as up,
    ):
        os.sched_setaffinity(0, pace.load_core)
        yield up


def uploads(pace: Pace) -> None:
    """a request body of 100 MiB, read chunk by chunk, one client"""
    rows = []
    with _running(pace) as up:
        for server in up:
            upload(server, 8)
            costs = [upload(server, UPLOAD) for _ in range(pace.rounds)]
            best = min(costs, key=lambda cost: cost.processor)
            speed = UPLOAD / min(cost.seconds for cost in costs)
            grown = max(cost.memory for cost in costs) / MIB
            rows.append([server.name, f"{speed:,.0f} MiB/s", f"{best.processor:.2f} s", f"{grown:.1f} MiB"])
    print()
    print(report.table(["", "throughput", "processor time", "memory grows by"], rows))


def upload(server: Server, size: int) -> Cost:
    """`size` in MiB. Raises ConnectionError if the application did not get them all."""
    block = bytes(MIB)
    head = f"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {size * MIB}\r\n\r\n"
    pids = [server.pid, *processes.children(server.pid)]
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection, cost_of(server) as cost:
        memory = _memory(pids)
        connection.sendall(head.encode())
        for number in range(size):
            connection.sendall(block)
            if number % 8 == 0:
                cost.memory = max(cost.memory, _memory(pids) - memory)
        answer = b""
        while b"\r\n%d\n" % (size * MIB) not in answer:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError(f"{server.name} gave {answer!r}")
            answer += data
    return cost


def events(pace: Pace) -> None:
    """10,000 streams of server-sent events, one event a second each, in one worker"""
    count = min(STREAMS, _allowed())
    if count < STREAMS:
        print(f"  only {count:,} streams: the hard limit of open files (ulimit -Hn) allows no more")
    with _running(pace) as up:
        rows = [_row(server, count, max(5, pace.rounds * pace.seconds)) for server in up]
    print()
    head = ["", "streams", "events/s", "processor", "for each event", "memory of each stream"]
    print(report.table(head, rows))


def _row(server: Server, count: int, seconds: int) -> list[str]:
    crowd = Crowd(server.port)
    try:
        with cost_of(server) as opening:
            crowd.open(count)
        with cost_of(server) as cost:
            received = crowd.listen(seconds)
        held = crowd.held
    finally:
        crowd.close()
    each = cost.processor / received * 1e6 if received else 0.0
    memory = (opening.memory + cost.memory) / max(1, held) / 1024
    return [
        server.name,
        f"{held:,}",
        f"{received / cost.seconds:,.0f}",
        f"{cost.processor / cost.seconds:.0%}",
        f"{each:.0f} us",
        f"{memory:.1f} KiB",
    ]


def _allowed() -> int:
    """Raise the limit of open files as far as it goes; how many streams it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, STREAMS + SPARE) if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit - SPARE


class Crowd:
    """Clients that listen to events."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}

    @property
    def held(self) -> int:
        return len(self._sockets)

    def open(self, count: int) -> None:
        """All of them; or those that have their first event within OPEN_WITHIN."""
        until = time.monotonic() + OPEN_WITHIN
        begun: set[int] = set()
        while len(begun) < count:
            if time.monotonic() > until:
                for fd in set(self._sockets) - begun:
                    self._sockets.pop(fd).close()
                return
            for _ in range(min(200, count - len(self._sockets))):
                if not self._connect(len(self._sockets)):
                    break
            begun.update(self._take(0.05))

    def _connect(self, number: int) -> bool:
        """Eight source addresses, so that ports are plenty. False: the server does not accept now."""
        one = socket.socket()
        one.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        one.bind((f"127.0.0.{2 + number % 8}", 0))
        one.settimeout(CONNECT_WITHIN)
        try:
            one.connect(("127.0.0.1", self._port))
        except TimeoutError:
            one.close()
            return False
        one.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        one.setblocking(False)
        self._sockets[one.fileno()] = one
        self._epoll.register(one, select.EPOLLIN)
        return True

    def listen(self, seconds: float) -> int:
        """How many events came."""
        until = time.monotonic() + seconds
        received = 0
        while (left := until - time.monotonic()) > 0:
            received += len(self._take(left))
        return received

    def _take(self, timeout: float) -> list[int]:
        """Who got something, which is an event each."""
        found = []
        for fd, _ in self._epoll.poll(timeout, 1024):
            if self._sockets[fd].recv(65536):
                found.append(fd)
            else:
                self._epoll.unregister(fd)
                self._sockets.pop(fd).close()
        return found

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._epoll.close()
