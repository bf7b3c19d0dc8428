"""HTTP/2: the cases, and the load generator h2load (of nghttp2), one thread of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import apps, compare, load, processes, report, servers
from bench.compare import Pace, own_folder
from bench.handshakes import make_public, over_tls
from bench.idle import holder, idle_connections
from bench.servers import Server

SMALL = 6 * 1024
PATHS = 1000
NGINX_KEEPS = 60
"""Seconds for which nginx does not look again at a file that it knows (open_file_cache_valid's default)."""
WARM_UP = 1  # seconds, before the first round


def many_connections(pace: Pace) -> None:
    """HTTP/2 in clear: 6 KB file, leased, 64 connections of one stream"""
    _file(pace, 64, 1, {"nginx": 1.2})


def many_streams(pace: Pace) -> None:
    """HTTP/2 in clear: 6 KB file, leased, one connection of 32 streams"""
    _file(pace, 1, 32, {"nginx": 1.2})


def many_paths(pace: Pace) -> None:
    """HTTP/2 in clear: 1,000 files of 6 KB, leased for a minute, in turn, one connection of 32 streams"""
    _file(pace, 1, 32, {"nginx": 1.0}, PATHS, lease=NGINX_KEEPS)


def tls_connections(pace: Pace) -> None:
    """HTTP/2 over TLS 1.3: 6 KB file, leased, 64 connections of one stream"""
    _file(pace, 64, 1, {"nginx": 0.9}, tls=True)


def tls_streams(pace: Pace) -> None:
    """HTTP/2 over TLS 1.3: 6 KB file, leased, one connection of 32 streams"""
    _file(pace, 1, 32, {"nginx": 0.9}, tls=True)


def application(pace: Pace) -> None:
    """HTTP/2 in clear: trivial WSGI application, one worker of 8 threads, 8 connections of 8 streams"""
    with compare.workplace() as place:
        app = "bench.apps:hello"
        chosen = [servers.halfsync(own_folder(place, "halfsync"), app, http2=True)]
        if compare.say_missing(["granian"]):
            for threads, name in ((8, "granian-8"), (None, "granian")):
                chosen.append(servers.granian(own_folder(place, name), app, threads, http2=True))
        _compare(chosen, pace, ["/"], apps.HELLO, (8, 8), {"granian-8": 1.0, "granian": 1.0})


def idle_memory(pace: Pace) -> None:
    """memory of 2,000 idle HTTP/2 connections in clear"""
    with compare.workplace() as place:
        body = make_public(place, SMALL)
        idle_connections(_in_clear(place, 1), "/file.html", body, wanted=2000, target=100.0, ask=_begin)


def idle_tls_memory(pace: Pace) -> None:
    """memory of 2,000 idle HTTP/2 connections over TLS"""
    with compare.workplace() as place:
        body = make_public(place, SMALL)
        chosen = over_tls(place, http2=True)
        idle_connections(chosen, "/file.html", body, wanted=2000, target=150.0, ask=_begin)


CASES: dict[str, Callable[[Pace], None]] = {
    "h2": many_connections,
    "h2-streams": many_streams,
    "h2-paths": many_paths,
    "h2-tls": tls_connections,
    "h2-tls-streams": tls_streams,
    "h2-wsgi": application,
    "h2-idle": idle_memory,
    "h2-tls-idle": idle_tls_memory,
}


@dataclass(frozen=True)
class Run:
    """One of h2load. `cost`: seconds of processor time for each request, of the process that holds the
    connections."""

    per_second: float
    failed: int
    cost: float


def read(text: str) -> tuple[int, float, int]:
    """What h2load printed: requests, requests a second, and how many of them failed. CannotLoad if that is
    not there."""
    rate = re.search(r"^finished in .*?, ([\d.]+) req/s", text, re.MULTILINE)
    counts = re.search(
        r"^requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored",
        text,
        re.MULTILINE,
    )
    codes = re.search(r"^status codes: \d+ 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx", text, re.MULTILINE)
    if not (rate and counts and codes):
        raise load.CannotLoad(f"h2load printed no figures:\n{text}")
    good, failed, errored = map(int, counts.groups())
    return good, float(rate[1]), failed + errored + sum(map(int, codes.groups()))


def _load(server: Server, pace: Pace, uris: Path, shape: tuple[int, int], seconds: int) -> Run:
    connections, streams = shape
    cores = ",".join(map(str, sorted(pace.load_core)))
    pid = holder(server)
    before = processes.processor_seconds(pid)
    done = subprocess.run(
        [
            *("taskset", "--cpu-list", cores, "h2load", "-t1", f"-c{connections}", f"-m{streams}"),
            *("-D", str(seconds), "-i", str(uris)),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    used = processes.processor_seconds(pid) - before
    if done.returncode:
        raise load.CannotLoad((done.stderr or done.stdout).strip())
    good, rate, failed = read(done.stdout)
    return Run(rate, failed, used / max(1, good))


def _in_clear(place: Path, lease: int) -> list[Server]:
    public = place / "public"
    options = ("--lease", str(lease))
    found = [servers.halfsync(own_folder(place, "halfsync"), str(public), options=options, http2=True)]
    if compare.say_missing(["nginx"]):
        found.append(servers.nginx(own_folder(place, "nginx"), public, http2=True))
    return found


def _file(
    pace: Pace,
    connections: int,
    streams: int,
    targets: dict[str, float],
    count: int = 1,
    *,
    tls: bool = False,
    lease: int = 1,
) -> None:
    with compare.workplace() as place:
        body = make_public(place, SMALL)
        paths = ["/file.html"]
        for number in range(1, count):
            (place / f"public/file-{number}.html").write_bytes(body)
            paths.append(f"/file-{number}.html")
        chosen = over_tls(place, http2=True) if tls else _in_clear(place, lease)
        _compare(chosen, pace, paths, body, (connections, streams), targets)


def _compare(
    chosen: list[Server],
    pace: Pace,
    paths: list[str],
    body: bytes,
    shape: tuple[int, int],
    targets: dict[str, float],
) -> None:
    if shutil.which("h2load") is None:
        print("  h2load is missing (apt-get install nghttp2-client)")
        return
    for server in chosen:
        server.cores = pace.servers_core
    runs: dict[str, list[Run]] = {}
    with compare.running(chosen, paths[0], body) as up:
        uris = {server.name: server.folder / "uris" for server in up}
        for server in up:
            uris[server.name].write_text("".join(server.url(path) + "\n" for path in paths))
            _load(server, pace, uris[server.name], shape, WARM_UP)
        for turn in range(pace.rounds):
            first = turn % len(up) if up else 0
            for server in up[first:] + up[:first]:
                run = _load(server, pace, uris[server.name], shape, pace.seconds)
                runs.setdefault(server.name, []).append(run)
                server.empty_logs()
    _show(runs, targets)


def _show(runs: dict[str, list[Run]], targets: dict[str, float]) -> None:
    rates = {name: median(run.per_second for run in those) for name, those in runs.items()}
    rows = []
    for name, those in runs.items():
        least, most = min(run.per_second for run in those), max(run.per_second for run in those)
        cost = median(run.cost for run in those) * 1e6
        failed = sum(run.failed for run in those)
        ratio = f"{rates['halfsync'] / rates[name]:.2f}" if "halfsync" in rates and name != "halfsync" else ""
        row = [name, f"{rates[name]:,.0f}", f"{least:,.0f} .. {most:,.0f}", f"{cost:.1f} us", str(failed)]
        rows.append([*row, ratio])
    heads = ["", "req/s", "least .. most", "processor time of each", "failed", "halfsync / it"]
    print()
    print(report.table(heads, rows))
    print()
    if "halfsync" not in rates:
        print("  NOT MET  halfsync did not start")
        return
    if failed := sum(run.failed for run in runs["halfsync"]):
        print(f"  NOT MET  halfsync failed {failed} requests")
    for name, target in targets.items():
        if name in rates:
            verdict = report.verdict(
                f"halfsync / {name}", rates["halfsync"] / rates[name], target, at_least=True
            )
            print(verdict)
        else:
            print(f"  -        halfsync / {name}: not measured, target at least {target:g}")


def _begin(server: Server, path: str) -> bytes:
    """The preface, and one request; its fields are literals."""
    fields = {":method": "GET", ":scheme": server.scheme, ":path": path, ":authority": "127.0.0.1"}
    block = b"".join(
        b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields.items()
    )
    head = len(block).to_bytes(3, "big") + b"\x01\x05\0\0\0\x01" + block
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + head
