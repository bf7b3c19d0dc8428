"""The applications that are measured. As little as PEP 3333 allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any
from urllib.parse import parse_qs

HELLO = b"Hello, world\n"

_burning = 0
_most_burning = 0
_lock = Lock()


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Thirteen bytes, at once."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [HELLO]


def hold(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Keep the thread for a long time; `/` is `hello`."""
    if environ["PATH_INFO"] != "/":
        time.sleep(600)
    return hello(environ, start_response)


PAGE = b"x" * 262_144


def crowd(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Reads what is uploaded; a small page, and one of 256 KiB under /large."""
    environ["wsgi.input"].read()
    body = PAGE if environ["PATH_INFO"] == "/large" else HELLO
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def taking(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Sleep for `?sleep=` seconds, or compute for `?compute=` seconds of processor time."""
    for what, values in parse_qs(environ["QUERY_STRING"]).items():
        seconds = min(float(values[0]), 60.0)
        if what == "sleep":
            time.sleep(seconds)
            continue
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            sum(range(100))
    return hello(environ, start_response)


def burn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Compute for `?seconds=` without a pause, then say how many threads did so at the same time."""
    seconds = min(float(parse_qs(environ["QUERY_STRING"])["seconds"][0]), 60.0)
    _count(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    body = str(_most_burning).encode()
    _count(-1)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _count(step: int) -> None:
    global _burning, _most_burning
    with _lock:
        _burning += step
        _most_burning = max(_most_burning, _burning)
