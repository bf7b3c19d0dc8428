"""What an ASGI application is told of its connections over TLS (the extension `tls`)."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.certificates import RSA, chain_of, client_context, issued, issued_to, key_of, write
from tests.e2e.harness import Server, serving, until

APPLICATION = """
import json

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = json.dumps(scope["extensions"].get("tls")).encode()
        scope["extensions"]["tls"]["client_cert_chain"].append("changed")
        await send({"type": "http.response.body", "body": body})
"""

SETTINGS = """
bind = ["https://127.0.0.1:0"]
certfile = "server.pem"
keyfile = "server.key"
cert_reqs = "optional"
ca_certs = "ca.pem"

[routes]
"/" = "told:app"

[sites."other.test"]
certfile = "other.pem"
keyfile = "other.key"

[sites."other.test".routes]
"/" = "told:app"

[sites."both.test"]
certfile = ["both.pem", "rsa.pem"]
keyfile = ["both.key", "rsa.key"]
[sites."both.test".routes]
"/" = "told:app"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("told")
    write(folder, issued("server.test"))
    write(folder, issued("other.test"), "other")
    write(folder, issued("both.test"), "both")
    write(folder, issued("both.test", key_type=RSA), "rsa")
    (folder / "told.py").write_text(APPLICATION)
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


class _Connection(http.client.HTTPSConnection):
    """To a host of the server's, by its name."""

    def __init__(self, server: Server, host: str, context: ssl.SSLContext) -> None:
        super().__init__(host, server.port, timeout=60, context=context)
        self._create_connection = self._to_server

    def _to_server(self, address: tuple[str, int], *more: Any) -> Any:
        return socket.create_connection(("127.0.0.1", address[1]), *more)


@contextmanager
def connected(
    server: Server, host: str = "server.test", context: ssl.SSLContext | None = None
) -> Iterator[_Connection]:
    with closing(_Connection(server, host, context or client_context())) as connection:
        connection.connect()
        yield connection


def told(connection: _Connection) -> dict[str, Any]:
    connection.request("GET", "/")
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    return found


def tls_of(connection: _Connection) -> ssl.SSLSocket:
    sock: Any = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    return sock


def shown(connection: _Connection) -> str:
    return ssl.DER_cert_to_PEM_cert(tls_of(connection).getpeercert(True) or b"")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("host", ["server.test", "other.test"])
def test_each_site_tells_of_the_certificate_that_its_clients_are_shown(server: Server, host: str, version):
    context = client_context()
    context.maximum_version = ssl.TLSVersion[version]
    with connected(server, host, context) as connection:
        cipher, _, _ = tls_of(connection).cipher() or ("", "", 0)
        [number] = [one["id"] & 0xFFFF for one in context.get_ciphers() if one["name"] == cipher]
        for _ in range(2):  # what the application changes is its own
            assert told(connection) == {
                "server_cert": shown(connection),
                "client_cert_chain": [],
                "client_cert_name": None,
                "client_cert_error": None,
                "tls_version": ssl.TLSVersion[version].value,
                "cipher_suite": number,
            }


def test_the_certificate_of_a_client(server: Server):
    ann = issued_to("Ann")
    with connected(server, context=client_context(leaf=ann)) as connection:
        for _ in range(2):
            found = told(connection)
            [pem] = found["client_cert_chain"]
            subject = x509.load_pem_x509_certificate(ann.cert_chain_pems[0].bytes()).subject
            assert x509.load_pem_x509_certificate(pem.encode()).subject == subject
            assert found["client_cert_name"] == subject.rfc4514_string()
            assert found["server_cert"] == shown(connection)


def test_where_clients_choose_among_several_certificates_it_is_not_known_which(server: Server):
    with connected(server, "both.test") as connection:
        assert told(connection)["server_cert"] is None


def test_a_connection_outlives_its_certificate(tmp_path: Path):
    write(tmp_path, issued("server.test"))
    (tmp_path / "told.py").write_text(APPLICATION)
    tls = ("--certfile", "server.pem", "--keyfile", "server.key")
    with serving(tmp_path, "told:app", *tls) as server, connected(server) as kept:
        before = shown(kept)
        assert told(kept)["server_cert"] == before
        # With both in one file, the first of its certificates is the server's own.
        fresh = issued("server.test", key_type=RSA)
        (tmp_path / "server.key").write_bytes(key_of(fresh))
        (tmp_path / "server.pem").write_bytes(chain_of(fresh) + chain_of(issued("other.test")))
        server.signal(signal.SIGHUP)
        server.until_logged("told:app is reloaded")

        def shows_another() -> bool:
            with connected(server) as another:
                assert told(another)["server_cert"] == shown(another)
                return shown(another) != before

        until(shows_another)
        assert told(kept)["server_cert"] == before
