"""ASGI applications whose lifespans go well, or do not; the variable LIFE names which."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

LIFE = os.environ.get("LIFE", "")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LIFE.encode()})


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    if LIFE == "raises":
        raise RuntimeError("no such database")
    if LIFE == "returns":
        return
    if LIFE == "fails":
        await send({"type": "lifespan.startup.failed", "message": "no such database"})
        return
    if LIFE == "wrong":
        await send({"type": "http.response.start"})
    if LIFE == "no message":
        await send("complete")
    await send({"type": "lifespan.startup.complete"})
    if LIFE == "ends":
        raise RuntimeError("ended early")
    await receive()
    if LIFE == "badly":
        await send({"type": "lifespan.shutdown.failed", "message": "no way to say goodbye"})
        return
    Path("shut-down").touch()
    while True:
        await send({"type": "lifespan.shutdown.complete"})
        if LIFE == "stays":
            await asyncio.Event().wait()
        if LIFE != "goes round":
            break
        await receive()
