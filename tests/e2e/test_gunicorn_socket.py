"""`gunicorn.socket`, for libraries that speak WebSocket by themselves (Flask-Sock, Flask-SocketIO)."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.e2e.harness import Client, request, serving

UPGRADE = ("Connection: Upgrade", "Upgrade: shout")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    logs = ("--access-logfile", "access", "--access-logformat", "%U %s")
    with serving(folder, "upgrading:app", "--threads", "2", *logs) as server:
        server.tracebacks = -1
        yield server


def upgraded(client: Client, path: str = "/shout") -> None:
    client.send(request(path, *UPGRADE))
    answer = client.answer()
    assert (answer.status, answer["Upgrade"], answer["Connection"]) == (101, "Shout", "Upgrade")
    assert answer["X-Said"] == "hello"
    assert client.take(8) == b"at once "


@pytest.mark.parametrize("path", ["/shout", "/returns", "/generator"])
def test_a_conversation_until_the_client_ends_it(site, path):
    before = site.log()
    with site.client() as client:
        upgraded(client, path)
        for _ in range(3):
            client.send(b"some words ")
            assert client.take(11) == b"SOME WORDS "
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    site.until(lambda: f"{path} 101" in (site.folder / "access").read_text())
    assert site.get("/").body == b"none"
    assert f"response to GET {path}" not in site.log()[len(before) :]


@pytest.mark.parametrize("path", ["/shout", "/returns", "/generator"])
def test_a_conversation_until_the_application_ends_it(site, path):
    with site.client() as client:
        upgraded(client, path)
        client.send(b"and bye")
        assert client.rest() == b"AND BYE"


def test_an_application_that_fails_is_logged(site):
    with site.client() as client:
        upgraded(client, "/fails")
        client.send(b"bye")
        assert client.rest() == b"BYE"
    site.until_logged("Exception after the response to GET /fails")
    site.until_logged("in the middle of the conversation")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/reads", "the client is connected when the application has written its 101"),
        ("/no", "gunicorn.socket is for a 101, and this is none: HTTP/1.1 400 Bad Request"),
        ("/much", "a header section of more than 65536 bytes"),
        ("/field", "gunicorn.socket is for a 101, and this is none: The value of the header field 'X'"),
    ],
)
def test_what_is_not_possible_is_an_error_and_the_request_goes_on(site, path, said):
    answer = site.get(path, *UPGRADE)
    assert answer.status == 200
    assert answer.body.decode().startswith(f"refused: {said}")


def test_a_socket_is_of_no_use_after_its_request(site):
    with site.client() as client:
        client.send(request("/keeps", *UPGRADE))
        assert client.answer().body == b"kept"
        client.send(request("/use"))
        assert client.answer().body == b"refused: its request has a response already, or is another thread's"


def test_only_who_asks_for_an_upgrade_has_one(site):
    assert site.get("/shout").body == b"none"
    assert site.get("/shout", "Upgrade: shout").body == b"none"


def test_a_reload_ends_it(tmp_path):
    """The client connects again, and talks to the new worker. Nothing waits for graceful_timeout."""
    with serving(tmp_path, "upgrading:app", "--graceful-timeout", "600") as server, server.client() as client:
        upgraded(client)
        server.signal(signal.SIGHUP)
        assert client.rest() == b""
        server.until_logged("upgrading:app: the old workers are gone; the reload is over")
        with server.client() as another:
            upgraded(another)
            server.signal(signal.SIGTERM)
            assert another.rest() == b""
        assert server.ends() == 0


def test_one_that_begins_while_its_worker_leaves(tmp_path):
    """What the application writes is sent, and then it reads that there is nothing more."""
    with serving(tmp_path, "upgrading:app", "--threads", "2", "--graceful-timeout", "600") as server:
        with server.client() as early, server.client() as late:
            upgraded(early)
            late.send(request("/late", *UPGRADE))
            server.until((tmp_path / "waits").exists)
            server.signal(signal.SIGHUP)
            assert early.rest() == b""
            (tmp_path / "go").touch()
            answer = late.answer()
            assert answer.status == 101
            assert late.rest() == b"at once "
        server.until_logged("upgrading:app: the old workers are gone; the reload is over")
