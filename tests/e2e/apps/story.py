"""A WSGI application without a framework: one function a path."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

Environ = dict[str, Any]
Start = Callable[..., Any]

MIB = 1024 * 1024
PIECE = 64 * 1024
FOLDER = Path(os.environ.get("STORY_FOLDER", "."))
STARTED_IN = os.getpid()


def pattern(size: int) -> bytes:
    """As the harness makes it."""
    blocks = (hashlib.sha512(number.to_bytes(8, "big")).digest() for number in range(-(-size // 64)))
    return b"".join(blocks)[:size]


_made: dict[int, bytes] = {}


def made(size: int) -> bytes:
    if size not in _made:
        _made[size] = pattern(size)
    return _made[size]


class Request:
    def __init__(self, environ: Environ, start: Start) -> None:
        self.environ = environ
        self.start = start
        self.query = {name: values[-1] for name, values in parse_qs(environ["QUERY_STRING"]).items()}

    def number(self, name: str, default: int) -> int:
        return int(self.query.get(name, default))

    def reply(self, *fields: tuple[str, str], status: str = "200 OK") -> None:
        self.start(status, [("Content-Type", "text/plain; charset=utf-8"), *fields])

    def text(self, text: str) -> list[bytes]:
        data = text.encode()
        self.reply(("Content-Length", str(len(data))))
        return [data]


def hello(request: Request) -> Iterable[bytes]:
    return request.text("hello\n")


def environ(request: Request) -> Iterable[bytes]:
    known = {name: value for name, value in request.environ.items() if isinstance(value, str | bool)}
    return request.text(json.dumps(known))


def process(request: Request) -> Iterable[bytes]:
    return request.text(str(os.getpid()))


def user(request: Request) -> Iterable[bytes]:
    return request.text(f"{os.geteuid()} {os.getegid()} {os.getgroups()}")


def echo(request: Request) -> Iterable[bytes]:
    """What came."""
    data = request.environ["wsgi.input"].read()
    request.reply(("Content-Length", str(len(data))), ("X-Digest", hashlib.sha256(data).hexdigest()))
    return [data]


def received(request: Request) -> Iterable[bytes]:
    """How much came, and what it is, without holding it. Then it may wait for a file."""
    found, size = hashlib.sha256(), 0
    while piece := request.environ["wsgi.input"].read(PIECE):
        found.update(piece)
        size += len(piece)
    if "file" in request.query:
        (FOLDER / f"here-{size}").touch()
        until_there(request.query["file"])
    return request.text(f"{size} {found.hexdigest()}")


def whole(request: Request) -> Iterable[bytes]:
    """One object of bytes."""
    size = request.number("size", 32 * MIB)
    request.reply(("Content-Length", str(size)))
    return [made(size)]


def pieces(request: Request) -> Iterable[bytes]:
    """A generator whose length nobody says."""
    data = made(request.number("size", 32 * MIB))
    request.reply()
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


def wrapped(request: Request) -> Iterable[bytes]:
    """A file by wsgi.file_wrapper."""
    file = (FOLDER / request.query["file"]).open("rb")
    request.reply(("Content-Length", str(os.fstat(file.fileno()).st_size)))
    result: Iterable[bytes] = request.environ["wsgi.file_wrapper"](file, PIECE)
    return result


def until_there(name: str) -> None:
    while not (FOLDER / name).exists():
        time.sleep(0.005)


def hang(request: Request) -> Iterable[bytes]:
    """Says that it is here, and waits for a file."""
    (FOLDER / f"here-{request.query.get('as', '')}").touch()
    until_there(request.query["file"])
    return request.text("waited\n")


def steps(request: Request) -> Iterable[bytes]:
    """Each piece waits for a file of its number."""
    request.reply()
    yield b"0 "
    for number in range(1, request.number("steps", 3)):
        until_there(f"{request.query['file']}-{number}")
        yield b"%d " % number


class Endless:
    """Bytes without end; when it is closed it leaves a file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * PIECE

    def close(self) -> None:
        (FOLDER / self._name).touch()


def endless(request: Request) -> Iterable[bytes]:
    request.reply()
    return Endless(request.query["file"])


class Silent(Endless):
    """A first piece of some size, perhaps none, and then empty ones without end."""

    def __init__(self, name: str, first: int) -> None:
        super().__init__(name)
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        yield b"x" * self._first
        while True:
            time.sleep(0.002)
            yield b""


def silent(request: Request) -> Iterable[bytes]:
    """Says that it is here first: a reset takes back a request that the server has not read yet."""
    (FOLDER / f"here-{request.query['file']}").touch()
    request.reply()
    return Silent(request.query["file"], request.number("first", 0))


def status(request: Request) -> Iterable[bytes]:
    """Any status, with a body whether it may have one or not."""
    request.reply(status=request.query["line"])
    return [b"a body\n"]


def slow_exactly(request: Request) -> Iterable[bytes]:
    """Half of what Content-Length says; the rest waits for a file."""
    data = made(request.number("size", PIECE))
    request.reply(("Content-Length", str(len(data))), ("X-Digest", hashlib.sha256(data).hexdigest()))
    yield data[: len(data) // 2]
    until_there(request.query["file"])
    yield data[len(data) // 2 :]


def digested(request: Request) -> Iterable[bytes]:
    """A body of which the response's head says the digest, so that a wrong one can be recognised."""
    size = request.number("size", 3 * PIECE)
    data = made(size)
    fields = [("X-Digest", hashlib.sha256(data).hexdigest())]
    if "counted" in request.query:
        fields.append(("Content-Length", str(size)))
    request.reply(*fields)
    for start in range(0, size, PIECE):
        yield data[start : start + PIECE]
        time.sleep(0.001)


def leased(request: Request) -> Iterable[bytes]:
    """Another body each time, unless it is leased: `names` with commas, `public`, and one `field` of the
    response, such as Vary:Accept."""
    names = filter(None, request.query.get("names", "").split(","))
    request.environ["halfsync.lease"](60.0, *names, public="public" in request.query)
    name, colon, value = request.query.get("field", "").partition(":")
    request.reply(*([(name, value)] if colon else []), status=request.query.get("status", "200 OK"))
    return [b"%d %s" % (time.monotonic_ns(), request.environ["SERVER_PORT"].encode())]


def fail(request: Request) -> Iterable[bytes]:
    raise ZeroDivisionError("the story's own")


def die(request: Request) -> Iterable[bytes]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


PATHS: dict[str, Callable[[Request], Iterable[bytes]]] = {
    f"/{function.__name__}": function
    for function in (
        hello,
        environ,
        process,
        user,
        echo,
        received,
        whole,
        pieces,
        wrapped,
        hang,
        steps,
        endless,
        silent,
        status,
        slow_exactly,
        digested,
        leased,
        fail,
        die,
    )
}


def app(environ: Environ, start: Start) -> Iterable[bytes]:
    request = Request(environ, start)
    if environ["PATH_INFO"].startswith("/path/"):
        return request.text(ascii(environ["PATH_INFO"]))
    function = PATHS.get(environ["PATH_INFO"])
    if function is None:
        request.reply(status="404 Not Found")
        return [b"no such story\n"]
    return function(request)


def create_app(name: str = "made") -> Callable[[Environ, Start], Iterable[bytes]]:
    """A factory."""

    def made_app(environ: Environ, start: Start) -> Iterable[bytes]:
        return Request(environ, start).text(f"from a factory: {name}\n")

    return made_app
