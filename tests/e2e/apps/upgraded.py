"""A WSGI application that says which server it runs in, and takes its time."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

if Path("broken").exists():
    raise RuntimeError("this code does not import")
while Path("hangs").exists():
    time.sleep(0.01)
if Path("one-at-first").exists():
    try:
        Path("first").touch(exist_ok=False)
    except FileExistsError:
        while not Path("others").exists():
            time.sleep(0.01)

PIECE = b"0123456789abcdef" * 4096


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/upload":
        start("200 OK", [])
        return [hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()]
    if path == "/download":
        start("200 OK", [("Content-Length", str(len(PIECE) * 400))])
        return (PIECE for _ in range(400))
    if path == "/events":
        start("200 OK", [("Content-Type", "text/event-stream")])
        return _events()
    if path == "/probe":
        return _probe(environ, start)
    if path.startswith("/wait/"):
        Path(f"here-{path[6:]}").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    said = f"{os.getppid()} {environ['REMOTE_ADDR']}".encode()
    start("200 OK", [("Content-Length", str(len(said)))])
    return [said]


def _probe(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Does what the file `probe` says: a status, or a crash."""
    what = Path("probe").read_text("ascii") if Path("probe").exists() else "200 OK"
    seen = [environ[name] for name in ("wsgi.url_scheme", "HTTP_HOST", "REMOTE_ADDR")]
    with Path("probes").open("a", encoding="ascii") as probes:
        probes.write(" ".join([str(os.getppid()), *seen, what]) + "\n")
    if what == "crash":
        signal.raise_signal(signal.SIGSEGV)
    start(what, [("Content-Length", "0")])
    return []


def _events() -> Iterator[bytes]:
    yield b"data: begun\n\n"
    while not Path("go").exists():
        time.sleep(0.01)
    yield b"data: over\n\n"
