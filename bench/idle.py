"""How much memory an idle kept connection costs the process that holds it.

Each connection has asked for one file and got it, and then says nothing. What grows is the resident
memory of the process that holds the connections: halfsync's pump, nginx's worker. The kernel's own
memory for a socket is the same for both and is not in these figures.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable

from bench import processes, report
from bench.compare import running
from bench.servers import Server, unverified

WANTED = 10_000
WARM = 500  # opened before the count begins: the first ones pay for tables and arenas
SPARE = 500  # descriptors that the harness and the server need for other things
TARGET = 2.0  # KiB for each
PUMP = "halfsync pump"
IP_BIND_ADDRESS_NO_PORT = 24


def idle_connections(
    servers: list[Server],
    path: str,
    body: bytes,
    wanted: int = WANTED,
    target: float = TARGET,
    ask: Callable[[Server, str], bytes] | None = None,
) -> None:
    """Fill each server in turn and print what a connection cost. `target` in KiB. `ask` gives the bytes that
    a connection begins with, and after which it gets `body`."""
    count = min(wanted, _allowed())
    if count < wanted:
        print(f"  only {count:,} connections: the hard limit of open files (ulimit -Hn) allows no more")
    rows = []
    verdict = "  NOT MET  halfsync did not start"
    with running(servers, path, body) as up:
        for server in up:
            each, held = _fill(server, (ask or _request)(server, path), body, count)
            rows.append([server.name, f"{held:,}", f"{each / 1024:.2f} KiB"])
            if server.name == "halfsync":
                verdict = report.verdict("one connection", each / 1024, target, " KiB", at_least=False)
    print()
    print(report.table(["", "connections held", "memory of each"], rows))
    print()
    print(verdict)


def holder(server: Server) -> int:
    """The process that holds the client connections."""
    if server.name == "halfsync":
        return processes.find_child(server.pid, PUMP)
    return processes.children(server.pid)[0]


def _allowed() -> int:
    """Raise the limit of open files as far as it goes; how many connections it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED + WARM + SPARE
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit - WARM - SPARE


def _request(server: Server, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()


def _fill(server: Server, request: bytes, body: bytes, count: int) -> tuple[float, int]:
    """Bytes for each connection, and how many connections the server truly held at the end."""
    pid = holder(server)
    held: list[socket.socket] = []
    try:
        held += [_open(server, request, body, number) for number in range(WARM)]
        time.sleep(1)
        before, open_before = processes.resident_bytes(pid), processes.open_descriptors(pid)
        held += [_open(server, request, body, number) for number in range(count)]
        time.sleep(1)
        after, open_after = processes.resident_bytes(pid), processes.open_descriptors(pid)
    finally:
        for connection in held:
            connection.close()
    return (after - before) / count, open_after - open_before


def _open(server: Server, request: bytes, body: bytes, number: int) -> socket.socket:
    """A connection that has had one response. Eight source addresses, so that ports are plenty."""
    port = server.port
    connection = socket.socket()
    connection.settimeout(10)
    connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    connection.bind((f"127.0.0.{2 + number % 8}", 0))
    connection.connect(("127.0.0.1", port))
    if server.scheme == "https":
        context = unverified()
        if server.http2:
            context.set_alpn_protocols(["h2"])
        connection = context.wrap_socket(connection)
    connection.sendall(request)
    answer = bytearray()
    while body not in answer:
        data = connection.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed connection {number:,} without the whole answer")
        answer += data
    return connection
