"""Behind HAProxy, which speaks the PROXY protocol or HTTP; and curl's own PROXY header."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import issued, write
from tests.e2e.harness import LONG, command, serving, until
from tests.e2e.test_behind_nginx import is_listening
from tests.ports import free_port

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

APPLICATION = """
import json
def app(environ, start):
    start("200 OK", [])
    keys = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST")
    return [json.dumps({key: environ[key] for key in keys}).encode()]
"""
CONFIGURATION = """
global
    maxconn 100
defaults
    timeout connect 20s
    timeout client 20s
    timeout server 20s
frontend shop
    mode {mode}
    bind 127.0.0.1:{port}
    {of_frontend}
    default_backend shop
backend shop
    mode {mode}
    source 127.0.0.3
    server shop 127.0.0.1:{target} {of_server}
"""


@contextmanager
def haproxy(
    folder: Path, target: int, of_server: str = "", *, mode: str = "tcp", of_frontend: str = ""
) -> Iterator[int]:
    """Its port. It connects from 127.0.0.3."""
    assert HAPROXY is not None
    port = free_port()
    text = CONFIGURATION.format(
        mode=mode, port=port, of_frontend=of_frontend, target=target, of_server=of_server
    )
    (folder / "haproxy.cfg").write_text(text)
    with (folder / "haproxy-output").open("wb") as output:
        process = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(folder / "haproxy.cfg")], stdout=output, stderr=output
        )
    try:
        until(lambda: is_listening(port), LONG, (folder / "haproxy-output").read_text)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LONG)
        finally:
            process.kill()


def curl(*arguments: str) -> dict[str, str]:
    found = subprocess.run(
        ["curl", "-sS", "--max-time", str(LONG), "--interface", "127.0.0.2", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not found.returncode, found.stderr
    seen: dict[str, str] = json.loads(found.stdout)
    return seen


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    return tmp_path


TRUSTED = ("--forwarded-allow-ips", "127.0.0.3")


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_the_proxy_protocol_names_the_client(folder, version):
    options = ("--proxy-protocol", "*", *TRUSTED, "--access-logfile", "access")
    with (
        serving(folder, "app:app", *options) as server,
        haproxy(folder, server.port, version) as port,
    ):
        for _ in range(2):
            assert curl(f"http://127.0.0.1:{port}/")["REMOTE_ADDR"] == "127.0.0.2"
        server.until(lambda: (folder / "access").read_text().count("\n") >= 2)
        assert "127.0.0.2 " in (folder / "access").read_text()


def test_with_tls_behind_it(folder):
    certificate, key = write(folder, issued("shop.example"))
    options = ("--proxy-protocol", "*", *TRUSTED, "--certfile", certificate, "--keyfile", key)
    with (
        serving(folder, "app:app", *options) as server,
        haproxy(folder, server.port, "send-proxy-v2") as port,
    ):
        where = ("--cacert", str(folder / "ca.pem"), "--connect-to", f"shop.example:443:127.0.0.1:{port}")
        found = curl(*where, "https://shop.example/")
        assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("127.0.0.2", "https")


def test_by_http_it_names_the_client_in_a_field(folder):
    of_frontend = "option forwardfor"
    with (
        serving(folder, "app:app", *TRUSTED) as server,
        haproxy(folder, server.port, mode="http", of_frontend=of_frontend) as port,
    ):
        assert (
            curl(f"http://127.0.0.1:{port}/", "-H", "X-Forwarded-For: 6.6.6.6")["REMOTE_ADDR"] == "127.0.0.2"
        )


def test_curls_own_header_and_an_untrusted_peer(folder):
    """What curl says of itself is 127.0.0.1, from which it does connect."""
    options = ("--proxy-protocol", "*", "--forwarded-allow-ips", "127.0.0.1")
    with serving(folder, "app:app", *options) as server:
        where = f"http://127.0.0.1:{server.port}/"
        assert curl("--haproxy-protocol", "--interface", "127.0.0.1", where)["REMOTE_ADDR"] == "127.0.0.1"
        with pytest.raises(AssertionError, match="curl: "):
            curl("--haproxy-protocol", where)  # from 127.0.0.2
        server.until(
            lambda: "closed a connection from 127.0.0.2: it is not in forwarded_allow_ips" in server.log()
        )

        def is_told() -> bool:  # one line a second at most
            with pytest.raises(AssertionError, match="curl: "):
                curl("--interface", "127.0.0.1", where)
            return "it does not begin with a PROXY header (proxy_protocol)" in server.log()

        server.until(is_told)


def test_a_reload_turns_it_on_and_off(folder):
    options = ("-c", "halfsync.toml", *TRUSTED, "--forwarded-allow-ips", "127.0.0.1")

    def configure(proxied: str) -> None:
        text = f'proxy_protocol = [{proxied}]\n[routes]\n"/" = "app:app"\n'
        (folder / "halfsync.toml").write_text(text)

    configure("")
    with serving(folder, *options) as server:
        where = ("--interface", "127.0.0.1", f"http://127.0.0.1:{server.port}/")
        assert curl(*where)
        for times, (proxied, header) in enumerate((('"*"', ("--haproxy-protocol",)), ("", ())), 1):
            configure(proxied)
            server.signal(signal.SIGHUP)
            server.until_logged("The new configuration is in effect", times)
            assert curl(*header, *where)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--proxy-protocol", "127.0.0.1:9"), "proxy_protocol: '127.0.0.1:9' is no address of bind"),
        (("--proxy-protocol", "*", "--forwarded-allow-ips", ""), "proxy_protocol: nobody is believed"),
    ],
)
def test_what_can_not_work_is_told_at_the_start(folder, options, sentence):
    found = subprocess.run(
        [*command(), "app:app", "-b", "127.0.0.1:0", "--check-config", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert found.returncode == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr
