"""What clients get of an application at twice the load that it can take.

For handlers of several lengths: first it is counted how many requests the application can handle (for clients
that wait for their responses, twice as many as there are threads). At half of that rate, in an open loop, a
response takes its normal time. Then comes twice that rate. What is judged is how much longer than normal the
served wait, and that no fewer are served.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from dataclasses import dataclass

from bench import apps, compare, open_loop, report, servers
from bench.open_loop import OpenLoop, Seen

SERVED_WITHIN = 1.5
"""Times the normal one: the 95th percentile."""
GOODPUT = 0.9
"""Of what it can take."""
NOTICED = 2.5
"""Seconds, and four times what handlers take: until an overload is known as one."""
LEAST_SECONDS = 2.0
MANY = 20
"""Times what a handler takes: so long is measured at least."""


@dataclass(frozen=True)
class Row:
    what: str
    query: str
    takes: float  # seconds
    threads: int
    workers: int = 1


ROWS = (
    Row("sleeps 2 ms", "sleep", 0.002, 4),
    Row("sleeps 5 ms", "sleep", 0.005, 4),
    Row("sleeps 20 ms", "sleep", 0.02, 8),
    Row("sleeps 20 ms, 1 thread", "sleep", 0.02, 1),
    Row("sleeps 100 ms", "sleep", 0.1, 8),
    Row("sleeps 500 ms", "sleep", 0.5, 8),
    Row("computes 20 ms, 1 thread", "compute", 0.02, 1),
    Row("computes 20 ms", "compute", 0.02, 8),
    Row("computes 20 ms, 4 workers", "compute", 0.02, 1, workers=4),
)


@dataclass(frozen=True)
class Found:
    capacity: float  # requests a second
    normal: float  # seconds, the median
    over: Seen

    @property
    def median(self) -> float:
        return open_loop.part(self.over.served, 0.5) / self.normal

    @property
    def p95(self) -> float:
        return open_loop.part(self.over.served, 0.95) / self.normal

    @property
    def goodput(self) -> float:
        return self.over.goodput / self.capacity


def capacity(port: int, path: str, clients: int, seconds: float) -> float:
    """Responses a second for so many clients, each of which waits for its response."""
    request = open_loop.request(path)
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        socks = {}
        for _ in range(clients):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            socks[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
            sock.sendall(request)
        count, end = 0, time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            for fd, _ in poll.poll(left):
                count += socks[fd].recv(65536).startswith(b"HTTP/1.1 200 ")
                socks[fd].sendall(request)
    return count / seconds


def measured(server: servers.Server, row: Row, seconds: float) -> Found:
    path = f"/?{row.query}={row.takes}"
    seconds = max(seconds, MANY * row.takes)
    with contextlib.closing(OpenLoop(server.port, path)) as load:
        threads = row.threads * row.workers
        can = capacity(server.port, path, 2 * threads, max(LEAST_SECONDS, MANY * row.takes / 2))
        normal = load.run(can / 2, seconds, skip=0.5 + 2 * row.takes)
        over = load.run(2 * can, seconds, skip=NOTICED + 4 * row.takes)
    return Found(can, open_loop.part(normal.served, 0.5), over)


def cells(row: Row, found: Found) -> list[str]:
    over = found.over
    refused = len(over.refused) / max(1, over.sent)
    return [
        row.what,
        f"{found.capacity:,.0f}",
        report.milliseconds(found.normal),
        f"x {found.median:.2f}",
        f"x {found.p95:.2f}",
        f"{refused:.0%}",
        report.milliseconds(open_loop.part(over.refused, 0.5)),
        report.milliseconds(open_loop.part(over.refused, 0.95)),
        f"{found.goodput:.0%}",
    ]


def case(pace: compare.Pace) -> None:
    """an application that sleeps, or computes, at twice the load that it can take: an open loop, requests at
    random"""
    seconds = float(pace.rounds * pace.seconds)
    rows, verdicts = [], []
    with compare.workplace() as place:
        for number, row in enumerate(ROWS):
            folder = compare.own_folder(place, str(number))
            options = ("--workers", str(row.workers))
            server = servers.halfsync(folder, "bench.apps:taking", threads=row.threads, options=options)
            with compare.running([server], "/", apps.HELLO) as up:
                if not up:
                    continue
                found = measured(server, row, seconds)
            rows.append(cells(row, found))
            verdicts.append(
                report.verdict(f"{row.what}: served, p95", found.p95, SERVED_WITHIN, at_least=False)
            )
            verdicts.append(report.verdict(f"{row.what}: goodput", found.goodput, GOODPUT, at_least=True))
    print()
    heads = ["", "req/s it can", "normal", "served at x 2", "p95", "503", "after", "p95", "goodput"]
    print(report.table(heads, rows))
    print()
    print("\n".join(verdicts))
