"""`intercept_errors`: error pages in place of an application's own error responses."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from halfsync.handlers.asgi_intercepting import InterceptedASGI
from halfsync.handlers.wsgi_intercepting import InterceptedWSGI
from halfsync.handlers.wsgi_iterables import FileWrapper
from halfsync.http.error_pages import ErrorPage, ErrorPages

PAGES = ErrorPages(
    [
        ErrorPage("404", "text/html; charset=utf-8", b"<p>Nothing</p>"),
        ErrorPage("5xx", "text/plain; charset=utf-8", b"Sorry."),
    ]
)
FIELDS = [
    ("Content-Type", "application/json"),
    ("content-length", "3"),
    ("ETag", '"x"'),
    ("Content-Encoding", "gzip"),
    ("Retry-After", "5"),
    ("Set-Cookie", "a=b"),
]
KEPT = [("Retry-After", "5"), ("Set-Cookie", "a=b")]


class Server:
    """What a WSGI server does with an application; it knows how often what was returned was closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.starts: list[tuple[str, list[tuple[str, str]], bool]] = []
        self.body = b""
        self.returned: object = None

    def run(self, application: Callable[..., Iterable[bytes]]) -> None:
        environ = {"wsgi.file_wrapper": FileWrapper, "server": self}
        found = self.returned = InterceptedWSGI(application, PAGES)(environ, self._start)
        try:
            for piece in found:
                assert self.starts
                self.body += piece
        finally:
            if (close := getattr(found, "close", None)) is not None:
                close()

    def _start(
        self, status: str, fields: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        self.starts.append((status, fields, exc_info is not None))
        return self._write

    def _write(self, data: bytes) -> None:
        self.body += data


class Closing:
    """Pieces that have to be closed."""

    def __init__(self, server: Server, pieces: Iterable[bytes]) -> None:
        self._server = server
        self._pieces = pieces

    def __iter__(self) -> Any:
        return iter(self._pieces)

    def close(self) -> None:
        self._server.closed += 1


def listing(status: str) -> Callable[..., Any]:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response(status, [*FIELDS])
        return [b"own"]

    return app


def closing(status: str) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [*FIELDS])
        return Closing(environ["server"], (b"o", b"wn"))

    return app


def generating(status: str) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        try:
            start_response(status, [*FIELDS])
            yield b"o"
            yield b"wn"
        finally:
            environ["server"].closed += 1

    return app


def writing(status: str) -> Callable[..., Any]:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response(status, [*FIELDS])(b"own")
        return []

    return app


def thinking_again(status: str) -> Callable[..., Any]:
    """It begins with another status, and fails before anything is sent."""

    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK" if status != "200 OK" else "404 Not Found", [("X", "y")])
        try:
            raise ValueError
        except ValueError:
            start_response(status, [*FIELDS], sys.exc_info())
        yield b"own"

    return app


APPLICATIONS = [listing, closing, generating, writing, thinking_again]


@pytest.mark.parametrize("kind", APPLICATIONS)
@pytest.mark.parametrize(
    ("status", "page"),
    [
        ("404 Not Found", ("text/html; charset=utf-8", b"<p>Nothing</p>")),
        ("503 Busy", ("text/plain; charset=utf-8", b"Sorry.")),
    ],
)
def test_a_page_is_sent_in_place_of_an_error(
    kind: Callable[[str], Any], status: str, page: tuple[str, bytes]
):
    server = Server()
    server.run(kind(status))
    said, fields, _ = server.starts[-1]
    assert said == status
    assert fields == [*KEPT, ("Content-Type", page[0]), ("Content-Length", str(len(page[1])))]
    assert server.body == page[1]
    assert server.closed == (kind in (closing, generating))


@pytest.mark.parametrize("kind", APPLICATIONS)
@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "410 Gone"])
def test_a_response_without_a_page_is_as_it_is(kind: Callable[[str], Any], status: str):
    server = Server()
    server.run(kind(status))
    assert server.starts[-1][:2] == (status, FIELDS)
    assert server.starts[-1][2] == (kind is thinking_again)
    assert server.body == b"own"
    assert server.closed == (kind in (closing, generating))


def test_a_list_and_a_file_stay_what_they_are(tmp_path: Any):
    """The server has fast ways for them."""
    (tmp_path / "file").write_bytes(b"own")
    server = Server()
    server.run(listing("200 OK"))
    assert server.returned == [b"own"]

    def app(environ: Any, start_response: Any) -> Any:
        start_response(environ["server"].status, [*FIELDS])
        return environ["wsgi.file_wrapper"](open(tmp_path / "file", "rb"))

    for status, is_file, body in (("200 OK", True, b"own"), ("404 Not Found", False, b"<p>Nothing</p>")):
        server = Server()
        server.status = status  # type: ignore[attr-defined]
        server.run(app)
        assert isinstance(server.returned, FileWrapper) is is_file
        assert server.body == body


# --- ASGI --------------------------------------------------------------------------------------------------


def sent(application: Callable[..., Any], kind: str = "http") -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    asyncio.run(InterceptedASGI(application, PAGES)({"type": kind}, receive, send))
    return messages


def responding(status: int, **more: Any) -> Callable[..., Any]:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in FIELDS]
        await send({"type": "http.response.start", "status": status, "headers": headers, **more})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        await send({"type": "http.response.body", "body": b"wn"})
        if more:
            await send({"type": "http.response.trailers", "headers": []})

    return app


@pytest.mark.parametrize("more", [{}, {"trailers": True}])
def test_an_asgi_applications_error(more: dict[str, Any]):
    start, body = sent(responding(404, **more))
    assert (start["status"], start["trailers"]) == (404, False)
    assert start["headers"] == [
        *((name.lower().encode(), value.encode()) for name, value in KEPT),
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", b"14"),
    ]
    assert body == {"type": "http.response.body", "body": b"<p>Nothing</p>"}


@pytest.mark.parametrize("status", [200, 403])
def test_an_asgi_applications_other_responses(status: int):
    messages = sent(responding(status))
    assert [one.get("body") for one in messages] == [None, b"o", b"wn"]
    assert len(messages[0]["headers"]) == len(FIELDS)


def test_what_is_no_request_is_passed_on():
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 404, "scope": scope["type"]})

    assert sent(app, "websocket") == [
        {"type": "websocket.http.response.start", "status": 404, "scope": "websocket"}
    ]


def test_who_sends_for_ever_stops_nobody():
    async def endless(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def run() -> None:
        async def send(_message: Any) -> None:
            pass

        running = asyncio.ensure_future(InterceptedASGI(endless, PAGES)({"type": "http"}, None, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())
