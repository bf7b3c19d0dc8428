"""A pump and its `limit_store`: a real server, none, and servers that are worse than none."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed

from halfsync.plan.plan import Kind, RoutePlan
from halfsync.pump.limits.limit_store import LimitStore
from tests import certificates
from tests.ports import free_port
from tests.pump.harness import APP, Stage, skip_with_tls
from tests.redis_server import RedisServer

CONNECTIONS = "halfsync:connections:7f000001"
"""The key of 127.0.0.1."""

ROUTE = RoutePlan("", "app:app", Kind.WSGI, APP, client_rate=0.001, client_burst=10)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def store(server: RedisServer) -> RedisServer:
    server.ask("FLUSHALL")
    return server


@contextlib.contextmanager
def sharing(url: str, *routes: RoutePlan) -> Iterator[Stage]:
    with Stage(routes=routes or (ROUTE,), limit_store=url) as stage:
        stage.hand(answers=True)
        yield stage
        store_of(stage)._close()


def store_of(stage: Stage) -> LimitStore:
    return stage.pump.limit_store


def connected(stage: Stage) -> Stage:
    """With a backoff between two tries, which the test lets pass."""

    def is_there() -> bool:
        found = store_of(stage)
        if found.is_away and not found._until:  # nothing is under way
            stage.time.advance(0.1)
        return not found.is_away

    stage.until(is_there)
    return stage


def ask(stage: Stage, times: int = 1, path: str = "/") -> list[int]:
    client = stage.client()
    return [client.ask(path).status for _ in range(times)]


def exchanged(stage: Stage) -> None:
    """All that was counted is in the store, and what the store says has come."""

    def is_done() -> bool:
        found = store_of(stage)
        if not found._asked:
            stage.time.advance(0.1)
            found.has_counted()
        return not found._asked and not any(limit.counted for limit in found._limits)

    stage.until(is_done)


def test_what_one_machine_lets_through_counts_at_the_other(store):
    with sharing(store.url) as stage:
        connected(stage)
        assert ask(stage, 10) == [200] * 10
        assert ask(stage, 1) == [429]
        exchanged(stage)
    with sharing(store.url) as other:
        connected(other)
        assert ask(other, 1) == [200]  # it has not heard of the first one's requests yet
        exchanged(other)
        assert ask(other, 2) == [429] * 2


def test_the_debt_of_all_is_what_each_waits_for(store):
    """Each lets through its own burst at first; then both wait for what both have let through."""
    with sharing(store.url) as stage:
        connected(stage)
        assert ask(stage, 10) == [200] * 10
        exchanged(stage)
    with sharing(store.url) as other:
        connected(other)
        assert ask(other, 1) == [200]
        exchanged(other)
        key = store.ask("RANDOMKEY"), store.ask("DBSIZE")
        assert key[1] == b":1"
        for limit in store_of(other)._limits:
            assert limit.step == 1000.0
        [client] = other.pump.pools.routes
        rate = client.access._checks[0]  # type: ignore[union-attr]
        [full_at] = rate._full_at.values()
        assert 10_900 < full_at - other.time.monotonic() <= 11_000.1


def test_each_limit_and_each_client_has_its_own(store):
    routes = (changed(ROUTE, prefix="/a", client_burst=1), changed(ROUTE, prefix="/b", client_burst=1))
    with sharing(store.url, *routes) as stage:
        connected(stage)
        assert ask(stage, 1, "/a") + ask(stage, 1, "/b") == [200] * 2
        exchanged(stage)
        assert ask(stage, 1, "/a") + ask(stage, 1, "/b") == [429] * 2
        assert store.ask("DBSIZE") == b":2"


def test_what_is_kept_expires(store):
    with sharing(store.url, changed(ROUTE, client_rate=50.0)) as stage:
        connected(stage)
        assert ask(stage, 3) == [200] * 3
        exchanged(stage)
        stage.until(lambda: store.ask("DBSIZE") == b":0")


def test_many_clients_are_several_exchanges(store):
    with sharing(store.url) as stage:
        connected(stage)
        [limit] = store_of(stage)._limits
        for number in range(1500):
            limit.count(number.to_bytes(4, "big"))
        exchanged(stage)
        assert store.ask("DBSIZE") == b":1500"


def test_a_script_that_the_store_forgets_is_loaded_again(store, capfd):
    with sharing(store.url) as stage:
        connected(stage)
        assert ask(stage) == [200]
        exchanged(stage)
        store.ask("SCRIPT", "FLUSH")
        stage.time.advance(0.1)
        assert ask(stage) == [200]
        stage.until(lambda: store_of(stage).is_away)
        stage.later(2)
        connected(stage)
        assert ask(stage) == [200]
        exchanged(stage)
        assert store.ask("DBSIZE") == b":1"
    said = capfd.readouterr().err
    assert "is away (NOSCRIPT" in said
    assert "is back: each client_rate counts for all its machines." in said


def test_a_password_and_a_database():
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), "--requirepass", "secret")
        server.start()
        try:
            with sharing(server.url.replace("unix://", "unix://:secret@")) as stage:
                connected(stage)
                assert ask(stage, 11) == [200] * 10 + [429]
            with sharing(server.url) as stage:
                stage.until(lambda: store_of(stage)._is_told)
                assert ask(stage, 11) == [200] * 10 + [429]
        finally:
            server.stop()


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, Path, int]]:
    """A server that wants a client's certificate, the folder of all files, and its port."""
    folder = tmp_path_factory.mktemp("tls")
    certificates.write(folder, certificates.issued("localhost"))
    certificates.write(folder, certificates.issued_to("halfsync@test.example"), "client")
    port = free_port()
    files = [
        f"--tls-{name}-file {folder}/{file}"
        for name, file in (("cert", "server.pem"), ("key", "server.key"), ("ca-cert", "ca.pem"))
    ]
    with tempfile.TemporaryDirectory() as short:
        server = RedisServer(Path(short), "--tls-port", str(port), *" ".join(files).split())
        server.start()
        yield server, folder, port
        server.stop()


def test_over_tls(over_tls, capfd):
    server, folder, port = over_tls
    server.ask("FLUSHALL")
    own = f"ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"
    url = f"rediss://localhost:{port}/1?ssl_ca_certs={folder}/ca.pem&{own}"
    with sharing(url) as stage:
        connected(stage)
        [limit] = store_of(stage)._limits
        for number in range(1500):  # more than one record of TLS holds
            limit.count(number.to_bytes(4, "big"))
        exchanged(stage)
        assert ask(stage, 11) == [200] * 10 + [429]
        exchanged(stage)
    with sharing(url) as other:
        connected(other)
        assert ask(other, 1) == [200]
        exchanged(other)
        assert ask(other, 1) == [429]
    assert f"limit_store rediss://localhost:{port} is connected" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("rediss://localhost:{port}", "its certificate can't be trusted: "),
        ("rediss://127.0.0.1:{port}?ssl_ca_certs={folder}/ca.pem", "IP address mismatch"),
        ("rediss://localhost:{port}?ssl_ca_certs={folder}/none", "{folder}/none: No such file or directory"),
        ("rediss://localhost:{port}?ssl_ca_certs={folder}/client.key", "TLS: "),
        # The server wants one of ours.
        ("rediss://localhost:{port}?ssl_cert_reqs=none", ""),
        ("redis://localhost:{port}", ""),
        ("rediss://nowhere.invalid", "its host 'nowhere.invalid' has no address"),
    ],
)
def test_tls_that_fails(over_tls, url: str, words: str, capfd):
    _, folder, port = over_tls
    with sharing(url.format(port=port, folder=folder)) as stage:
        stage.until(lambda: store_of(stage)._is_told)
        assert ask(stage, 11) == [200] * 10 + [429]
        stage.later(40)
    said = capfd.readouterr().err
    assert said.count(" is away (") == 1
    assert words.format(folder=folder) in said


# --- connections -----------------------------------------------------------------------------------


CLOSED = "there is no 429 to a connection too many: it is closed before its handshake"


def elsewhere(store: RedisServer, number: int) -> None:
    """Another machine has so many connections of this client."""
    store.ask("HSET", CONNECTIONS, "elsewhere", f"'{number} 9000000000000000'")


def test_connections_at_all_machines_count(store, capfd):
    skip_with_tls(CLOSED)
    elsewhere(store, 2)
    with counting(store.url) as stage:
        first = stage.client()
        assert first.ask("/").status == 200  # it has not heard of the others yet
        told(stage)
        assert stage.client().ask("/").status == 429
        told(stage)
        assert stage.client().ask("/").status == 429
        told(stage)
        elsewhere(store, 1)
        # It hears of that as soon as somebody is refused.
        assert stage.client().ask("/").status == 429
        told(stage)
        assert stage.client().ask("/").status == 200
        told(stage)
        assert store.ask("HLEN", CONNECTIONS) == b":2"
        assert stage.client().ask("/").status == 429
    said = capfd.readouterr().err
    assert (
        "429 to 127.0.0.1: it has 3 connections already, 2 of them at other machines (client_connec" in said
    )
    assert "is connected: client_connections counts for all its machines." in said


def test_nothing_is_kept_of_connections_that_are_closed(store):
    with counting(store.url) as stage:
        client = stage.client()
        assert client.ask("/").status == 200
        told(stage)
        assert store.ask("DBSIZE") == b":1"
        client.sock.close()
        stage.until(lambda: not stage.pump.connections)
        told(stage)
        assert store.ask("DBSIZE") == b":0"


def test_a_machine_that_says_nothing_more_does_not_count(store):
    """And one that has written something else neither."""
    skip_with_tls(CLOSED)
    elsewhere(store, 2)
    for field, value in (("late", "'99 1000'"), ("odd", "x")):
        store.ask("HSET", CONNECTIONS, field, value)
    with counting(store.url) as stage:
        client = stage.client()
        assert client.ask("/").status == 200
        told(stage)
        assert stage.client().ask("/").status == 429
        assert store.ask("HLEN", CONNECTIONS) == b":2"
        assert 0 < int(store.ask("PTTL", CONNECTIONS)[1:]) <= 60_000


def test_without_a_store_each_counts_its_own(store):
    skip_with_tls(CLOSED)
    elsewhere(store, 2)
    with counting(store.url) as stage:
        clients = [stage.client()]
        assert clients[0].ask("/").status == 200
        told(stage)
        assert stage.client().ask("/").status == 429
        store_of(stage)._lose("the test says so")
        for _ in range(2):
            clients.append(stage.client())
            assert clients[-1].ask("/").status == 200
        assert stage.client().ask("/").status == 429
        connected(stage)
        told(stage)  # all of it again
        assert store.ask("HGET", CONNECTIONS, machine_of(stage)) == b"$18"


def test_what_is_told_again_from_time_to_time(store):
    with counting(store.url) as stage:
        client = stage.client()
        assert client.ask("/").status == 200
        told(stage)
        store.ask("FLUSHALL")
        stage.later(21)
        told(stage)
        assert store.ask("DBSIZE") == b":1"


def test_rates_and_connections_and_reloads(store, capfd):
    """Both scripts are where they are to be, whatever came first."""
    with Stage(routes=(ROUTE,), limit_store=store.url, forwarded_allow_ips=[]) as stage:
        stage.hand(answers=True)
        connected(stage)
        plan = stage.plan
        for number in (3, 0, 4):
            settings = changed(plan.settings, client_connections=number)
            stage.pump.pools.configure(dataclasses.replace(plan, settings=settings))
            stage.pump.acceptor.configure(dataclasses.replace(plan, settings=settings))
            stage.hand(answers=True)
            connected(stage)
            assert ask(stage) == [200]
            exchanged(stage)
            if number:
                told(stage)
        assert store.ask("TYPE", CONNECTIONS) == b"+hash"
        store_of(stage)._close()
    said = capfd.readouterr().err
    assert "each client_rate and client_connections count for all its machines" in said
    assert "is away" not in said


@contextlib.contextmanager
def counting(url: str) -> Iterator[Stage]:
    route = changed(ROUTE, client_rate=0.0, client_burst=0)
    with Stage(routes=(route,), limit_store=url, client_connections=3, forwarded_allow_ips=[]) as stage:
        stage.hand(answers=True)
        connected(stage)
        yield stage
        store_of(stage)._close()


def told(stage: Stage) -> None:
    """All that is to be told is, and what the store says has come."""

    def is_done() -> bool:
        found = store_of(stage)
        assert found._connections is not None
        if not found._asked:
            stage.time.advance(0.1)
            found.has_counted()
        return not found._asked and not found._connections.changed

    stage.until(is_done)


def machine_of(stage: Stage) -> str:
    return store_of(stage)._machine.decode()


# --- none, or worse --------------------------------------------------------------------------------


def test_without_one_each_machine_counts_alone_and_says_so_once(tmp_path, capfd):
    with sharing(f"unix://{tmp_path}/none") as stage:
        stage.later(20)
        assert ask(stage, 11) == [200] * 10 + [429]
        stage.later(100)
    said = capfd.readouterr().err
    assert said.count("is away (No such file or directory): client_rate counts what comes to") == 1


def test_a_host_without_an_address(capfd):
    with sharing("redis://nowhere.invalid") as stage:
        stage.until(lambda: store_of(stage)._is_told)
        assert ask(stage, 11) == [200] * 10 + [429]
    assert "is away (its host 'nowhere.invalid' has no address)" in capfd.readouterr().err


class Impostor:
    """It takes connections, and what it does then is up to the test."""

    def __init__(self, answer: Callable[[socket.socket], Any]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.clients: list[socket.socket] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def work(self) -> int:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return 0
        self.clients.append(client)
        self._answer(client)
        return 1

    def close(self) -> None:
        for one in (*self.clients, self._listener):
            one.close()


IMPOSTORS: dict[str, tuple[Callable[[socket.socket], Any], str]] = {
    "says nothing": (lambda client: None, "no reply in time"),
    "hangs up": (lambda client: client.close(), ""),
    "speaks HTTP": (lambda client: client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak"),
    "refuses": (lambda client: client.send(b"-LOADING Redis is loading\r\n"), "LOADING Redis is loading"),
    "says too much": (lambda client: client.send(b"$3\r\nabc\r\n:1\r\n"), "it sent a reply to nothing"),
    "has no scripts": (lambda client: client.send(b":1\r\n"), "it takes no scripts"),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_what_is_no_store(name: str, capfd):
    answer, words = IMPOSTORS[name]
    impostor = Impostor(answer)
    with contextlib.closing(impostor), sharing(impostor.url) as stage:
        stage.helpers.append(impostor.work)
        stage.until(lambda: impostor.clients)
        for _ in range(5):
            stage.later(1)
        stage.until(lambda: store_of(stage)._is_told)
        assert ask(stage, 11) == [200] * 10 + [429]
        stage.later(60)
        assert len(impostor.clients) < 15  # it is not tried all the time
    said = capfd.readouterr().err
    assert said.count(" is away (") == 1 or words == "it sent a reply to nothing"
    assert words in said


def test_one_that_stops_to_reply_is_given_up(capfd):
    """What is counted meanwhile is bounded, and no request waits."""
    impostor = Impostor(lambda client: client.send(b"$3\r\nabc\r\n"))
    with contextlib.closing(impostor), sharing(impostor.url) as stage:
        stage.helpers.append(impostor.work)
        connected(stage)
        assert ask(stage, 11) == [200] * 10 + [429]
        stage.later(2.5)
        assert not any(limit.counted for limit in store_of(stage)._limits)
    assert "is away (no reply in time)" in capfd.readouterr().err


def test_a_reload_may_change_it(store, tmp_path):
    with sharing(store.url) as stage:
        connected(stage)
        plan = stage.plan
        without = dataclasses.replace(plan, settings=changed(plan.settings, limit_store=None))
        stage.pump.pools.configure(without)
        assert store_of(stage).is_away
        assert ask_directly(stage) is None
        stage.pump.pools.configure(plan)
        connected(stage)


def ask_directly(stage: Stage) -> object:
    """What a limit is without a store."""
    return store_of(stage).limit("name", 1.0, lambda key, full_at: None)
