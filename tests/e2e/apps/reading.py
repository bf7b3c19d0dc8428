"""An application that gets its request bodies while they come: served with --stream-body."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Any]


def digest(environ: Environ, start: Start) -> Iterable[bytes]:
    """Of all of it, read piece by piece."""
    found, size = hashlib.sha256(), 0
    while data := environ["wsgi.input"].read1(100_000):
        found.update(data)
        size += len(data)
    start("200 OK", [])
    return [f"{size} {found.hexdigest()} {os.getpid()}".encode()]


def echo(environ: Environ, start: Start) -> Iterable[bytes]:
    """What has come goes back at once."""
    start("200 OK", [])
    return iter(lambda: environ["wsgi.input"].read1(65536), b"")


def early(environ: Environ, start: Start) -> Iterable[bytes]:
    """A response before the body; and then it wants to read it after all."""
    start("200 OK", [("Content-Length", "5")])
    yield b"early"
    outcome(environ, "early")


def never(_environ: Environ, start: Start) -> Iterable[bytes]:
    start("403 Forbidden", [])
    return [b"no"]


def lost(environ: Environ, start: Start) -> Iterable[bytes]:
    """Writes down how the body ended."""
    outcome(environ, "lost")
    start("200 OK", [])
    return [b"well"]


def outcome(environ: Environ, name: str) -> None:
    """Writes down how the rest of the body ended; and before, that it is about to be read."""
    Path(f"{name}-begun").touch()
    try:
        size = len(environ["wsgi.input"].read())
    except OSError as error:
        Path(name).write_text(type(error).__name__)
    else:
        Path(name).write_text(str(size))


def slow(environ: Environ, start: Start) -> Iterable[bytes]:
    """Reads a byte, and no more of it until there is a file of the name in the query; then the rest."""
    first = environ["wsgi.input"].read(1)
    Path(environ["QUERY_STRING"] + "-begun").touch()
    while not Path(environ["QUERY_STRING"]).exists():
        signal.sigtimedwait([], 0.01)
    start("200 OK", [])
    return [first + environ["wsgi.input"].read()]


def fork(environ: Environ, start: Start) -> Iterable[bytes]:
    """A child that the application forks can't read what comes to its parent."""
    child = os.fork()
    if child == 0:
        outcome(environ, "child")
        os._exit(0)
    os.waitpid(child, 0)
    return digest(environ, start)


def raising(environ: Environ, start: Start) -> Iterable[bytes]:
    """A signal handler raises in the main thread again and again, while the second half of a body is read.
    (The first half has come, so that thread is where it stays.)"""
    found, size = hashlib.sha256(), int(environ["CONTENT_LENGTH"])
    found.update(environ["wsgi.input"].read(size // 2))
    os.kill(os.getpid(), signal.SIGUSR2)
    try:
        while data := environ["wsgi.input"].read1(1000):
            found.update(data)
        start("200 OK", [])
        return [found.hexdigest().encode()]
    finally:
        os.kill(os.getpid(), signal.SIGURG)


class Interrupted(Exception):
    pass


def interrupt(*_: Any) -> None:
    raise Interrupted


def begin_raising(*_: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.01)


def end_raising(*_: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)


signal.signal(signal.SIGALRM, interrupt)
signal.signal(signal.SIGUSR2, begin_raising)
signal.signal(signal.SIGURG, end_raising)

PATHS: dict[str, Callable[[Environ, Start], Iterable[bytes]]] = {
    f"/{one.__name__}": one for one in (digest, echo, early, never, lost, slow, fork, raising)
}


def app(environ: Environ, start: Start) -> Iterator[bytes]:
    yield from PATHS[environ["PATH_INFO"]](environ, start)
