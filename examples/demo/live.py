"""The demo's live page: a small ASGI application without a framework, mounted beside the guest book.

A clock by server-sent events, and a room in which everybody reads what anybody says, by WebSocket. It has one
worker process (halfsync.toml), so that all who are in the room are in one event loop; a visitor costs no
thread.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PAGE = (Path(__file__).parent / "live.html").read_bytes()
LONGEST = 300
"""Characters of what one says at once."""

_room: set[Send] = set()


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    path = scope["path"].removeprefix(scope["root_path"])
    if scope["type"] == "websocket":
        await (_talk(receive, send) if path == "/talk" else send({"type": "websocket.close"}))
    elif path == "/clock":
        await _clock(receive, send)
    elif path in ("", "/"):
        await _respond(send, 200, b"text/html; charset=utf-8", PAGE)
    else:
        await _respond(send, 404, b"text/plain", b"There is no such page.\n")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _respond(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _clock(receive: Receive, send: Send) -> None:
    """The time, once a second, until the visitor leaves."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    leaves = asyncio.ensure_future(_until_disconnected(receive))
    while not leaves.done():
        event = f"data: {time.strftime('%H:%M:%S')} in process {os.getpid()}, {len(_room)} in the room\n\n"
        await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await asyncio.wait([leaves], timeout=1)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _talk(receive: Receive, send: Send) -> None:
    """Everybody in the room gets what anybody says."""
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    _room.add(send)
    try:
        while (message := await receive())["type"] == "websocket.receive":
            text = (message.get("text") or "").strip()[:LONGEST]
            if text:
                await asyncio.gather(*(_say(one, text) for one in list(_room)))
    finally:
        _room.discard(send)


async def _say(send: Send, text: str) -> None:
    try:
        await send({"type": "websocket.send", "text": text})
    except OSError:  # that visitor has left
        _room.discard(send)
