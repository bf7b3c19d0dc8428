"""An ASGI application whose WebSockets do what their paths say."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello\n"})
    elif scope["type"] == "websocket":
        name, *more = scope["path"].strip("/").split("/")
        await globals()[f"do_{name}"](scope, receive, send, *more)


async def accept(receive: Any, send: Any, **more: Any) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **more})


async def do_echo(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    note(scope, message)


async def do_two_receivers(_scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)

    async def answer(name: str) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{name} {message['text']}"})

    await asyncio.gather(answer("a"), answer("b"))


async def do_impatient(_scope: Any, receive: Any, send: Any) -> None:
    """Gives up each `receive` soon, and tries again."""
    await accept(receive, send)
    while True:
        try:
            message = await asyncio.wait_for(receive(), 0.001)
        except TimeoutError:
            continue
        if message["type"] != "websocket.receive":
            return
        await send({"type": "websocket.send", "text": message["text"]})


async def do_fork(_scope: Any, receive: Any, send: Any) -> None:
    """What the child sends ends it."""
    await accept(receive, send)
    child = os.fork()
    await send({"type": "websocket.send", "text": "once"})
    await asyncio.to_thread(os.waitpid, child, 0)
    await send({"type": "websocket.send", "text": "by the parent"})


def note(scope: Any, message: Any) -> None:
    """For the test, by its target."""
    target = f"{scope['path']}?{scope['query_string'].decode()}".rstrip("?")
    with Path("ended").open("a", encoding="utf-8") as file:
        file.write(json.dumps([target, message]) + "\n")


async def do_scope(scope: Any, receive: Any, send: Any, *_: str) -> None:
    await accept(receive, send)
    await send(
        {"type": "websocket.send", "text": json.dumps(scope, default=lambda one: one.decode("latin-1"))}
    )
    await receive()


async def do_subprotocol(_scope: Any, receive: Any, send: Any, name: str) -> None:
    headers = [(b"X-Who", b"me"), (b"set-cookie", b"a=b"), (b"upgrade", b"mine")]
    await accept(receive, send, subprotocol=name, headers=headers)
    await receive()


async def do_reject(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4000})
    note(scope, await receive())


async def do_respond(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    start = {"status": 401, "headers": [(b"www-authenticate", b"Basic")]}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"are you?"})


async def do_close(scope: Any, receive: Any, send: Any, code: str, reason: str = "") -> None:
    await accept(receive, send)
    await send({"type": "websocket.close", "code": int(code), "reason": reason})
    note(scope, await receive())


async def do_close_again(scope: Any, receive: Any, send: Any) -> None:
    """What it sends when its client has closed."""
    await accept(receive, send)
    while (await receive())["type"] != "websocket.disconnect":
        pass
    raised = []
    for message in ({"type": "websocket.send", "text": "x"}, {"type": "websocket.close"}):
        try:
            await send(message)
        except OSError:
            raised.append(message["type"])
    note(scope, raised)


async def do_return(_scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)


async def do_return_early(_scope: Any, receive: Any, _send: Any) -> None:
    await receive()


async def do_raise(_scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    raise LookupError("nothing there")


async def do_raise_early(_scope: Any, receive: Any, _send: Any) -> None:
    await receive()
    raise LookupError("nothing there")


async def do_flood(scope: Any, receive: Any, send: Any) -> None:
    """Sends without end, and says how far it came."""
    await accept(receive, send)
    count = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(10_000)})
            count += 1
            Path("count").write_text(str(count), encoding="utf-8")
    except OSError as error:
        note(scope, {"error": type(error).__name__, "count": count})


async def do_sleep(_scope: Any, receive: Any, send: Any) -> None:
    """Takes nothing until it is told to."""
    await accept(receive, send)
    Path("sleeps").touch()
    while not await asyncio.to_thread(Path("wake").exists):
        await asyncio.sleep(0.02)
    size = 0
    while (message := await receive())["type"] == "websocket.receive":
        size += len(message["bytes"])
        if message["bytes"][-1:] == b"!":
            await send({"type": "websocket.send", "text": str(size)})


async def do_pid(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "text": str(os.getpid())})
    note(scope, await receive())


async def do_rules(_scope: Any, receive: Any, send: Any, name: str) -> None:
    """Breaks one; says what `send` raised."""
    messages: dict[str, Any] = {
        "nothing": {"type": "websocket.send"},
        "both": {"type": "websocket.send", "bytes": b"a", "text": "a"},
        "number": {"type": "websocket.send", "bytes": 5},
        "surrogate": {"type": "websocket.send", "text": "\ud800"},
        "twice": {"type": "websocket.accept"},
        "unknown": {"type": "websocket.strange"},
        "http": {"type": "http.response.start", "status": 200},
        "late-response": {"type": "websocket.http.response.start", "status": 200, "headers": []},
        "code": {"type": "websocket.close", "code": 1006},
        "reason": {"type": "websocket.close", "reason": "x" * 124},
        "no-type": {},
        "no-dict": None,
    }
    await accept(receive, send)
    try:
        await send(messages[name])
    except RuntimeError as error:
        await send({"type": "websocket.send", "text": str(error)})


async def do_early(_scope: Any, receive: Any, send: Any, name: str) -> None:
    """Breaks a rule before it has accepted."""
    await receive()
    if name == "send":
        await send({"type": "websocket.send", "text": "hello"})
    elif name == "subprotocol":
        await send({"type": "websocket.accept", "subprotocol": "none of yours"})
    elif name == "body":
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.accept", "headers": [(b"a", b"b\r\nc: d")]})


async def do_after_close(_scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send({"type": "websocket.close"})
    await send({"type": "websocket.send", "text": "late"})
