"""Prints the files and functions that a request really enters: `python -m bench.walk`, or `make walk`.

Five kinds of request, each on a kept connection after some of the same, so that what is done once (a lease, a
parsed head, a route) is done. Each is recorded several times; a function counts if it was entered every
time, which leaves out what the clock does in between. The order is that of the first entry.

The result is written to docs/walk.txt, from which `make docs` takes the lists in docs/architecture.md.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from bench import report

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "walk.txt"
GOAL = 8
"""Files at most through which a small WSGI GET is followed."""

WARM_UP = 20
REPEATS = 8
BY_THE_CLOCK = (
    "pump/clock.py",
    "pump/pools/costs.py",
    "pump/pools/overload.py",
    "pump/pools/queues.py",
    "pump/pools/stalls.py",
    "pump/timeouts.py",
)
"""What the loop does once a turn, or when so many milliseconds have passed, or because earlier requests took
as long: not for this request in particular."""
TIMERS = ("LoopTasks._beat", "Tasks.look_within", "Pool.took", "Worker.unbegun")
"""Functions of other files that do."""
LIMIT = 120.0
"""Seconds for anything that is waited for."""

APP = """
import os

def app(environ, start_response):
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stream()
    body = environ["wsgi.input"].read() and b"thanks" or b"hello"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})

def stream():
    yield b"first"
    with open(os.environ["WALK_GATE"], "rb") as gate:
        gate.read()  # until the client has the first piece
    yield b"second"
"""

Steps = list[tuple[str, str]]
"""File and function, in the order of the first entry."""
T = TypeVar("T")


class CannotWalk(Exception):
    """The server did not do what was expected of it; the text says what."""


class WalkedServer:
    """A halfsync with one worker of one thread, and one kept connection to it."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="halfsync-walk-")
        self.folder = Path(self._temporary.name)
        self.gate = self.folder / "gate"
        os.mkfifo(self.gate)
        (self.folder / "walked_app.py").write_text(APP)
        public = self.folder / "public"
        public.mkdir()
        (public / "file.txt").write_text("a file\n" * 100)
        (self.folder / "recording").write_bytes(bytes(4096))
        self._log = self.folder / "log"
        self._number = 0
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.walked", str(self.folder), *self._arguments(public)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            found = self._until(self._address, "the server to start")
            self._sock = socket.create_connection(("127.0.0.1", int(found[1])), timeout=LIMIT)
        except BaseException:
            self.close()
            raise

    def _arguments(self, public: Path) -> list[str]:
        one_of_each = ["--workers", "1", "--threads", "1", "--bind", "127.0.0.1:0"]
        one_of_each += ["--lifespan", "off", "--loop", "asyncio"]
        return [
            *one_of_each,
            "--lease",
            "3600",
            "walked_app:app",
            "/asgi=walked_app:asgi",
            f"/files={public}",
        ]

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HALFSYNC_")}
        for common in ("PORT", "WEB_CONCURRENCY"):
            inherited.pop(common, None)
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), str(self.folder)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "WALK_GATE": str(self.gate),
        }

    def _address(self) -> re.Match[str] | None:
        if self._process.poll() is not None:
            raise CannotWalk(f"the server did not start:\n{self._log.read_text()}")
        return re.search(r" serves .* at http://127\.0\.0\.1:(\d+)", self._log.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self.close()

    def close(self) -> None:
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(LIMIT)
        finally:
            self._temporary.cleanup()

    # --- asking

    def ask(self, request: bytes, end: bytes) -> None:
        """One request, and its response up to `end`; a streamed one is let go on after its first piece."""
        self._sock.sendall(request)
        response = b""
        while not response.endswith(end):
            data = self._sock.recv(65536)
            if not data:
                raise CannotWalk(f"the connection was closed after {response!r}")
            response += data
            if response.endswith(b"first\r\n"):
                self.gate.write_bytes(b"go on")

    def record(self, request: bytes, end: bytes) -> dict[str, Steps]:
        """What one request enters, by process ("pump", "worker")."""
        self.settle()
        self._number += 1
        self._set_recording(self._number)
        self.ask(request, end)
        self.settle()
        self._set_recording(0)
        return self._recorded()

    def _set_recording(self, number: int) -> None:
        with (self.folder / "recording").open("r+b") as file:
            file.write(bytes([number]))

    def _recorded(self) -> dict[str, Steps]:
        found: dict[str, Steps] = {}
        for file in self.folder.glob("[0-9]*"):
            lines = [line.split("\t") for line in file.read_text().splitlines()]
            steps = [(name, function) for number, name, function in lines if int(number) == self._number]
            if steps:
                found[steps[0][0].partition("/")[0]] = steps
        return found

    def settle(self) -> None:
        """Wait until every thread of the server sleeps in a system call, and goes on sleeping."""
        quiet = 0

        def is_quiet() -> bool:
            nonlocal quiet
            quiet = quiet + 1 if all(state == "S" for state in self._states()) else 0
            return quiet >= 5

        self._until(is_quiet, "the server to come to rest")

    def _states(self) -> list[str]:
        """Of all threads of the process group's tree (proc(5))."""
        states = []
        due = [self._process.pid]
        while due:
            pid = due.pop()
            for thread in Path(f"/proc/{pid}/task").iterdir():
                states.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
                due += map(int, (thread / "children").read_text().split())
        return states

    def _until(self, holds: Callable[[], T | None], what: str) -> T:
        deadline = time.monotonic() + LIMIT
        while not (found := holds()):
            if time.monotonic() > deadline:
                raise CannotWalk(f"waited in vain for {what}:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.002)
        return found


# --- the five requests -----------------------------------------------------------------------------


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: walked\r\n\r\n".encode()


def post(path: str, size: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: walked\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size


KINDS = {
    "A GET that a lease answers": (get("/files/file.txt"), b"a file\n"),
    "A small WSGI GET": (get("/"), b"hello"),
    "A small ASGI GET": (get("/asgi"), b"hello"),
    "A POST whose body is spooled to a file": (post("/", 100_000), b"thanks"),
    "A streamed WSGI response": (get("/stream"), b"0\r\n\r\n"),
}


Run = dict[str, Steps]
"""What one request entered, by process."""


def recorded() -> dict[str, list[Run]]:
    """For each kind of request, what each of some requests has entered."""
    found = {}
    with WalkedServer() as server:
        for kind, (request, end) in KINDS.items():
            for _ in range(WARM_UP):
                server.ask(request, end)
            found[kind] = [server.record(request, end) for _ in range(REPEATS)]
    return found


def walk(runs: dict[str, list[Run]]) -> dict[str, Run]:
    """For each kind of request, the steps in each process."""
    return {kind: common(of_one_kind) for kind, of_one_kind in runs.items()}


def common(runs: list[Run]) -> Run:
    """What was entered in all the runs, in the order of the first."""
    kept = {}
    for process in ("pump", "worker"):
        in_all = set.intersection(*(set(run.get(process, ())) for run in runs))
        if in_all:
            kept[process] = [
                (file, function)
                for file, function in runs[0][process]
                if (file, function) in in_all and file not in BY_THE_CLOCK and function not in TIMERS
            ]
    return kept


# --- what is printed -------------------------------------------------------------------------------


def listing(walked: dict[str, dict[str, Steps]]) -> str:
    """A paragraph for each kind of request: how many files, and for each process the files with their
    functions, in the order of the first entry."""
    return "\n".join(_paragraph(kind, processes) for kind, processes in walked.items())


def _paragraph(kind: str, processes: dict[str, Steps]) -> str:
    lines = [f"{kind}: {count_of_files(processes)} files"]
    for process, steps in processes.items():
        lines.append(f"  in the {process}")
        by_file: dict[str, list[str]] = {}
        for file, function in steps:
            by_file.setdefault(file, []).append(function)
        for file, functions in by_file.items():
            lines += textwrap.wrap(
                f"{file}: {', '.join(functions)}", 118, initial_indent=" " * 4, subsequent_indent=" " * 8
            )
    return "\n".join(lines) + "\n"


def count_of_files(processes: dict[str, Steps]) -> int:
    return len({file for steps in processes.values() for file, _ in steps})


def main() -> int:
    argparse.ArgumentParser(
        prog="make walk", description="Print the functions that a request enters."
    ).parse_args()
    walked = walk(recorded())
    text = listing(walked)
    print(text)
    RESULT.write_text(text, encoding="utf-8")
    print(
        report.verdict(
            "a small WSGI GET", count_of_files(walked["A small WSGI GET"]), GOAL, " files", at_least=False
        )
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotWalk as trouble:
        print(trouble, file=sys.stderr)
        sys.exit(2)
