"""An application that does what its request says, step by step: see tests/e2e/scripts.py."""

from __future__ import annotations

import asyncio
import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

BLOCK = random.Random(1).randbytes(2 * 1024 * 1024)
FILE = Path("block")


class ScriptedError(Exception):
    """Raised because a script says so."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        FILE.write_bytes(BLOCK)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = dict(scope["headers"])
    if b"x-script" not in headers:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        state = {"tasks": len(asyncio.all_tasks()), "files": len(os.listdir("/proc/self/fd"))}
        await send({"type": "http.response.body", "body": json.dumps(state).encode()})
        return
    run = _Run(receive, send)
    try:
        await run.all(json.loads(headers[b"x-script"]))
    finally:
        for task in run.beside:
            task.cancel()


class _Run:
    """Of one script."""

    def __init__(self, receive: Any, send: Any) -> None:
        self.receive = receive
        self.send = send
        self.beside: list[asyncio.Task[Any]] = []
        self.sent = 0  # how far in the block
        self.read = b""
        self.drained = False

    async def all(self, steps: list[list[Any]]) -> None:
        for name, *arguments in steps:
            await getattr(self, f"do_{name}")(*arguments)

    async def do_start(self, status: int, length: int | None, trailers: bool) -> None:
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        message = {"type": "http.response.start", "status": status, "headers": headers}
        await self.send({**message, "trailers": True} if trailers else message)

    async def do_body(self, size: int, more: bool) -> None:
        at, self.sent = self.sent, self.sent + size
        data = BLOCK[at : at + size]
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def do_echo(self) -> None:
        data = b"%d %d" % (len(self.read), zlib.crc32(self.read))
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def do_path(self) -> None:
        await self.send({"type": "http.response.pathsend", "path": str(FILE.absolute())})

    async def do_file(self, offset: int, size: int, more: bool) -> None:
        with FILE.open("rb") as file:
            span = {"file": file, "offset": offset, "count": size, "more_body": more}
            await self.send({"type": "http.response.zerocopysend", **span})

    async def do_trailers(self, more: bool) -> None:
        fields = [(b"x-more" if more else b"x-last", b"1")]
        await self.send({"type": "http.response.trailers", "headers": fields, "more_trailers": more})

    async def do_hint(self) -> None:
        await self.send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})

    async def do_drain(self) -> None:
        while not self.drained:
            event = await self.receive()
            self.read += event.get("body", b"")
            self.drained = not event.get("more_body")

    async def do_look(self) -> None:
        """Whether something has come."""
        try:
            async with asyncio.timeout(0.002):
                await self.receive()
        except TimeoutError:
            pass

    async def do_listen(self) -> None:
        async def listen() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass

        self.beside.append(asyncio.create_task(listen()))

    async def do_sleep(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    async def do_child(self, steps: list[list[Any]]) -> None:
        await asyncio.create_task(self.all(steps))

    async def do_try(self, steps: list[list[Any]]) -> None:
        """What breaks a rule has no effect."""
        try:
            await self.all(steps)
        except RuntimeError:
            pass

    async def do_raise(self) -> None:
        raise ScriptedError

    async def do_cancel(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
