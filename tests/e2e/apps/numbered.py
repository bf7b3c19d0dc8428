"""Responses that belong to one request alone: each is made of the number that the request carries.

`how` says what kind of response it is; the same for WSGI (`app`) and ASGI (`asgi`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs


def content(number: str, size: int) -> bytes:
    unit = f"{number},".encode()
    return (unit * (size // len(unit) + 1))[:size]


def sizes(size: int) -> Iterator[tuple[int, int]]:
    """Where pieces begin and end: one byte, seven, 49 and so on, so that few are alike."""
    at = 0
    for step in itertools.count():
        end = min(size, at + 7 ** (step % 6))
        yield at, end
        at = end
        if at == size:
            return


class Asked:
    def __init__(self, query: str) -> None:
        found = parse_qs(query)
        self.number = found["n"][0]
        self.how = found["how"][0]
        self.size = int(found["size"][0])
        self.body = content(self.number, self.size)

    @property
    def fields(self) -> list[tuple[str, str]]:
        fields = [("Content-Type", "text/plain"), ("X-Number", self.number)]
        if self.how in ("whole", "short"):
            fields.append(("Content-Length", str(self.size)))
        return fields

    @property
    def status(self) -> str:
        return {"empty": "204 No Content", "unchanged": "304 Not Modified"}.get(self.how, "200 OK")


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    asked = Asked(environ["QUERY_STRING"])
    if asked.how == "received":
        body = environ["wsgi.input"].read()
        asked.body = f"{asked.number} {len(body)} {hashlib.sha256(body).hexdigest()}".encode()
    start(asked.status, asked.fields)
    if asked.how in ("empty", "unchanged"):
        return []
    return [asked.body] if asked.how in ("whole", "received", "early") else pieces(asked)


def pieces(asked: Asked) -> Iterator[bytes]:
    for begin, end in sizes(asked.size // 2 if asked.how in ("short", "fails") else asked.size):
        yield asked.body[begin:end]
    if asked.how == "fails":
        raise RuntimeError("it fails amid its response")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    asked = Asked(scope["query_string"].decode())
    if asked.how == "received":
        found, size, more = hashlib.sha256(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            found.update(message["body"])
            size += len(message["body"])
            more = message["more_body"]
        asked.body = f"{asked.number} {size} {found.hexdigest()}".encode()
    fields = [(name.lower().encode(), value.encode()) for name, value in asked.fields]
    await send({"type": "http.response.start", "status": int(asked.status[:3]), "headers": fields})
    if asked.how in ("empty", "unchanged"):
        asked.body = b""
    if asked.how in ("pieces", "short", "fails"):
        for begin, end in sizes(asked.size // 2 if asked.how in ("short", "fails") else asked.size):
            await send({"type": "http.response.body", "body": asked.body[begin:end], "more_body": True})
        if asked.how in ("short", "fails"):
            return  # without its end
        asked.body = b""
    await send({"type": "http.response.body", "body": asked.body})
