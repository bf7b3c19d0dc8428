"""A client leaves while an ASGI application does nothing but wait: over HTTP/1.1 and HTTP/2, with TLS and
without, in every way in which a client can."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from pathlib import Path

import h2.connection
import pytest

from tests.certificates import client_context, issued, write
from tests.e2e.harness import LONG, Server, serving

SETTINGS = """
bind = ["http://127.0.0.1:0", "https://127.0.0.1:0"]
certfile = "server.pem"
keyfile = "server.key"

[routes]
"/" = "waits:app"
"""
APP = """
import asyncio
from pathlib import Path

async def app(scope, receive, send):
    file = Path(scope["path"].strip("/"))
    while (await receive())["more_body"]:
        pass
    waiting = asyncio.ensure_future(receive())
    sleeping = asyncio.ensure_future(asyncio.sleep(3600))  # as Starlette does while it streams
    if file.name.startswith("streams"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
    file.with_suffix(".waits").touch()
    await asyncio.wait([waiting, sleeping], return_when=asyncio.FIRST_COMPLETED)
    sleeping.cancel()
    file.with_suffix(".left").write_text(waiting.result()["type"])
"""
WAYS = ("ends", "vanishes", "resets", "stream")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaving")
    write(folder, issued("127.0.0.1"))
    (folder / "waits.py").write_text(APP)
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


def ports(server: Server) -> dict[str, int]:
    """By scheme."""
    [line] = [line for line in server.log().splitlines() if " serves " in line]
    found = [word.strip(",") for word in line.split() if "://127.0.0.1:" in word]
    return {word.partition(":")[0]: int(word.rpartition(":")[2]) for word in found}


def leave(connection: socket.socket, way: str) -> None:
    """`ends`: as the protocol has it; `vanishes`: without a word; `resets`: as if it had died."""
    if way == "ends":
        connection.setblocking(False)
        if isinstance(connection, ssl.SSLSocket):
            with contextlib.suppress(ssl.SSLError):
                connection.unwrap()  # a close_notify; the socket stays open until the server closes, too
        else:
            connection.shutdown(socket.SHUT_WR)
        return
    if way == "resets":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("streams", [False, True], ids=["nothing sent", "streams"])
@pytest.mark.parametrize("version", ["http/1.1", "h2"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_it_is_told(server, scheme, version, streams):
    for way in WAYS:
        if way == "stream" and version != "h2":
            continue
        name = "-".join(("streams" if streams else "sleeps", scheme, version.replace("/", ""), way))
        connection = socket.create_connection(("127.0.0.1", ports(server)[scheme]), LONG)
        if scheme == "https":
            context = client_context(protocols=(version,))
            connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
        engine = None
        if version == "h2":
            engine = h2.connection.H2Connection()
            engine.initiate_connection()
            fields = [(":method", "GET"), (":scheme", scheme), (":path", f"/{name}"), (":authority", "a")]
            engine.send_headers(1, fields, end_stream=True)
            connection.sendall(engine.data_to_send())
        else:
            connection.sendall(f"GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        file = Path(server.folder) / name
        server.until(file.with_suffix(".waits").exists)
        if streams:  # what is not read would be in the way of a close_notify
            found = b""
            while b"some" not in found:
                data = connection.recv(1000)
                assert data
                found += data
        if way == "stream":
            assert engine is not None
            engine.reset_stream(1)
            connection.sendall(engine.data_to_send())
        elif way == "ends" and engine is not None:
            engine.close_connection()
            connection.sendall(engine.data_to_send())
        if way != "stream":
            leave(connection, way)
        left = file.with_suffix(".left")
        server.until(lambda left=left: left.exists() and left.read_text() == "http.disconnect")
        connection.close()
