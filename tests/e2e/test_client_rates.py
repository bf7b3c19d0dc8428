"""Limits for each client, with a real server."""

from __future__ import annotations

import socket

from tests import certificates
from tests.e2e.harness import LONG, Answer, Client, Server, serving

APPLICATION = """
def app(environ, start):
    start("200 OK", [])
    return [b"fine"]
"""

SETTINGS = """
[routes]
"/" = "app:app"
"/api" = { app = "app:app", client_rate = 0.001, client_burst = 3 }
"/files" = { folder = "files", client_rate = 0.001, client_burst = 2 }
"""


def test_a_client_that_asks_too_often_gets_429_there_and_elsewhere_it_does_not(tmp_path):
    """Also on the fast path, from a lease, and for the clients of a trusted proxy, each by itself."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("a")
    (tmp_path / "halfsync.toml").write_text(SETTINGS)
    with serving(tmp_path) as server, server.client() as client:

        def statuses(target: str, *fields: str, times: int) -> list[int]:
            return [client.ask(target, *fields).status for _ in range(times)]

        assert statuses("/api/x", times=5) == [200] * 3 + [429] * 2
        refused: Answer = client.ask("/api")
        assert 0 < int(refused["Retry-After"]) <= 1000
        assert b"too many requests" in refused.body
        assert refused["Connection"] == ""
        assert statuses("/", times=5) == [200] * 5
        assert statuses("/files/a", times=4) == [200] * 2 + [429] * 2
        assert statuses("/api", "X-Forwarded-For: 192.0.2.1", times=4) == [200] * 3 + [429]
        assert statuses("/api", "X-Forwarded-For: 192.0.2.2", times=4) == [200] * 3 + [429]
        server.until_logged("429 to 127.0.0.1 for GET '/api/x': more than 0.001 requests a second")


class From(Client):
    """A client with another address of this machine, which is no trusted proxy's."""

    def __init__(self, server: Server, source: str = "127.0.0.5") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), LONG, (source, 0))
        self.unread = bytearray()


def test_connections_of_one_client(tmp_path):
    """One too many is refused; and may come when another has gone, whatever became of that."""
    (tmp_path / "app.py").write_text(APPLICATION)
    with serving(tmp_path, "app:app", "--client-connections", "3") as server:
        there = [From(server) for _ in range(3)]
        assert [one.ask("/").status for one in there] == [200] * 3
        with From(server) as one_too_many:
            refused = one_too_many.ask("/")
            assert (refused.status, refused["Connection"], refused["Retry-After"]) == (429, "close", "5")
            assert one_too_many.is_closed()
        with From(server, "127.0.0.6") as other:
            assert other.ask("/").status == 200
        trusted = [server.client() for _ in range(5)]
        assert [one.ask("/").status for one in trusted] == [200] * 5
        for one in (*trusted, there.pop()):
            one.close()

        def next_one() -> int:
            with From(server) as client:
                return client.ask("/").status

        server.until(lambda: next_one() == 200)
        assert [one.ask("/").status for one in there] == [200] * 2
        for one in there:
            one.close()
        server.until_logged(r"429 to 127\.0\.0\.5: it has 3 connections already \(client_connections\)")


def test_connections_that_say_nothing_count_too_and_over_tls_one_too_many_is_closed(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    certfile, keyfile = certificates.write(tmp_path, certificates.issued("localhost"))
    options = ("--client-connections", "2", "--certfile", certfile, "--keyfile", keyfile)
    with serving(tmp_path, "app:app", *options) as server:
        silent = [From(server) for _ in range(2)]
        with From(server) as one_too_many:
            assert one_too_many.is_closed()
        for one in silent:
            one.close()
