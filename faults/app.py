"""The application that the fault runs use: what a response contains is derived from the request's number.

Each POST appends its number to the file EFFECTS, so that how often it ran can be counted afterwards. The
handlers below `POISON` are the faults that an application can have.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl

from faults.content import BETWEEN_EVENTS, content, events

PIECE = 16 * 1024
EFFECTS = os.environ.get("FAULTS_EFFECTS", "/dev/null")

Start = Callable[..., Any]
Query = dict[str, int]

_leaked: list[bytes] = []


def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    query = {name: int(value) for name, value in parse_qsl(environ["QUERY_STRING"])}
    path = environ["PATH_INFO"].lstrip("/")
    if path in POISON:
        POISON[path]()
        return _whole(start, query.get("n", 0), b"survived\n")
    if path == "stream":
        start("200 OK", _fields(query["n"]))
        return _pieces(query["n"], query["size"])
    if path == "events":
        start("200 OK", [("Content-Type", "text/event-stream"), ("X-Number", str(query["n"]))])
        return _events(query["n"])
    if path == "post":
        body = environ["wsgi.input"].read()
        _record(query["n"])
        return _whole(start, query["n"], body)
    return _whole(start, query["n"], content(query["n"], query["size"]))


def _fields(number: int) -> list[tuple[str, str]]:
    return [("Content-Type", "text/plain"), ("X-Number", str(number))]


def _whole(start: Start, number: int, body: bytes) -> Iterable[bytes]:
    start("200 OK", [*_fields(number), ("Content-Length", str(len(body)))])
    return [body]


def _pieces(number: int, size: int) -> Iterator[bytes]:
    body = content(number, size)
    for at in range(0, size, PIECE):
        yield body[at : at + PIECE]
        time.sleep(0.001)


def _events(number: int) -> Iterator[bytes]:
    for event in events(number):
        yield event
        time.sleep(BETWEEN_EVENTS)


def _record(number: int) -> None:
    descriptor = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, b"%d\n" % number)
    finally:
        os.close(descriptor)


# --- what an application may do to its process -----------------------------------------------------


def _segfault() -> None:
    ctypes.string_at(0)


def _hold_the_lock() -> None:
    """About a second in C code that holds the interpreter lock."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        re.match(r"(a+)+$", "a" * 22 + "b")


def _keep_the_lock() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def _loop() -> None:
    while True:
        pass


def _leak() -> None:
    """This process may have another 256 MiB, and a request takes 16 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        with open("/proc/self/statm", encoding="ascii") as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 256 * MIB, hard))
    _leaked.append(b"x" * (16 * MIB))


def _fork_and_return() -> None:
    """Parent and child both go on to return a response."""
    os.fork()


def _fork_and_exit() -> None:
    """The child ends with an exception on its way through the server's code."""
    if not os.fork():
        sys.exit(0)


def _exit_in_a_thread() -> None:
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    sys.exit(3)


def _close_descriptors() -> None:
    """What old recipes for daemons do."""
    os.closerange(0, 3)


MIB = 1024 * 1024
POISON: dict[str, Callable[[], None]] = {
    "segfault": _segfault,
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hold-lock": _hold_the_lock,
    "loops": _loop,
    "sleeps": lambda: time.sleep(1000),
    "never-lets-go": _keep_the_lock,
    "leak": _leak,
    "fork-returns": _fork_and_return,
    "fork-exits": _fork_and_exit,
    "thread-exits": _exit_in_a_thread,
    "closes-descriptors": _close_descriptors,
}
