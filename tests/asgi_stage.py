"""An ASGI application without a server: its handler, and what it would have sent to the pump."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from halfsync.handlers.asgi import ASGIHandler
from halfsync.http.forwarded import Trust
from halfsync.http.response import Head
from halfsync.objects import File, Memory
from halfsync.plan.plan import Kind, Listener, RoutePlan
from halfsync.wire.messages import Ending, Piece, Reply, StreamedTask, Task, decode_replies, encode

LISTENERS = (
    Listener("127.0.0.1:80", "127.0.0.1", 80, socket.socket()),
    Listener("unix:/run/app.sock", "", 0, socket.socket()),
    Listener("127.0.0.1:443", "127.0.0.1", 443, socket.socket(), scheme="https"),
)

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Stage:
    """Stands where a worker's event loop stands."""

    def __init__(self, application: Application, **route: Any) -> None:
        plan = RoutePlan(route.pop("prefix", ""), "app:app", Kind.WSGI, 1, **route)
        trust = Trust(["192.0.2.1"], ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-prefix"])
        self.handler = ASGIHandler(
            application, plan, LISTENERS, trust, None, None, {"kept": 1}, {"0123": "PEM"}
        )
        self.sent: list[Any] = []
        self.credit = 0
        self.number = 0

    # --- a Line

    def put(self, message: Any, size: int) -> None:
        self.sent.append(message)

    def put_pieces(self, part: Any, pieces: list[bytes], size: int) -> None:
        assert part.objects == [Memory(b"", sum(map(len, pieces)))]
        part.objects[:] = [Memory(b"".join(pieces))]
        self.sent.append(part)

    def say(self, message: Any) -> None:
        [sent] = decode_replies(encode([message]))
        self.sent.append(sent)

    def whole(self, number: int, head: Head, body: bytes, began: int) -> None:
        self.sent.append(Reply(number, head.status, head.reason, head.fields, len(body), body))

    def soon(self, response: Any) -> None:
        asyncio.get_running_loop().call_soon(response.send_kept)

    def wait(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def ask(self, number: int, size: int) -> None:
        self.credit += size

    def ended(self, invocation: Any) -> None: ...

    def end_if_child(self) -> None: ...

    # --- requests

    def task(self, head: str, body: bytes | None = b"", **more: Any) -> Task:
        self.number += 1
        made = StreamedTask if "first" in more else Task
        raw = head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n"
        columns = {"client": "192.0.2.7", "client_port": 5, "listener": 0, "queued_ns": 0, **more}
        size = columns.pop("body_size", len(body or b""))
        return made(self.number, 0, raw, body, size, **columns)

    @contextlib.asynccontextmanager
    async def running(self, task: Task, descriptor: int = -1) -> AsyncIterator[Any]:
        """The invocation, while it runs."""
        invocation = self.handler.invocation(task, descriptor, 0, self)
        invocation.running = asyncio.ensure_future(invocation.run())
        await settled()
        yield invocation
        invocation.disconnected()
        await asyncio.wait([invocation.running], timeout=60)

    @property
    def body(self) -> bytes:
        """Of the response, as far as it was sent."""
        return b"".join(map(_bytes_of, self.sent))

    @property
    def ending(self) -> Ending:
        return Ending(self.sent[-1].ending)


def _bytes_of(message: Any) -> bytes:
    found = message.body if isinstance(message, Reply) else b""
    for item in message.objects:
        if isinstance(item, Memory):
            found += item.data
        else:
            assert isinstance(item, File)
            found += os.pread(item.fd, item.count, item.offset)
            os.close(item.fd)
            item.fd, item.count = os.memfd_create("read"), 0
    return bytes(found)


async def settled() -> None:
    """The application has done what it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def respond(application: Application, head: str = "GET / HTTP/1.1\nHost: x", **more: Any) -> Stage:
    """One whole call."""
    route = {name: more.pop(name) for name in ("prefix", "root_path") if name in more}

    async def run() -> Stage:
        stage = Stage(application, **route)
        async with stage.running(stage.task(head, **more)) as invocation:
            await asyncio.wait([invocation.running], timeout=60)
        return stage

    return asyncio.run(run())


def piece(number: int, offset: int, data: bytes, *, last: bool = False) -> Piece:
    return Piece(number, offset, data, Ending.DONE if last else Ending.UNFINISHED)
