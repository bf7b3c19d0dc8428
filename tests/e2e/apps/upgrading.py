"""An application that speaks to its clients by `gunicorn.socket`, as simple-websocket does, and others that
do it wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Environ = dict[str, Any]

HEAD = b"HTTP/1.1 101 \r\nUpgrade: Shout\r\nConnection: Upgrade\r\nX-Said: hello\r\n\r\n"

kept: list[Any] = []


def app(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
    sock = environ.get("gunicorn.socket")
    path = environ["PATH_INFO"]
    if path == "/use":
        return said(start, tried(lambda: kept[0].send(HEAD)))
    if sock is None:
        return said(start, "none")
    return ACTS[path](sock, start)


def said(start: Callable[..., Any], what: str) -> Iterable[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    return [what.encode()]


def tried(act: Callable[[], Any]) -> str:
    try:
        act()
    except OSError as error:
        return f"refused: {error.strerror}"
    return "done"


def shout(sock: Any) -> None:
    assert sock.send(HEAD[:20]) == 20
    sock.sendall(HEAD[20:] + b"at once ")
    assert sock.fileno() >= 0
    while data := sock.recv(4096):
        sock.sendall(data.upper())
        if b"bye" in data:
            break


def ends_as_gunicorn_wants_it(sock: Any, _start: Any) -> Iterable[bytes]:
    shout(sock)
    raise StopIteration


def begins_late(sock: Any, start: Any) -> Iterable[bytes]:
    Path("waits").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return ends_as_gunicorn_wants_it(sock, start)


def ends_behind_a_generator(sock: Any, start: Any) -> Iterable[bytes]:
    yield from ends_as_gunicorn_wants_it(sock, start)


def returns(sock: Any, start: Any) -> Iterable[bytes]:
    shout(sock)
    return said(start, "for nobody")


def fails(sock: Any, _start: Any) -> Iterable[bytes]:
    shout(sock)
    raise ValueError("in the middle of the conversation")


def keeps(sock: Any, start: Any) -> Iterable[bytes]:
    kept[:] = [sock]
    return said(start, "kept")


def reads_first(sock: Any, start: Any) -> Iterable[bytes]:
    return said(start, tried(lambda: sock.recv(1)))


def says_no(sock: Any, start: Any) -> Iterable[bytes]:
    return said(start, tried(lambda: sock.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")))


def says_too_much(sock: Any, start: Any) -> Iterable[bytes]:
    return said(start, tried(lambda: [sock.send(b"x" * 4096) for _ in range(100)]))


def splits_a_field(sock: Any, start: Any) -> Iterable[bytes]:
    return said(start, tried(lambda: sock.send(b"HTTP/1.1 101 \r\nUpgrade: a\r\nX: a\0b\r\n\r\n")))


ACTS = {
    "/shout": ends_as_gunicorn_wants_it,
    "/late": begins_late,
    "/generator": ends_behind_a_generator,
    "/returns": returns,
    "/fails": fails,
    "/keeps": keeps,
    "/reads": reads_first,
    "/no": says_no,
    "/much": says_too_much,
    "/field": splits_a_field,
}
