"""Error pages in place of an ASGI application's own error responses: see wsgi_intercepting.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from halfsync.http.error_pages import DESCRIBE_BODY, ErrorPage, ErrorPages


class InterceptedASGI:
    """An application."""

    def __init__(self, application: Callable[..., Awaitable[Any]], pages: ErrorPages) -> None:
        self._application = application
        self._pages = pages

    async def __call__(self, scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        replaced = False

        async def send_or_replace(message: Any) -> None:
            nonlocal replaced
            if replaced:
                await asyncio.sleep(0)  # others have their turn, whatever is sent for ever
                return
            page = self._page_for(message)
            if page is None:
                await send(message)
                return
            replaced = True
            await send({**message, "headers": _fields_with(page, message), "trailers": False})
            await send({"type": "http.response.body", "body": page.body})

        await self._application(scope, receive, send_or_replace)

    def _page_for(self, message: Any) -> ErrorPage | None:
        status = message.get("status") if message["type"] == "http.response.start" else None
        return self._pages.find(status) if isinstance(status, int) else None


def _fields_with(page: ErrorPage, message: Any) -> list[Any]:
    kept = [one for one in message.get("headers", ()) if not _describes_body(one[0])]
    kept.append((b"content-type", page.content_type.encode("latin-1")))
    kept.append((b"content-length", str(len(page.body)).encode()))
    return kept


def _describes_body(name: Any) -> bool:
    return isinstance(name, bytes) and name.lower().decode("latin-1") in DESCRIBE_BODY
