"""Health checks at an address of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import certificates
from tests.e2e.harness import LONG, Answer, Client, Server, kill, serving

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
