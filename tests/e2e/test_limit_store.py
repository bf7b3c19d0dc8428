"""Servers that share a `client_rate` through a real Redis or Valkey server, which goes away and is back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.harness import Server, kill, serving
from tests.redis_server import RedisServer

APPLICATION = """
def app(environ, start):
    start("200 OK", [])
    return [b"fine"]
"""

BURST = 1000
"""So many requests in a row take several times the PACE of the exchanges with the store, on any machine."""


@contextmanager
def store() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def let_through(server: Server, source: str = "127.0.0.1") -> int:
    """How many requests of this client, until one is refused."""
    with server.client(source=source) as client:
        for number in range(2 * BURST):
            if client.ask("/").status == 429:
                return number
    raise AssertionError("nothing was refused")


def learns_in_time(first: Server, second: Server) -> bool:
    """Whether the second one learns what a client has used up at the first one before it has served as much
    itself. That takes some milliseconds; on a busy machine, longer now and then."""
    for number in range(2, 12):
        source = f"127.0.0.{number}"
        assert let_through(first, source) == BURST
        found = let_through(second, source)
        assert 1 <= found <= BURST
        if found < 0.8 * BURST:
            return True
    return False


def test_two_servers_share_a_limit_and_each_has_its_own_without_the_store(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    with store() as redis, ExitStack() as stack:
        limits = ("--client-rate", "0.001", "--client-burst", str(BURST), "--limit-store", redis.url)
        servers = []
        for name in ("first", "second", "third"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "app.py").write_text(APPLICATION)
            servers.append(stack.enter_context(serving(tmp_path / name, "app:app", *limits)))
        first, second, third = servers
        for server in servers:
            server.until_logged(r"limit_store unix://\S+ is connected")
        assert let_through(first) == BURST
        assert learns_in_time(first, second)
        redis.stop()
        third.until_logged(
            r"ERROR limit_store unix://\S+ is away \(.+\): client_rate counts what comes to this ma"
        )
        assert let_through(third) == BURST
        redis.start()
        third.until_logged(r"limit_store unix://\S+ is back: each client_rate counts for all its machines")
        assert let_through(third) == 0
        assert third.log().count(" is away (") == 1


def test_a_store_that_can_not_be_one_is_a_mistake(tmp_path):
    import subprocess

    from tests.e2e.harness import command

    done = subprocess.run(
        [*command(), "--check-config", "--limit-store", "http://10.0.0.5", "./"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "limit_store must be of the form redis://" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_servers_share_the_number_of_connections(tmp_path):
    with store() as redis, ExitStack() as stack:
        (tmp_path / "app.py").write_text(APPLICATION)
        limits = (
            "--client-connections",
            "3",
            "--limit-store",
            redis.url,
            "--forwarded-allow-ips",
            "192.0.2.1",
        )
        first, second = (stack.enter_context(serving(tmp_path, "app:app", *limits)) for _ in range(2))
        for server in (first, second):
            server.until_logged(r"limit_store unix://\S+ is connected: client_connections counts for all")
        clients = [stack.enter_context(first.client()) for _ in range(2)]
        assert [client.ask("/").status for client in clients] == [200, 200]

        def is_refused() -> bool:
            """Once it has heard of the first one's connections; each is closed again."""
            with second.client() as one, second.client() as more:
                return 429 in (one.ask("/").status, more.ask("/").status)

        second.until(is_refused)
        second.until_logged(r"429 to 127\.0\.0\.1: it has 3 connections already, 2 of them at other machines")
        kill(first.pump)  # its clients' connections end with it, and the next pump is the same machine
        assert first.get("/").status == 200
        second.until(lambda: not is_refused())
