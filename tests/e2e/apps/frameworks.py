"""One small application for each ASGI framework, with the same paths: /, /echo, /stream, /file, /socket."""

# No `from __future__ import annotations`: frameworks look at what is annotated, and find no names of a
# function's.

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

PIECES = [b"one ", b"two ", b"three"]
FILE = Path(__file__)


async def pieces() -> AsyncIterator[bytes]:
    for piece in PIECES:
        await asyncio.sleep(0)
        yield piece


def fastapi() -> Any:  # noqa: C901 (each path is a function)
    from contextlib import asynccontextmanager

    from fastapi import BackgroundTasks, FastAPI, Request, UploadFile, WebSocket
    from fastapi.responses import FileResponse, StreamingResponse

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"from": "lifespan"}

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def root(request: Request, name: str = "you") -> dict[str, str]:
        return {"hello": name, "state": request.state._state["from"]}

    @app.get("/threaded")
    def threaded() -> dict[str, int]:
        return {"a": 1}

    @app.post("/echo")
    async def echo(request: Request) -> StreamingResponse:
        data = b"".join([piece async for piece in request.stream()])
        return StreamingResponse(iter([data]), media_type="application/octet-stream")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(pieces())

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(FILE)

    @app.post("/upload")
    async def upload(file: UploadFile) -> dict[str, Any]:
        return {"name": file.filename, "size": len(await file.read())}

    @app.post("/later")
    async def later(name: str, tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(Path(name).touch)
        return {"later": name}

    @app.get("/endless")
    async def endless(name: str) -> StreamingResponse:
        async def events() -> AsyncIterator[bytes]:
            try:
                yield b"data: 1\n\n"
                await asyncio.sleep(3600)
            finally:
                Path(name).touch()

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    return app


def guarded() -> Any:
    """FastAPI with a middleware, through which every response goes in pieces, and a handler of exceptions."""
    from fastapi import BackgroundTasks, FastAPI, Request
    from fastapi.responses import JSONResponse

    app = FastAPI()

    @app.middleware("http")
    async def through(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        Path("failed").write_text(repr(error))
        return JSONResponse({}, 500)

    @app.get("/left")
    async def left(request: Request, tasks: BackgroundTasks) -> dict[str, str]:
        Path("called").touch()
        await request.scope["left"]
        tasks.add_task(Path("background").touch)
        return {"nobody": "reads this"}

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        async def leaving() -> Any:
            while (event := await receive())["type"] != "http.disconnect":
                pass
            return event

        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        scope["left"] = asyncio.ensure_future(leaving())
        return await app(scope, lambda: asyncio.shield(scope["left"]), send)

    return listening


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def root(request: Request) -> Response:
        return PlainTextResponse(str(request.url_for("file").path))

    async def echo(request: Request) -> Response:
        return Response(await request.body())

    async def stream(request: Request) -> Response:
        return StreamingResponse(pieces())

    async def file(request: Request) -> Response:
        return FileResponse(FILE)

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    inner = Starlette(routes=[Route("/", root), Route("/file", file, name="file")])
    return Starlette(
        routes=[
            Route("/", root),
            Route("/echo", echo, methods=["POST"]),
            Route("/stream", stream),
            Route("/file", file, name="file"),
            Mount("/mounted", inner),
            WebSocketRoute("/socket", socket),
        ]
    )


def quart() -> Any:
    from quart import Quart, Response, request, websocket

    app = Quart(__name__)

    @app.get("/")
    async def root() -> str:
        return "hello"

    @app.post("/echo")
    async def echo() -> Any:
        return await request.get_data()

    @app.get("/stream")
    async def stream() -> Response:
        return Response(pieces())

    @app.websocket("/socket")
    async def socket() -> None:
        while True:
            await websocket.send(await websocket.receive())

    return app


def litestar() -> Any:
    from litestar import Litestar, Request, WebSocket, get, post, websocket
    from litestar.response import Stream

    @get("/")
    async def root() -> str:
        return "hello"

    @post("/echo", media_type="application/octet-stream", status_code=200)
    async def echo(request: Request[Any, Any, Any]) -> bytes:
        return await request.body()

    @get("/stream")
    async def stream() -> Stream:
        return Stream(pieces())

    @websocket("/socket")
    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        async for text in socket.iter_data("text"):
            await socket.send_text(text)

    return Litestar([root, echo, stream, socket])


def django() -> Any:
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
    from django.urls import path

    async def root(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.build_absolute_uri() + " " + request.path_info)

    def echo(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.body)

    async def stream(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(pieces())

    def file(request: HttpRequest) -> FileResponse:
        return FileResponse(FILE.open("rb"))

    urls = type("Urls", (), {})
    urls.urlpatterns = [path("", root), path("echo", echo), path("stream", stream), path("file", file)]  # type: ignore[attr-defined]
    settings.configure(
        ROOT_URLCONF=urls,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY=os.urandom(8).hex(),
        DEBUG=False,
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    )
    return with_channels(get_asgi_application())


def with_channels(app: Any) -> Any:
    """Consumers of Channels beside a Django application."""
    from channels.generic.websocket import AsyncJsonWebsocketConsumer, WebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    class Echo(WebsocketConsumer):  # type: ignore[misc]
        """In a thread."""

        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            self.send(text_data=text_data, bytes_data=bytes_data)

    class Room(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        """What one says, all get; to "bye" it closes."""

        async def connect(self) -> None:
            self.room = self.scope["url_route"]["kwargs"]["room"]
            await self.channel_layer.group_add(self.room, self.channel_name)
            await self.accept("chat" if "chat" in self.scope["subprotocols"] else None)

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(self.room, self.channel_name)
            await self.channel_layer.group_send(self.room, {"type": "said", "text": f"left: {code}"})

        async def receive_json(self, content: Any) -> None:
            if content == "bye":
                await self.close(4001)
            else:
                await self.channel_layer.group_send(self.room, {"type": "said", "text": content})

        async def said(self, event: Any) -> None:
            await self.send_json(event["text"])

    sockets = URLRouter([path("socket", Echo.as_asgi()), path("rooms/<room>", Room.as_asgi())])
    return ProtocolTypeRouter({"http": app, "websocket": sockets})
