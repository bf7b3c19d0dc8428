"""Clients that leave while their requests wait for a thread, or while a handler has them: over HTTP/1.1 by
closing their connection, over HTTP/2 by resetting one stream of a connection that goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import h2.config
import h2.connection
import h2.events
import pytest

from tests.e2e.harness import LONG, Client, Server, request, serving

APPLICATION = """
import pathlib, time

def app(environ, start):
    name = environ["PATH_INFO"].strip("/")
    pathlib.Path("begun-" + name).touch()
    if name.startswith("hangs"):
        while not pathlib.Path("go-" + name).exists():
            time.sleep(0.005)
    if name.startswith("asks"):
        while not environ["halfsync.client_gone"]():
            time.sleep(0.005)
        pathlib.Path("gone-" + name).touch()
    start("200 OK", [])
    return [b"done"]
"""


class Leaving(Protocol):
    def ask(self, target: str) -> None: ...

    def leave(self, target: str) -> None: ...

    def close(self) -> None: ...


class Http1:
    """A connection for each request."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clients: dict[str, Client] = {}

    def ask(self, target: str) -> None:
        self._clients[target] = client = self._server.client()
        client.send(request(target))

    def leave(self, target: str) -> None:
        self._clients.pop(target).close()

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


class Http2:
    """A stream for each request."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), LONG)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self._h2.initiate_connection()
        self._streams: dict[str, int] = {}
        self._send()

    def _send(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def ask(self, target: str) -> None:
        self._streams[target] = stream = self._h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", target)]
        self._h2.send_headers(stream, head, end_stream=True)
        self._send()

    def leave(self, target: str) -> None:
        self._h2.reset_stream(self._streams.pop(target), 8)
        self._send()

    def serves(self, target: str) -> bool:
        """Whether the connection goes on."""
        self.ask(target)
        while True:
            for event in self._h2.receive_data(self._socket.recv(65536)):
                if isinstance(event, h2.events.StreamEnded) and event.stream_id == self._streams[target]:
                    return True

    def close(self) -> None:
        self._socket.close()


KINDS: dict[str, type[Http1] | type[Http2]] = {"http1": Http1, "http2": Http2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("gone")
    (folder / "app.py").write_text(APPLICATION)
    logged = ("--access-logfile", "access", "--access-logformat", "%U %s %{ending}x")
    with serving(folder, "app:app", "--threads", "1", *logged) as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def leaving(server: Server, kind: str) -> Iterator[Leaving]:
    client = KINDS[kind](server)
    yield client
    client.close()


def logged(server: Server, target: str) -> str:
    """What the access log says of it, which is said when it is over."""
    lines = server.until(lambda: [one for one in _lines(server) if one.startswith(target + " ")])
    return lines[0]


def _lines(server: Server) -> list[str]:
    log = server.folder / "access"
    return log.read_text().splitlines() if log.exists() else []


def test_one_that_waits_for_a_thread_is_not_run(server: Server, leaving: Leaving, kind: str):
    hangs, waits, last = f"/hangs-{kind}", f"/waits-{kind}", f"/last-{kind}"
    with server.client() as first, server.client() as second:
        first.send(request(hangs))
        server.until((server.folder / f"begun-hangs-{kind}").exists)
        leaving.ask(waits)
        second.send(request(last))
        leaving.leave(waits)
        assert logged(server, waits).endswith(" - client_disconnected" if kind == "http1" else "_reset")
        (server.folder / f"go-hangs-{kind}").touch()
        assert first.answer().body == second.answer().body == b"done"
    assert not (server.folder / f"begun-waits-{kind}").exists()


def test_a_handler_that_asks_is_told(server: Server, leaving: Leaving, kind: str):
    asks = f"/asks-{kind}"
    leaving.ask(asks)
    server.until((server.folder / f"begun-asks-{kind}").exists)
    assert not (server.folder / f"gone-asks-{kind}").exists()
    leaving.leave(asks)
    server.until((server.folder / f"gone-asks-{kind}").exists)
    assert server.get("/after").body == b"done"
    if isinstance(leaving, Http2):
        assert leaving.serves("/same-connection")
