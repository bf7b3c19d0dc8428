"""Behind a proxy: what the application and the access log see of the client."""

from __future__ import annotations

import json

import pytest

from tests.e2e.harness import Client, Server, serving

APPLICATION = """
import json
KEYS = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST", "SERVER_PORT", "SCRIPT_NAME")
made = 0
def app(environ, start):
    global made
    made += 1
    if environ["PATH_INFO"] == "/leased":
        environ["halfsync.lease"](60)
    start("200 OK", [])
    names = sorted(key for key in environ if "FORWARDED" in key)
    return [json.dumps({**{key: environ[key] for key in KEYS}, "made": made, "names": names}).encode()]
"""
FORWARDED = (
    "X-Forwarded-For: 6.6.6.6, 192.0.2.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: shop.example",
)


def seen(client: Client, target: str, *fields: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(client.ask(target, *fields).body)
    return found


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    return tmp_path


def test_a_proxy_on_this_machine_is_believed(folder):
    with serving(folder, "app:app", "--access-logfile", "access") as server, server.client() as client:
        for _ in range(2):  # the second time the head is known
            found = seen(client, "/", *FORWARDED)
            assert (found["REMOTE_ADDR"], found["REMOTE_PORT"]) == ("192.0.2.7", "0")
            assert (found["wsgi.url_scheme"], found["SERVER_PORT"]) == ("https", "443")
            assert found["HTTP_HOST"] == "story.test"
            direct = seen(client, "/")
            assert (direct["REMOTE_ADDR"], direct["wsgi.url_scheme"]) == ("127.0.0.1", "http")
            assert direct["REMOTE_PORT"] == str(client.socket.getsockname()[1])
        server.until(lambda: (folder / "access").read_text().count("\n") == 4)
        clients = [line.split()[0] for line in (folder / "access").read_text().splitlines()]
        assert clients == ["192.0.2.7", "127.0.0.1"] * 2


def test_forwarded_and_the_prefix(folder):
    options = ("--forwarded-headers", "forwarded,x-forwarded-prefix", "--access-logfile", "access")
    fields = ("Forwarded: for=192.0.2.7;proto=https;host=shop.example", "X-Forwarded-Prefix: /shop")
    with serving(folder, "/under=app:app", *options) as server, server.client() as client:
        for _ in range(2):
            found = seen(client, "/under/a", *fields)
            assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("192.0.2.7", "https")
            assert (found["HTTP_HOST"], found["SCRIPT_NAME"]) == ("shop.example", "/shop/under")
        assert seen(client, "/under/a")["SCRIPT_NAME"] == "/under"
        server.until(lambda: (folder / "access").read_text().count("\n") == 3)
        clients = [line.split()[0] for line in (folder / "access").read_text().splitlines()]
        assert clients == ["192.0.2.7", "192.0.2.7", "127.0.0.1"]


def test_a_route_for_some_is_for_those_that_forwarded_names(folder):
    (folder / "halfsync.toml").write_text(
        'forwarded_headers = ["forwarded"]\n[routes]\n"/" = { app = "app:app", allow = ["192.0.2.0/24"] }\n'
    )
    with serving(folder, "-c", "halfsync.toml") as server, server.client() as client:
        assert client.ask("/", "Forwarded: for=192.0.2.7").status == 200
        assert client.ask("/", 'Forwarded: for="192.0.2.7', "Forwarded: for=6.6.6.6").status == 403
        assert client.ask("/", "X-Forwarded-For: 192.0.2.7").status == 403


@pytest.mark.parametrize("allowed", ["", "10.0.0.0/8"])
def test_others_are_not(folder, allowed):
    options = ("--forwarded-allow-ips", allowed, "--access-logfile", "access")
    with serving(folder, "app:app", *options) as server, server.client() as client:
        found = seen(client, "/", *FORWARDED)
        assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("127.0.0.1", "http")
        # Where nobody is believed, the application may judge by itself.
        assert bool(found["names"]) is not bool(allowed)
        assert ("came from 127.0.0.1, which is not in forwarded_allow_ips" in server.log()) is bool(allowed)
        server.until(lambda: (folder / "access").read_text().startswith("127.0.0.1 "))


def test_by_a_unix_socket_the_log_and_the_application_have_the_client(folder):
    options = (
        "-b",
        "unix:sock",
        "--access-logfile",
        "access",
        "--forwarded-headers",
        "x-forwarded-for,X-Forwarded-Host",
    )
    with serving(folder, "app:app", *options, bind=False) as server, Client(str(folder / "sock")) as client:
        found = seen(client, "/", *FORWARDED)
        assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("192.0.2.7", "http")
        assert found["HTTP_HOST"] == "shop.example"
        server.until(lambda: (folder / "access").read_text().startswith("192.0.2.7 "))


def test_the_variable_is_gunicorns(folder):
    with serving(folder, "app:app", environment={"FORWARDED_ALLOW_IPS": "10.9.9.9"}) as server:
        assert json.loads(server.get("/", *FORWARDED).body)["wsgi.url_scheme"] == "http"


def test_a_lease_is_for_one_scheme_and_host(folder):
    """The field is a part of what the same request is, whether the application names it or not."""
    names = ("--forwarded-headers", "x-forwarded-proto,x-forwarded-host")
    with serving(folder, "app:app", *names) as server, server.client() as client:
        pages = [
            seen(client, "/leased", *fields)
            for fields in (
                (),
                ("X-Forwarded-Proto: https",),
                ("X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example"),
            )
        ]
        assert [page["made"] for page in pages] == [1, 2, 3]
        assert [page["wsgi.url_scheme"] for page in pages] == ["http", "https", "https"]
        assert seen(client, "/leased") == pages[0]
        assert seen(client, "/leased", "X-Forwarded-Proto: https") == pages[1]


def test_who_is_not_believed_gets_no_lease_with_such_a_field(folder):
    """Else anybody could fill in what a trusted proxy's clients get."""
    with serving(folder, "app:app", "--forwarded-allow-ips", "10.0.0.1") as server, server.client() as client:
        assert [seen(client, "/leased", "X-Forwarded-Proto: https")["made"] for _ in range(3)] == [1, 2, 3]
        assert "a peer that is not in forwarded_allow_ips" in server.log()
        first = seen(client, "/leased")
        assert seen(client, "/leased") == first


def test_a_mistake_is_reported_at_the_start(folder):
    server = Server(folder, ("app:app", "-b", "127.0.0.1:0", "--forwarded-allow-ips", "localhost"), {})
    assert server.ends() == 2
    assert "halfsync: forwarded_allow_ips: 'localhost' is neither an address" in server.log()
