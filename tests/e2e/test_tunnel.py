"""`halfsync.tunnel`: after an upgrade, a client talks to a socket that the application has handed over."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.e2e.harness import LONG, MIB, Client, pattern, request, serving

UPGRADE = ("Connection: keep-alive, Upgrade", "Upgrade: shout, other")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    logs = ("--access-logfile", "access", "--access-logformat", "json")
    with serving(folder, "tunnels:app", "--threads", "2", *logs) as server:
        server.tracebacks = -1
        yield server


def upgraded(client: Client, path: str = "/") -> None:
    client.send(request(path, *UPGRADE))
    answer = client.answer()
    assert answer.status == 101
    assert answer["Connection"] == "Upgrade"
    assert answer["Upgrade"] == "shout"


def test_a_client_talks_to_the_applications_thread(site):
    with site.client() as client:
        client.send(request("/", *UPGRADE) + b"at once ")
        answer = client.answer()
        assert (answer.status, answer["X-Said"]) == (101, "hello")
        assert client.take(8) == b"AT ONCE "
        for _ in range(3):
            client.send(b"some words ")
            assert client.take(11) == b"SOME WORDS "
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b"BYE"


def test_more_tunnels_than_threads(site):
    """A tunnel holds no thread of the server's."""
    clients = [site.client() for _ in range(10)]
    for client in clients:
        upgraded(client)
    for client in clients:
        client.send(b"abc")
        assert client.take(3) == b"ABC"
        client.close()


def test_megabytes_both_ways_at_once(site):
    data = pattern(20 * MIB).replace(b"\0", b"a").lower()
    with site.client() as client:
        upgraded(client)
        sender = threading.Thread(target=client.send, args=[data])
        sender.start()
        assert client.take(len(data)) == data.upper()
        sender.join()
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b"BYE"
    lines = site.until(lambda: [one for one in logged(site) if one["body_bytes"] == len(data) + 3])
    assert lines[0]["status"] == 101


def logged(site) -> list[dict[str, object]]:
    file = Path(site.folder, "access")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def test_a_client_is_connected_to_another_server(site):
    with socket.create_server(("127.0.0.1", 0)) as other, site.client() as client:
        other.settimeout(LONG)
        upgraded(client, f"/to?{other.getsockname()[1]}")
        there, _ = other.accept()
        with there:
            there.settimeout(LONG)
            client.send(b"to you")
            assert there.recv(100) == b"to you"
            there.sendall(b"to me")
            assert client.take(5) == b"to me"
        assert client.rest() == b""


NOT_ASKED = [(), ("Upgrade: shout",), ("Connection: Upgrade",), ("Connection: x", UPGRADE[1])]


@pytest.mark.parametrize("fields", NOT_ASKED, ids=["nothing", "no option", "no protocol", "another option"])
def test_there_is_none_for_who_does_not_ask(site, fields):
    answer = site.get("/", *fields)
    assert (answer.status, answer.body) == (426, b"Ask for an upgrade.\n")


def test_the_same_head_is_upgraded_each_time(site):
    """Nothing of it is kept for the next one."""
    for _ in range(3):
        with site.client() as client:
            upgraded(client)
        assert site.get("/").status == 426


def test_what_can_not_be_a_tunnel_is_a_500(site):
    assert site.get("/wrong", *UPGRADE).status == 500
    site.until_logged("a tunnel needs a stream socket")


def test_a_stop_lets_both_say_goodbye(tmp_path):
    with serving(tmp_path, "tunnels:app") as server, server.client() as client:
        upgraded(client)
        client.send(b"abc")
        assert client.take(3) == b"ABC"
        server.signal(signal.SIGTERM)
        assert client.rest() == b"BYE"
        client.close()
        assert server.ends() == 0


def test_a_reload_leaves_it_open(tmp_path):
    """The old worker goes on as long as its thread has something to say, within graceful_timeout."""
    with serving(tmp_path, "tunnels:app", "--preload") as server, server.client() as client:
        upgraded(client)
        server.signal(signal.SIGHUP)
        server.until_logged(r"worker\(tunnels:app\) \[\d+\] is ready", 2)
        assert server.get("/").status == 426
        client.send(b"abc")
        assert client.take(3) == b"ABC"


def test_nothing_goes_through_for_long(tmp_path):
    with serving(tmp_path, "tunnels:app", "--tunnel-timeout", "1") as server, server.client() as client:
        upgraded(client)
        assert client.rest() == b""
