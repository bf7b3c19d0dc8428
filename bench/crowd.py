"""What an ordinary client notices of thousands of slow ones, beside nginx with gunicorn.

An ordinary client asks for a small page of an application, 200 times a second on four kept connections,
alone at first. Then the same while 2,000 clients send their headers byte by byte, 2,000 upload slowly and
2,000 read a page of 256 KiB slowly; then with 10,000 idle connections and 100 new ones a second as well. The
figures are its 99th percentiles, and their ratio to the first one.

Servers have their own time limits for headers and bodies: whom they disconnect by these comes again at once.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import apps, compare, report, servers

SLOW = 2_000
IDLE = 10_000
NEW = 100
RATE = 200
CONNECTIONS = 4
TARGET = 2.0
SETTLE = 3.0
"""Seconds after the crowd has come."""

GUNICORN_BEHIND_NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 19000; }}
http {{
    access_log {folder}/access.log combined;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_header_timeout 60s;
    upstream app {{ server 127.0.0.1:{behind}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

REQUEST = b"GET / HTTP/1.1\r\nHost: ordinary\r\n\r\n"


def nginx_with_gunicorn(place: Path) -> list[servers.Server]:
    """Two servers, of which the second is the one that clients know."""
    behind = servers.gunicorn(compare.own_folder(place, "gunicorn"), "bench.apps:crowd")
    folder = compare.own_folder(place, "nginx")
    front = servers.nginx(folder, place)
    text = GUNICORN_BEHIND_NGINX.format(folder=folder, behind=behind.port, port=front.port)
    (folder / "nginx.conf").write_text(text)
    front.name, front.notes = "nginx + gunicorn", ["nginx.conf:", *text.splitlines()]
    return [behind, front]


@contextlib.contextmanager
def crowd(port: int, slow: int, idle: int, new: int, cores: set[int]) -> Iterator[list[str]]:
    """They are there meanwhile; the list holds what became of them afterwards."""
    said: list[str] = []
    command = [sys.executable, "-m", "bench.crowd_clients", *map(str, (port, slow, idle, new))]
    command = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *command] if cores else command
    with subprocess.Popen(
        command, cwd=servers.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("the slow clients did not come")
            yield said
            said.append(process.communicate("", timeout=60)[0].strip())
        finally:
            process.kill()


def ordinary(port: int, seconds: float) -> list[float]:
    """Seconds that each response took, sorted."""
    took: list[float] = []
    with contextlib.ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(CONNECTIONS)
        ]
        due = end = time.perf_counter()
        end += seconds
        while due < end:
            for sock in socks:
                due += 1 / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                began = time.perf_counter()
                sock.sendall(REQUEST)
                answer = sock.recv(65536)
                while not answer.endswith(apps.HELLO):
                    more = sock.recv(65536)
                    if not more:
                        raise ConnectionError(f"an ordinary client got {answer!r}")
                    answer += more
                took.append(time.perf_counter() - began)
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[int(0.99 * len(took))]


def case(pace: compare.Pace) -> None:
    """p99 of an ordinary client, alone, beside 6,000 slow clients, and beside these, 10,000 idle ones and 100
    new ones a second; 8 threads"""
    seconds = float(pace.rounds * pace.seconds)
    with compare.workplace() as place:
        chosen = [servers.halfsync(compare.own_folder(place, "halfsync"), "bench.apps:crowd")]
        if len(compare.say_missing(["nginx", "gunicorn"])) == 2:
            chosen += nginx_with_gunicorn(place)
        for server in chosen:
            server.cores = pace.servers_core
        rows = []
        verdicts = []
        with compare.running(chosen, "/", apps.HELLO) as up:
            for server in up:
                if server.name != "gunicorn":
                    figures, said = measured(server, seconds, pace.load_core)
                    rows.append([server.name, *said])
                    if server.name == "halfsync":
                        verdicts = [figure / figures[0] for figure in figures[1:]]
        print()
        heads = ["", "alone", "slow clients", "", "and idle and new ones", ""]
        print(report.table(heads, rows))
        print()
        for what, ratio in zip(("with slow clients", "with idle and new ones too"), verdicts, strict=False):
            print(report.verdict(f"p99 {what} / alone", ratio, TARGET, at_least=False))


def measured(
    server: servers.Server,
    seconds: float,
    cores: set[int],
    slow: int = SLOW,
    idle: int = IDLE,
    new: int = NEW,
) -> tuple[list[float], list[str]]:
    """The p99 of each setting in seconds; and cells of a table."""
    figures = [p99(ordinary(server.port, seconds))]
    cells = [report.milliseconds(figures[0])]
    for there in ((slow, 0, 0), (slow, idle, new)):
        with crowd(server.port, *there, cores) as said:
            time.sleep(SETTLE)
            figures.append(p99(ordinary(server.port, seconds)))
        print(f"  {server.name}: {said[0]}")
        cells += [report.milliseconds(figures[-1]), f"x {figures[-1] / figures[0]:.1f}"]
    return figures, cells
