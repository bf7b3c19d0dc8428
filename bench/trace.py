"""Counts the system calls of one request with strace: `python -m bench.trace`, or `make trace`.

strace is attached to the one process that holds the client connections (halfsync's pump, nginx's
worker) while wrk asks for a leased 6 KB file, and detached after it. What strace counted, divided by
the requests that wrk counted, is the table. strace slows the server several times, so batches differ
a little from those of a server at full speed, and no rate is printed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import compare, load, report, servers
from bench.cases import SMALL
from bench.handshakes import make_public
from bench.idle import holder
from bench.servers import Server

ATTACH_LIMIT = 10.0  # seconds


@dataclass(frozen=True)
class Way:
    """One way of asking, and how many calls a request may cost halfsync."""

    name: str
    headers: tuple[str, ...]
    target: float


WAYS = (
    Way("64 kept connections", (), 2.2),
    Way("a connection for each request", ("Connection: close",), 8),
)


class CannotTrace(Exception):
    """strace did not run; the text is what it said."""


def count_calls(server: Server, path: str, way: Way, seconds: int) -> tuple[dict[str, int], int]:
    """Calls by name, and the number of requests in which they were made."""
    summary = server.folder / "strace.txt"
    argv = ["strace", "-f", "-c", "-U", "name,calls", "-o", str(summary), "-p", str(holder(server))]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            _wait_attached(tracer)
            outcome = load.wrk(server.url(path), seconds, headers=way.headers)
        finally:
            tracer.send_signal(signal.SIGINT)
    if outcome.failed:
        print(f"  careful: {outcome.failed} requests failed")
    return read_summary(summary.read_text()), outcome.requests


def read_summary(text: str) -> dict[str, int]:
    """Calls by name, from the table that `strace -c -U name,calls` wrote."""
    rows = re.findall(r"^\s*(\w+)\s+(\d+)\s*$", text, re.MULTILINE)
    return {name: int(calls) for name, calls in rows if name != "total"}


def show(server: Server, way: Way, calls: dict[str, int], requests: int) -> None:
    total = sum(calls.values())
    rows = [
        [name, f"{number:,}", f"{number / requests:.3f}"]
        for name, number in sorted(calls.items(), key=lambda item: -item[1])
        if number / requests >= 0.0005
    ]
    rows.append(["all", f"{total:,}", f"{total / requests:.3f}"])
    print(f"\n  {server.name}, {way.name}, {requests:,} requests\n")
    print(report.table(["call", "calls", "for a request"], rows))
    if server.name == "halfsync":
        print()
        print(report.verdict(way.name, total / requests, way.target, " calls", at_least=False))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make trace", description="Count the system calls of a request.")
    parser.add_argument("--seconds", type=int, default=3, help="of load for each row (default 3)")
    chosen = parser.parse_args()
    for tool in ("strace", "wrk"):
        if shutil.which(tool) is None:
            print(f"{tool} is not installed: apt-get install {tool}", file=sys.stderr)
            return 2
    with compare.workplace() as place:
        body = make_public(place, SMALL)
        subjects = _subjects(place)
        with compare.running(subjects, "/file.html", body) as up:
            for way in WAYS:
                for server in up:
                    calls, requests = count_calls(server, "/file.html", way, chosen.seconds)
                    show(server, way, calls, requests)
    if not any(server.name == "halfsync" for server in up):
        print("\n  NOT MET  halfsync did not start")
    return 0


def _subjects(place: Path) -> list[Server]:
    public = place / "public"
    subjects = [servers.halfsync(compare.own_folder(place, "halfsync"), str(public))]
    if compare.say_missing(["nginx"]):
        subjects.append(servers.nginx(compare.own_folder(place, "nginx"), public))
    return subjects


def _wait_attached(tracer: subprocess.Popen[str]) -> None:
    """strace says on standard error that it is attached, or why it can't be."""
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        raise CannotTrace(said.strip() or "strace said nothing")
    time.sleep(0.2)  # a second thread's line may follow


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CannotTrace, load.CannotLoad) as trouble:
        print(trouble, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
