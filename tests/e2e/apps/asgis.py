"""An ASGI application that does what its path says."""

from __future__ import annotations

import asyncio
import decimal
import json
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

HEADERS = [(b"content-type", b"text/plain")]
CALLS: dict[str, int] = {}
decimal.getcontext().prec = 50  # in a context variable


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    name = scope["path"].removeprefix(scope["root_path"]).strip("/").split("/")[0]
    query = {key: one[0] for key, one in parse_qs(scope["query_string"].decode()).items()}
    await globals()[f"do_{name or 'hello'}"](scope, receive, send, **query)


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            scope["state"]["started"] = 1
            await send({"type": "lifespan.startup.complete"})
        else:
            await asyncio.sleep(0.01)
            Path("shut-down").touch()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def start(send: Any, status: Any = 200, headers: Any = HEADERS, **more: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers, **more})


async def body(send: Any, data: Any = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def respond(send: Any, data: Any, headers: Any = HEADERS) -> None:
    await start(send, 200, headers)
    await body(send, data)


async def whole_body(receive: Any) -> Any:
    data = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        data += message["body"]
        if not message["more_body"]:
            return data


async def do_hello(scope, receive, send):
    await respond(send, b"hello\n")


async def do_scope(scope, receive, send, **query):
    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return "b:" + value.decode("latin-1")
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    scope["state"]["mine"] = True  # is not there the next time
    await respond(send, json.dumps(plain(scope)).encode())


async def do_echo(scope, receive, send):
    await respond(send, await whole_body(receive))


async def do_sizes(scope, receive, send):
    """Of the events in which the body came; each is sent as it comes."""
    await start(send)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
        await body(send, b"%d\n" % len(message["body"]), more=more)


async def do_count(scope, receive, send):
    """Reads a body of any size and keeps none of it."""
    size, most = 0, 0
    more = True
    while more:
        message = await receive()
        size += len(message["body"])
        most = max(most, len(message["body"]))
        more = message["more_body"]
    await respond(send, b"%d %d" % (size, most))


async def do_steps(scope, receive, send, file, steps):
    """A piece for each file that appears."""
    await start(send)
    for number in range(int(steps)):
        await body(send, b"%d " % number, more=True)
        while number < int(steps) - 1 and not os.path.exists(f"{file}-{number + 1}"):
            await asyncio.sleep(0.005)
    await body(send)


async def do_endless(scope, receive, send, file):
    """As much as is taken; how much that was stands in the file, and in the end that it ended."""
    await start(send)
    size = 0
    try:
        while True:
            await body(send, bytes(16384), more=True)
            size += 16384
            Path(file).write_text(str(size))
    except OSError as error:
        Path(file).write_text(f"{size} {type(error).__name__}")
        raise


async def do_large(scope, receive, send, size, said=""):
    headers = [*HEADERS, (b"content-length", size.encode())] if said else HEADERS
    await respond(send, bytes(int(size)), headers)


async def do_third(scope, receive, send):
    await respond(send, str(decimal.Decimal(1) / 3).encode())


async def do_leaving(scope, receive, send, file):
    """Waits for the client to leave."""
    await whole_body(receive)
    Path(f"{file}-waits").touch()
    message = await receive()
    Path(file).write_text(message["type"])


async def do_sleeping(scope, receive, send, file):
    """Sleeps, and asks only then."""
    await whole_body(receive)
    Path(f"{file}-waits").touch()
    while not os.path.exists(f"{file}-go"):
        await asyncio.sleep(0.01)
    Path(file).write_text((await receive())["type"])


async def do_uploading(scope, receive, send, file):
    """Reads until there is no more."""
    while (message := await receive())["type"] == "http.request":
        Path(f"{file}-waits").touch()
    Path(file).write_text(message["type"])


async def do_status(scope, receive, send, code):
    await start(send, int(code))
    await body(send, b"not to be sent")


async def do_dribble(scope, receive, send, pieces):
    await start(send)
    for _ in range(int(pieces)):
        await body(send, b"x", more=True)
    await body(send)


async def do_sleep(scope, receive, send, seconds):
    await asyncio.sleep(float(seconds))
    await respond(send, b"slept\n")


async def do_after(scope, receive, send, file):
    """Goes on in the background when its response is complete."""
    await respond(send, b"soon\n")
    Path(f"{file}-began").touch()
    while not os.path.exists(f"{file}-go"):
        await asyncio.sleep(0.01)
    Path(file).write_text((await receive())["type"])


async def do_block(scope, receive, send, seconds):
    time.sleep(float(seconds))  # noqa: ASYNC251 - that is what it is for
    await respond(send, b"unblocked\n")


async def do_wait(scope, receive, send, file=""):
    if file:
        Path(f"{file}-began").touch()
    try:
        await asyncio.sleep(3600)
    finally:
        if file:
            Path(file).touch()


async def do_held(scope, receive, send, file):
    Path(f"{file}-began").touch()
    while not os.path.exists(file):
        await asyncio.sleep(0.01)
    await respond(send, b"let go\n")


async def do_pid(scope, receive, send):
    await respond(send, str(os.getpid()).encode())


async def do_raise(scope, receive, send, when="before"):
    if when != "before":
        await start(send)
    if when == "within":
        await body(send, b"some", more=True)
    if when == "after":
        await body(send, b"whole")
    raise RuntimeError(f"raised {when}")


async def do_exit(scope, receive, send):
    raise SystemExit(3)


async def do_lease(scope, receive, send, seconds="60", size="5"):
    CALLS["lease"] = CALLS.get("lease", 0) + 1
    await send({"type": "halfsync.lease", "seconds": float(seconds), "names": [b"accept-language"]})
    await respond(send, b"%d " % CALLS["lease"] + bytes(int(size)))


async def do_trailers(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "trailers": True})
    await send({"type": "http.response.body", "body": b"summed", "more_body": True})
    await send({"type": "http.response.body", "body": b" up"})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42")], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"x-end", b"yes")]})


async def do_hint(scope, receive, send):
    await send(
        {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}
    )
    await respond(send, b"hinted")


async def do_path(scope, receive, send, path):
    await start(send)
    await send({"type": "http.response.pathsend", "path": path})


async def do_file(scope, receive, send, path, **spans):
    """A span of a file between two pieces."""
    with open(path, "rb") as file:
        await start(send)
        await body(send, b"<", more=True)
        span = {name: int(value) for name, value in spans.items()}
        await send({"type": "http.response.zerocopysend", "file": file, "more_body": True, **span})
        await body(send, b">")


async def do_fork(scope, receive, send):
    pid = os.fork()
    await respond(send, b"parent" if pid else b"child")


async def do_twice(scope, receive, send):
    """Two at once in one request."""
    both = await asyncio.gather(asyncio.sleep(0.01, b"1"), asyncio.sleep(0.01, b"2"))
    assert asyncio.current_task() is not None
    await respond(send, b"".join(both))


class Broken:
    """Applications that break a rule, by name."""

    async def no_response(self, receive, send): ...

    async def body_first(self, receive, send):
        await body(send, b"x")

    async def two_starts(self, receive, send):
        await start(send)
        await start(send)

    async def unfinished(self, receive, send):
        await start(send)
        await body(send, b"some", more=True)

    async def after_the_end(self, receive, send):
        await respond(send, b"whole")
        await body(send, b"more")

    async def too_long(self, receive, send):
        await respond(send, b"123456", [(b"content-length", b"5")])

    async def too_long_later(self, receive, send):
        await start(send, 200, [(b"content-length", b"5")])
        await body(send, b"1234", more=True)
        await body(send, b"56")

    async def too_short(self, receive, send):
        await respond(send, b"1234", [(b"content-length", b"5")])

    async def too_short_later(self, receive, send):
        await start(send, 200, [(b"content-length", b"5")])
        await body(send, b"123", more=True)
        await body(send, b"4")

    async def status(self, receive, send):
        await start(send, "200")

    async def informational(self, receive, send):
        await start(send, 103)

    async def header_type(self, receive, send):
        await start(send, 200, [("a", "b")])

    async def header_name(self, receive, send):
        await start(send, 200, [(b"a b", b"c")])

    async def header_value(self, receive, send):
        await start(send, 200, [(b"a", b"b\r\nSet-Cookie: c=d")])

    async def header_shape(self, receive, send):
        await start(send, 200, [(b"a",)])

    async def lengths(self, receive, send):
        await start(send, 200, [(b"content-length", b"1"), (b"content-length", b"2")])

    async def body_type(self, receive, send):
        await respond(send, "text")

    async def kind(self, receive, send):
        await send({"type": "http.response.nothing"})

    async def no_kind(self, receive, send):
        await send({"status": 200})

    async def no_message(self, receive, send):
        await send(None)

    async def relative(self, receive, send):
        await start(send)
        await send({"type": "http.response.pathsend", "path": "asgis.py"})

    async def no_file(self, receive, send):
        await start(send)
        await send({"type": "http.response.zerocopysend", "file": "x"})

    async def unreadable(self, receive, send):
        await start(send)
        with open("to-write", "ab") as file:
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 0})

    async def no_size(self, receive, send):
        await start(send)
        with open("/proc/self/status", "rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file})

    async def no_size_path(self, receive, send):
        await start(send)
        await send({"type": "http.response.pathsend", "path": "/proc/self/status"})

    async def swallowed(self, receive, send):
        try:
            await body(send, b"x")
        except RuntimeError:
            return


async def do_broken(scope, receive, send, rule):
    await getattr(Broken(), rule)(receive, send)
