"""The ASGI applications that are measured."""

from __future__ import annotations

import asyncio
from typing import Any

HELLO = b"Hello, world\n"
CHUNK = bytes(16 * 1024)
CHUNKS = 64
EVENT = b"data: 0123456789abcdef\n\n"
JSON = b'{"id":7,"name":"thing","tags":["a","b"]}'

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
_STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Thirteen bytes, at once."""
    if scope["type"] == "http":
        await send(_START)
        await send({"type": "http.response.body", "body": HELLO})


async def chunks(scope: Any, receive: Any, send: Any) -> None:
    """1 MiB in 64 pieces."""
    if scope["type"] == "http":
        await send(_STREAM)
        for _ in range(CHUNKS):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body"})


async def streams(scope: Any, receive: Any, send: Any) -> None:
    """Below /events one event a second, without end; below /upload the size of the request's body."""
    if scope["type"] != "http":
        return
    if scope["path"] == "/upload":
        size = 0
        while (event := await receive())["type"] == "http.request":
            size += len(event["body"])
            if not event.get("more_body"):
                break
        await send({**_STREAM, "headers": []})
        await send({"type": "http.response.body", "body": b"%d\n" % size})
    elif scope["path"] == "/events":
        await send({**_STREAM, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
            await asyncio.sleep(1)
    else:
        await hello(scope, receive, send)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """What a WebSocket's client says."""
    if scope["type"] != "websocket":
        await hello(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def fastapi_app() -> Any:
    """One endpoint with a parameter and a model."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    async def thing(id: int = 7) -> dict[str, Any]:  # noqa: A002
        return {"id": id, "name": "thing", "tags": ["a", "b"]}

    return app


def __getattr__(name: str) -> Any:
    if name == "api":
        return fastapi_app()
    raise AttributeError(name)
