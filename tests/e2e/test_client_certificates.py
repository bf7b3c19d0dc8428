"""What an application learns of the TLS connection, and of the certificate that a client shows."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h2.connection
import h2.events
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.certificates import authority, client_context, issued, issued_to, write
from tests.e2e.harness import LONG, Server, curl, serving, until

SETTINGS = """
bind = ["https://127.0.0.1:0"]
certfile = "server.pem"
keyfile = "server.key"
stream_body = false

[routes]
"/" = "environ:app"

[sites."members.test"]
certfile = "server.pem"
keyfile = "server.key"
ca_certs = "ca.pem"
cert_reqs = "optional"
[sites."members.test".routes]
"/" = "environ:app"
"/streamed" = { app = "environ:app", stream_body = true }

[sites."staff.test"]
bind = ["https://127.0.0.2:0"]
certfile = "server.pem"
keyfile = "server.key"
ca_certs = "ca.pem"
cert_reqs = "required"
[sites."staff.test".routes]
"/" = "environ:app"
"""

APPLICATION = """
import json

counts = {}

def app(environ, start_response):
    path = environ["PATH_INFO"]
    counts[path] = counts.get(path, 0) + 1
    if path.startswith("/leased"):
        environ["halfsync.lease"](60, public=path == "/leased/public")
    environ["body"] = len(environ["wsgi.input"].read())
    environ["count"] = counts[path]
    body = json.dumps({key: value for key, value in environ.items() if isinstance(value, str | int)}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("clients")
    write(folder, issued("server.test", "members.test", "staff.test"))
    (folder / "environ.py").write_text(APPLICATION)
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


class Member:
    """A client of one site, on one connection."""

    def __init__(
        self,
        server: Server,
        host: str = "members.test",
        leaf: trustme.LeafCert | None = None,
        session: ssl.SSLSession | None = None,
        context: ssl.SSLContext | None = None,
        name: str | None = None,
        address: int = 0,
    ) -> None:
        """`address`: which one of the server's."""
        self.host = host
        self.context = context or client_context(leaf=leaf)
        place = urlsplit(server.addresses[address])
        raw = socket.create_connection((place.hostname, place.port), LONG)
        self.socket = self.context.wrap_socket(raw, server_hostname=name or host, session=session)

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, target: str = "/", *fields: str, body: bytes = b"") -> dict[str, Any]:
        lines = [
            f"POST {target} HTTP/1.1" if body else f"GET {target} HTTP/1.1",
            f"Host: {self.host}",
            *fields,
        ]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        with self.socket.makefile("rb") as file:
            assert b" 200 " in file.readline()
            size = 0
            while (line := file.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            return json.loads(file.read(size))  # type: ignore[no-any-return]


def certificate_of(leaf: trustme.LeafCert) -> x509.Certificate:
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())


def test_protocol_cipher_and_name_of_every_connection(server: Server):
    with Member(server, "server.test") as client:
        for _ in range(3):  # the second time from what is remembered of the head
            environ = client.ask()
            cipher, _, bits = client.socket.cipher() or ("", "", 0)
            assert environ["SSL_PROTOCOL"] == client.socket.version() == "TLSv1.3"
            assert environ["SSL_CIPHER"] == cipher
            assert environ["SSL_CIPHER_USEKEYSIZE"] == str(bits)
            assert environ["SSL_TLS_SNI"] == "server.test"
            assert environ["SSL_CLIENT_VERIFY"] == "NONE"
            assert "SSL_CLIENT_S_DN" not in environ


def test_an_older_client(server: Server):
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Member(server, "server.test", context=context) as client:
        assert client.ask()["SSL_PROTOCOL"] == "TLSv1.2"


def test_the_certificate_of_a_client(server: Server):
    leaf = issued_to("ann@example.test")
    shown = certificate_of(leaf)
    with Member(server, leaf=leaf) as client:
        for target, body in (
            ("/", b""),
            ("/", b"x" * 100),
            ("/", b"x" * 100_000),
            ("/streamed", b"x" * 100_000),
        ):
            environ = client.ask(target, body=body)
            assert environ["body"] == len(body)
            assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
            assert environ["SSL_CLIENT_S_DN"] == shown.subject.rfc4514_string()
            assert environ["SSL_CLIENT_S_DN_CN"] == "ann@example.test"
            assert environ["SSL_CLIENT_I_DN"] == shown.issuer.rfc4514_string()
            assert int(environ["SSL_CLIENT_M_SERIAL"], 16) == shown.serial_number
            assert environ["SSL_CLIENT_CERT"] == shown.public_bytes(Encoding.PEM).decode()
            assert environ["SSL_CLIENT_FINGERPRINT"] == sha256(shown.public_bytes(Encoding.DER)).hexdigest()
            assert environ["SSL_CLIENT_SAN_Email_0"] == "ann@example.test"
            assert environ["SSL_CLIENT_V_END"].endswith(" GMT")


def test_nobody_gets_anothers_certificate(server: Server):
    """Their requests are the same, byte for byte."""
    with (
        Member(server, leaf=issued_to("ann@example.test")) as ann,
        Member(server, leaf=issued_to("bob@example.test")) as bob,
        Member(server) as nobody,
    ):
        for _ in range(4):
            assert ann.ask("/same")["SSL_CLIENT_S_DN_CN"] == "ann@example.test"
            assert bob.ask("/same")["SSL_CLIENT_S_DN_CN"] == "bob@example.test"
            anonymous = nobody.ask("/same")
            assert anonymous["SSL_CLIENT_VERIFY"] == "NONE"
            assert [key for key in anonymous if key.startswith("SSL_CLIENT_")] == ["SSL_CLIENT_VERIFY"]


def test_header_fields_of_these_names_are_no_certificate(server: Server):
    with Member(server) as client:
        environ = client.ask(
            "/", "SSL-CLIENT-VERIFY: SUCCESS", "SSL_CLIENT_VERIFY: SUCCESS", "SSL_CLIENT_S_DN: CN=Ann"
        )
        assert environ["SSL_CLIENT_VERIFY"] == "NONE"
        assert "SSL_CLIENT_S_DN" not in environ


def test_a_resumed_session_still_has_its_certificate(server: Server):
    with Member(server, leaf=issued_to("ann@example.test")) as first:
        first.ask()
        session, context = first.socket.session, first.context
    with Member(server, session=session, context=context) as again:
        assert again.ask()["SSL_CLIENT_S_DN_CN"] == "ann@example.test"
        assert again.socket.session_reused


def test_a_session_is_of_no_use_at_another_site(server: Server):
    """Else a session of a site that asks for no certificate would do for one that requires it."""
    with Member(server, leaf=issued_to("ann@example.test")) as first:
        first.ask()
        session, context = first.socket.session, first.context
    with Member(server, "server.test", session=session, context=context) as other:
        assert other.ask()["SSL_CLIENT_VERIFY"] == "NONE"
        assert not other.socket.session_reused


@pytest.mark.parametrize("name", ["staff.test", "server.test", "members.test", "unknown.test", "127.0.0.1"])
@pytest.mark.parametrize("host", ["staff.test", "unknown.test"])
def test_where_a_site_alone_is_served_nobody_comes_in_by_another_name(server: Server, name: str, host: str):
    """The site at an address of its own has the requests for all hosts there: so its rule counts for all
    names, too."""
    context = client_context(checks=False)
    with contextlib.suppress(OSError), Member(server, host, context=context, name=name, address=1) as nobody:
        nobody.socket.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert nobody.socket.recv(1) == b""
    context = client_context(leaf=issued_to("ann@example.test"), checks=False)
    with Member(server, host, context=context, name=name, address=1) as ann:
        assert ann.ask()["SSL_CLIENT_S_DN_CN"] == "ann@example.test"


def test_a_lease_is_for_nobody_with_a_certificate_unless_it_is_public(server: Server):
    with Member(server, leaf=issued_to("ann@example.test")) as ann, Member(server) as nobody:
        assert [ann.ask("/leased/by-ann")["count"] for _ in range(3)] == [1, 2, 3]
        assert nobody.ask("/leased/by-ann")["SSL_CLIENT_VERIFY"] == "NONE"
        assert [nobody.ask("/leased")["count"] for _ in range(3)] == [1, 1, 1]
        assert [ann.ask("/leased")["count"] for _ in range(2)] == [2, 3]
        assert [nobody.ask("/leased")["count"] for _ in range(2)] == [1, 1]
        assert ann.ask("/leased")["SSL_CLIENT_S_DN_CN"] == "ann@example.test"
        assert [one.ask("/leased/public")["count"] for one in (nobody, ann, ann)] == [1, 1, 1]
    server.until_logged("the client has shown a certificate")


def test_curl_shows_one(server: Server):
    leaf = issued_to("ann@example.test")
    (server.folder / "ann.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    place = f"members.test:{server.port}"
    got = curl(
        *("--cacert", f"{server.folder}/ca.pem", "--cert", f"{server.folder}/ann.pem"),
        *("--resolve", f"{place}:127.0.0.1", f"https://{place}/"),
    )
    environ = json.loads(got.stdout)
    assert environ["SSL_CLIENT_S_DN_CN"] == "ann@example.test"
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0"


def test_a_certificate_of_another_authority_is_refused(server: Server):
    eve = trustme.CA().issue_cert("eve@example.test")
    context = client_context(leaf=eve)
    authority().configure_trust(context)
    with pytest.raises((ssl.SSLError, ConnectionError)), Member(server, context=context) as client:
        client.ask()


def test_why_a_certificate_is_refused_is_in_the_log(tmp_path: Path):
    """Once a second, whoever tries again and again; in words that tell one mistake from another."""
    write(tmp_path, issued("server.test"))
    (tmp_path / "environ.py").write_text(APPLICATION)
    options = ("--ca-certs", "ca.pem", "--cert-reqs", "required", "--certfile", "server.pem")
    with serving(tmp_path, "environ:app", *options, "--keyfile", "server.key") as server:
        then = datetime(2020, 1, 1, tzinfo=UTC)
        old = authority().issue_cert("ann@example.test", not_before=then, not_after=then + timedelta(days=9))
        stranger = client_context(leaf=trustme.CA().issue_cert("eve@example.test"))
        authority().configure_trust(stranger)
        for context, words in (
            (client_context(leaf=old), "certificate verify failed: certificate has expired"),
            (stranger, "certificate verify failed: unable to get local issuer certificate"),
            (client_context(), "peer did not return a certificate"),
        ):
            said = (
                f"127.0.0.1: the TLS handshake failed: {words}. "
                r"\(Client certificates are required here: cert_reqs, ca_certs.\)"
            )

            def is_logged(context: ssl.SSLContext = context, said: str = said) -> bool:
                refused = pytest.raises((ssl.SSLError, ConnectionError))
                with refused, Member(server, "server.test", context=context) as client:
                    client.ask()
                return re.search(said, server.log()) is not None

            until(is_logged)


def test_one_that_is_too_large_is_refused(server: Server):
    names = [f"name-{number}.of-a-client-with-many-names.example.test" for number in range(250)]
    large = authority().issue_cert(*names)
    with pytest.raises((ssl.SSLError, OSError, AssertionError)), Member(server, leaf=large) as client:
        client.ask()
    server.until_logged("the client's certificate has [0-9]+ bytes, and may have 8192")


@pytest.mark.parametrize(
    "stricter", ['ca_certs = "ca.pem"\ncert_reqs = "required"', 'minimum_version = "1.3"']
)
def test_a_reload_that_is_stricter_counts_for_connections_that_are_open(tmp_path: Path, stricter: str):
    """A client that has not kept the new rules in its handshake has to connect again."""
    write(tmp_path, issued("server.test"))
    (tmp_path / "environ.py").write_text(APPLICATION)
    settings = (
        'bind = "https://127.0.0.1:0"\ncertfile = "server.pem"\nkeyfile = "server.key"\n{}\n'
        '[routes]\n"/" = "environ:app"\n'
    )
    (tmp_path / "halfsync.toml").write_text(settings.format(""))
    ann = client_context(leaf=issued_to("ann@example.test"))
    one, two, http2 = client_context(), client_context(), client_context(protocols=("h2",))
    for context in (one, two, http2):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server, contextlib.ExitStack() as open_:
        first, second = (
            open_.enter_context(Member(server, "server.test", context=context)) for context in (one, two)
        )
        third = open_.enter_context(Member(server, "server.test", context=http2))
        engine = h2.connection.H2Connection()
        engine.initiate_connection()
        assert status_over_http2(third, engine) == b"200"
        for client in (first, second):
            assert client.ask()["SSL_CLIENT_VERIFY"] == "NONE"
        server.signal(signal.SIGHUP)
        server.until_logged("environ:app is reloaded")
        assert first.ask()["SSL_CLIENT_VERIFY"] == "NONE", "a reload without a change disconnects nobody"
        assert status_over_http2(third, engine) == b"200"
        (tmp_path / "halfsync.toml").write_text(settings.format(stricter))
        server.signal(signal.SIGHUP)
        server.until_logged("environ:app is reloaded", 2)
        for client in (first, second):
            client.socket.sendall(b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n")
            with client.socket.makefile("rb") as file:
                assert b" 421 " in file.readline()
                assert file.read().endswith(b"made with its own name (SNI).\n")
        assert status_over_http2(third, engine) == b"421"
        with Member(server, "server.test", context=ann) as again:
            assert [again.ask()["REQUEST_METHOD"] for _ in range(2)] == ["GET"] * 2


def status_over_http2(client: Member, engine: h2.connection.H2Connection) -> bytes:
    """Of a request on this connection."""
    number = engine.get_next_available_stream_id()
    fields = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", client.host)]
    engine.send_headers(number, fields, end_stream=True)
    client.socket.sendall(engine.data_to_send())
    status = b""
    while True:
        for event in engine.receive_data(client.socket.recv(65536)):
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)[b":status"]
            elif isinstance(event, h2.events.StreamEnded):
                return status
            else:
                assert not isinstance(event, h2.events.ConnectionTerminated)
