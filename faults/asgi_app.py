"""The application of app.py in ASGI: the same paths, and bodies that are read and sent while they come."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl

from faults.app import PIECE, _record
from faults.content import BETWEEN_EVENTS, content, events


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        query = {name: int(value) for name, value in parse_qsl(scope["query_string"].decode())}
        await _PATHS[scope["path"]](receive, send, **query)


async def _get(receive: Any, send: Any, n: int, size: int) -> None:
    await _whole(send, n, content(n, size))


async def _stream(receive: Any, send: Any, n: int, size: int) -> None:
    await _start(send, n)
    body = content(n, size)
    for at in range(0, size, PIECE):
        await send({"type": "http.response.body", "body": body[at : at + PIECE], "more_body": True})
        await asyncio.sleep(0.001)
    await send({"type": "http.response.body"})


async def _events(receive: Any, send: Any, n: int) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"x-number", b"%d" % n)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in events(n):
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(BETWEEN_EVENTS)
    await send({"type": "http.response.body"})


async def _post(receive: Any, send: Any, n: int) -> None:
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event["body"]
        more = event["more_body"]
    _record(n)
    await _whole(send, n, body)


async def _block(receive: Any, send: Any, n: int) -> None:
    """The loop stands still."""
    from faults.app import POISON

    POISON["hold-lock"]()
    await _whole(send, n, b"survived\n")


async def _segfault(receive: Any, send: Any, n: int) -> None:
    from faults.app import POISON

    POISON["segfault"]()


async def _whole(send: Any, number: int, body: bytes) -> None:
    await _start(send, number, (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.body", "body": body})


async def _start(send: Any, number: int, *fields: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", b"text/plain"), (b"x-number", b"%d" % number), *fields]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


_PATHS: dict[str, Any] = {
    "/get": _get,
    "/stream": _stream,
    "/events": _events,
    "/post": _post,
    "/block": _block,
    "/segfault": _segfault,
}
