"""Error pages in place of a WSGI application's own error responses (`intercept_errors`).

It stands between the server and the application, and only on routes that want it: others have none of its
cost. What an application says of an error (status, Retry-After, WWW-Authenticate, cookies) stays; its body,
and the header fields that describe that body, do not. (asgi_intercepting.py does the same.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from halfsync.http.error_pages import DESCRIBE_BODY, ErrorPage, ErrorPages


class InterceptedWSGI:
    """An application."""

    def __init__(self, application: Callable[..., Iterable[bytes]], pages: ErrorPages) -> None:
        self._application = application
        self._pages = pages

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start = _Start(self._pages, start_response)
        found = self._application(environ, start)
        if start.called and isinstance(found, list | tuple | environ["wsgi.file_wrapper"]):
            if start.page is None:
                return found  # and nothing that comes can change it
            if isinstance(found, list | tuple):
                return [start.page.body]
        return _Pieces(start, found)


class _Start:
    """`start_response`, as the application gets it."""

    def __init__(self, pages: ErrorPages, start_response: Callable[..., Any]) -> None:
        self._pages = pages
        self._start_response = start_response
        self.called = False
        self.page: ErrorPage | None = None  # that is sent in place of the application's body

    def __call__(self, status: Any, fields: Any, *exc_info: Any) -> Callable[[bytes], object]:
        self.called = True
        code = status[:3] if isinstance(status, str) else ""
        self.page = page = self._pages.find(int(code)) if code.isdecimal() else None
        if page is None:
            write: Callable[[bytes], object] = self._start_response(status, fields, *exc_info)
            return write
        kept = [one for one in fields if str(one[0]).lower() not in DESCRIBE_BODY]
        kept += [("Content-Type", page.content_type), ("Content-Length", str(len(page.body)))]
        self._start_response(status, kept, *exc_info)
        return _nothing


def _nothing(_data: bytes) -> None:
    """`write` of a body that is not sent."""


class _Pieces:
    """Of an application that may say how it responds only while its pieces are taken; or whose pieces have to
    be closed, though they are not sent."""

    def __init__(self, start: _Start, found: Iterable[bytes]) -> None:
        self._start = start
        self._found = found

    def __iter__(self) -> Iterator[bytes]:
        start = self._start
        if start.page is None:
            for piece in self._found:
                if _page_of(start) is not None:
                    break
                yield piece
        page = _page_of(start)
        if page is not None:
            yield page.body

    def close(self) -> None:
        close = getattr(self._found, "close", None)
        if close is not None:
            close()


def _page_of(start: _Start) -> ErrorPage | None:
    """What it is by now. (A type checker takes it for what it was.)"""
    return start.page
