"""Behind nginx, with the very configuration that docs/how-to/behind-tls.md shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import LONG, serving, until
from tests.ports import free_port

PAGE = Path(__file__).parents[2] / "docs/how-to/behind-tls.md"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

pytestmark = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None, reason="nginx or openssl is not installed"
)

APPLICATION = """
import json, pathlib, time
def app(environ, start):
    path = environ["PATH_INFO"]
    if path == "/upload":
        size = 0
        while data := environ["wsgi.input"].read(65536):
            size += len(data)
        start("200 OK", [])
        return [str(size).encode()]
    if path == "/steps":
        start("200 OK", [])
        return steps()
    start("200 OK", [])
    keys = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_PORT")
    return [json.dumps({key: environ[key] for key in keys}).encode()]

def steps():
    yield b"first"
    while not pathlib.Path("seen").exists():
        time.sleep(0.01)
    yield b"second"
"""


def documented() -> str:
    found = re.search(r"<!-- nginx -->\n```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def certificate(tmp_path):
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"),
            *("/CN=shop.example", "-keyout", str(tmp_path / "shop.key"), "-out", str(tmp_path / "shop.pem")),
        ],
        check=True,
        capture_output=True,
        timeout=2 * LONG,
    )
    return tmp_path


@contextmanager
def nginx(folder: Path, target: str) -> Iterator[int]:
    """Its port. `target` takes the place of the documented socket."""
    assert NGINX is not None
    port = free_port()
    site = documented()
    for theirs, ours in (
        ("unix:/run/shop/http.sock", target),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/", f"{folder}/"),
    ):
        assert theirs in site
        site = site.replace(theirs, ours)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx-errors;\n"
        f"events {{}}\nhttp {{ access_log off;\n{own}{site}}}\n"
    )
    with (folder / "nginx-output").open("wb") as output:
        process = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf")], stdout=output, stderr=output)
    try:
        until(lambda: is_listening(port), LONG, (folder / "nginx-output").read_text)
        yield port
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(LONG)
        finally:
            process.kill()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def connected(port: int) -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), LONG) as plain,
        context.wrap_socket(plain, server_hostname="shop.example") as connection,
    ):
        yield connection


def get(connection: ssl.SSLSocket, target: str, *fields: str) -> None:
    connection.sendall(
        "\r\n".join([f"GET {target} HTTP/1.1", "Host: shop.example", *fields, "", ""]).encode()
    )


def read_until(connection: ssl.SSLSocket, words: bytes) -> bytes:
    data = b""
    while words not in data:
        more = connection.recv(65536)
        assert more, data
        data += more
    return data


@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_the_documented_configuration_works(certificate, where):
    folder = certificate
    (folder / "app.py").write_text(APPLICATION)
    (folder / "static").mkdir()
    (folder / "static/style.css").write_text("body { color: teal }")
    os.chmod(folder, 0o755)
    bind = f"unix:{folder}/http.sock" if where == "unix" else "127.0.0.1:0"
    options = ("--bind", bind, "--access-logfile", "access")
    with serving(folder, "app:app", "/static=./static", *options, bind=False) as server:
        target = bind if where == "unix" else f"127.0.0.1:{server.port}"
        with nginx(folder, target) as port, connected(port) as connection:
            get(connection, "/", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil.example")
            answer = read_until(connection, b"}")
            assert json.loads(answer[answer.index(b"{") : answer.index(b"}") + 1]) == {
                "REMOTE_ADDR": "127.0.0.1",
                "wsgi.url_scheme": "https",
                "HTTP_HOST": "shop.example",
                "SERVER_PORT": "443",
            }
            get(connection, "/static/style.css")
            assert b"200 OK" in read_until(connection, b"teal")
            # A response that is produced step by step comes step by step.
            get(connection, "/steps")
            assert b"second" not in read_until(connection, b"first")
            (folder / "seen").touch()
            read_until(connection, b"second")
            upload(port, 3 * 1024 * 1024)
        server.until(lambda: (folder / "access").read_text().count("\n") == 4)
        log = (folder / "access").read_text().splitlines()
        assert [line.split()[0] for line in log] == ["127.0.0.1"] * 4


def upload(port: int, size: int) -> None:
    """Larger than nginx's own default limit."""
    with connected(port) as connection:
        head = f"POST /upload HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {size}\r\n\r\n"
        connection.sendall(head.encode() + b"x" * size)
        assert b"200 OK" in read_until(connection, str(size).encode())
