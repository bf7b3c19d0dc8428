"""Health checks at an address of their own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import certificates
from tests.e2e.harness import LONG, Answer, Client, Server, kill, serving
from tests.e2e.test_reconfigure import Site, site
from tests.ports import free_ports

APPLICATION = """
from pathlib import Path
if Path("broken").exists():
    raise RuntimeError("this code does not import")
def app(environ, start):
    start("200 OK", [])
    return [environ["PATH_INFO"].encode()]
"""


def check(server: Server, target: str, index: int = 1) -> Answer:
    host, _, port = server.addresses[index].removeprefix("http://").rpartition(":")
    with Client((host, int(port))) as client:
        return client.ask(target)


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    (tmp_path / "app.py").write_text(APPLICATION)
    with serving(tmp_path, "app:app", "--health-bind", "127.0.0.2:0") as running:
        yield running


def test_a_server_is_ready_as_long_as_its_applications_have_workers(server):
    assert (check(server, "/-/healthy").status, check(server, "/-/healthy").body) == (200, b"healthy\n")
    assert (check(server, "/-/ready").status, check(server, "/-/ready").body) == (200, b"ready\n")
    assert check(server, "/").status == 404, "nothing else is there"
    assert check(server, "/-/healthy/more").status == 404
    assert server.get("/-/healthy").body == b"/-/healthy", "at other addresses that is the application's"
    server.tracebacks = -1
    broken = server.errors.parent / "broken"
    broken.touch()
    kill(*server.workers("app:app"))
    server.until(lambda: check(server, "/-/ready").status == 503)
    assert check(server, "/-/ready").body == b"app:app has no worker.\n"
    assert check(server, "/-/healthy").status == 200
    broken.unlink()
    server.until(lambda: check(server, "/-/ready").status == 200)


def test_with_tls_they_are_in_clear_all_the_same_and_not_redirected(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    certfile, keyfile = certificates.write(tmp_path, certificates.issued("localhost"))
    (tmp_path / "halfsync.toml").write_text(
        f'certfile = "{certfile}"\nkeyfile = "{keyfile}"\nbind = ["https://127.0.0.1:0", "http://127.0.0.3:0"]\n'
        'redirect_http = true\nhsts = "max-age=10"\nhealth_bind = ["127.0.0.2:0"]\n'
        '[routes]\n"/" = "app:app"\n'
    )
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        assert check(server, "/-/ready", 2).status == 200
        assert check(server, "/-/ready", 1).status == 301


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_an_address_of_its_own(scheme):
    bind, health = f"{scheme}127.0.0.1:9", "127.0.0.1:9"
    command = [sys.executable, "-m", "halfsync", "-b", bind, "--health-bind", health, "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 2
    assert "health_bind: 127.0.0.1:9 is in bind too;" in done.stderr


ROUTES = """
bind = ["127.0.0.1:0"]
{health}
[routes]
"/" = "first:app"
"""


def status_at(host: str, port: int, target: str = "/-/ready") -> int:
    """0: nobody listens there."""
    try:
        with Client((host, port)) as client:
            return client.ask(target).status
    except ConnectionRefusedError:
        return 0


def test_a_reload_adds_moves_and_removes_the_addresses(tmp_path):
    first, second = free_ports(2)

    def reload(server: Site, *addresses: str) -> str:
        return server.reload(ROUTES.format(health=f"health_bind = {list(addresses)}"))

    with site(tmp_path, ROUTES.format(health="")) as running:
        server = running.server
        assert status_at("127.0.0.2", first) == 0
        assert "configuration is in effect" in reload(running, f"127.0.0.2:{first}")
        assert status_at("127.0.0.2", first) == 200
        assert status_at("127.0.0.2", first, "/") == 404, "nothing else is there"
        assert server.get("/-/ready").body.startswith(b"first"), "and here it is the application's"
        with Client(("127.0.0.2", first)) as kept:
            assert kept.ask("/-/healthy").body == b"healthy\n"
            # Another one beside it; who is connected stays.
            assert "configuration is in effect" in reload(
                running, f"127.0.0.2:{first}", f"127.0.0.2:{second}"
            )
            assert kept.ask("/-/healthy").body == b"healthy\n"
            assert status_at("127.0.0.2", second) == 200
            # The first one goes: its connections get one more response, and are closed.
            assert "configuration is in effect" in reload(running, f"127.0.0.2:{second}")
            server.until(lambda: status_at("127.0.0.2", first) == 0)
            assert kept.ask("/-/healthy")["Connection"] == "close"
            assert kept.is_closed()
        assert status_at("127.0.0.2", second, "/-/ready") == 200
        # One that can't be had: nothing changes.
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = "{}:{}".format(*other.getsockname())
            said = reload(running, taken)
            assert "Reload failed" in said
            assert taken in said
        assert status_at("127.0.0.2", second) == 200
        assert "configuration is in effect" in reload(running)
        server.until(lambda: status_at("127.0.0.2", second) == 0)
        assert server.get("/-/ready").status == 200


def test_an_address_changes_sides_at_a_reload(tmp_path):
    """What was for health checks serves the application, and the other way round."""
    one, other = (f"127.0.0.2:{port}" for port in free_ports(2))
    text = 'bind = ["{bind}"]\nhealth_bind = ["{health}"]\n[routes]\n"/" = "first:app"\n'
    with site(tmp_path, text.format(bind=one, health=other)) as running:

        def served(address: str) -> bytes:
            host, _, port = address.rpartition(":")
            with Client((host, int(port))) as client:
                return client.ask("/-/healthy").body

        assert (served(one)[:5], served(other)) == (b"first", b"healthy\n")
        assert "configuration is in effect" in running.reload(text.format(bind=other, health=one))
        assert (served(one), served(other)[:5]) == (b"healthy\n", b"first")
