"""HTTPS, as a user starts it and as clients of every kind see it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import (
    RSA,
    authority,
    chain_of,
    client_context,
    encrypted_key_of,
    issued,
    key_of,
    write,
)
from tests.command_line import command
from tests.e2e.harness import APPS, LONG, SOURCES, Client, Server, curl, digest, kill, pattern, serving, until

HOSTS = ("localhost", "127.0.0.1")

ENVIRON = """
import json

def cut():
    yield b"part"
    raise RuntimeError

def app(environ, start_response):
    if environ["PATH_INFO"] == "/cut":
        start_response("200 OK", [])
        return cut()
    if environ["PATH_INFO"] == "/size":
        body = b"x" * int(environ["QUERY_STRING"])
    else:
        environ["body"] = len(environ["wsgi.input"].read())
        plain = {key: value for key, value in environ.items() if isinstance(value, str | int)}
        body = json.dumps(plain).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("https")
    prepare(folder)
    return folder


def prepare(folder: Path) -> None:
    write(folder, issued(*HOSTS))
    (folder / "environ.py").write_text(ENVIRON)
    (folder / "public").mkdir()
    (folder / "public/large").write_bytes(pattern(5_000_000))
    (folder / "public/small").write_bytes(pattern(6_000))


@pytest.fixture(scope="module")
def server(folder):
    """Both schemes beside each other."""
    with serving(
        folder,
        *("environ:app", "/files=./public", "--certfile", "server.pem", "--keyfile", "server.key"),
        *("-b", "https://127.0.0.1:0", "-b", "http://127.0.0.1:0"),
        bind=False,
        environment={"SSLKEYLOGFILE": str(folder / "keys.log")},
    ) as server:
        yield server


def connected(server: Server, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(
        "127.0.0.1", server.port, context=context or client_context(), timeout=LONG
    )


def ask(server: Server, target: str = "/", context: ssl.SSLContext | None = None) -> bytes:
    with closing(connected(server, context)) as connection:
        connection.request("GET", target)
        return connection.getresponse().read()


def environ_of(server: Server, **more: Any) -> dict[str, Any]:
    return json.loads(ask(server, **more))  # type: ignore[no-any-return]


def test_curl_gets_a_page(server: Server):
    got = curl("--cacert", f"{server.folder}/ca.pem", f"https://127.0.0.1:{server.port}/")
    assert json.loads(got.stdout)["wsgi.url_scheme"] == "https"


def test_what_could_decrypt_connections_is_written_to_no_file(folder: Path, server: Server):
    """Python writes the secrets of clients' connections there, and of servers' whose contexts it made."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context()
        context.minimum_version = context.maximum_version = version
        with closing(connected(server, context)) as client:
            client.request("GET", "/")
            assert client.getresponse().status == 200
    assert not (folder / "keys.log").exists()


def test_the_application_knows_the_scheme(server: Server):
    over_tls = environ_of(server)
    assert over_tls["wsgi.url_scheme"] == "https"
    assert over_tls["HTTPS"] == "on"
    assert over_tls["SERVER_PORT"] == str(server.port)
    plain = int(server.addresses[1].rpartition(":")[2])
    with Client(("127.0.0.1", plain)) as client:
        in_clear = json.loads(client.ask("/").body)
    assert in_clear["wsgi.url_scheme"] == "http"
    assert "HTTPS" not in in_clear


def test_where_it_is_served_is_said(server: Server):
    assert [one.partition(":")[0] for one in server.addresses] == ["https", "http"]


@pytest.mark.parametrize("name", ["large", "small"])
def test_files(server: Server, name: str):
    expected = (server.folder / "public" / name).read_bytes()
    with closing(connected(server)) as connection:
        for _ in range(3):  # the second time from a lease
            connection.request("GET", f"/files/{name}")
            assert digest(connection.getresponse().read()) == digest(expected)


def test_large_pages_and_uploads(server: Server):
    assert ask(server, "/size?3000000") == b"x" * 3_000_000
    with closing(connected(server)) as connection:
        connection.request("POST", "/", body=pattern(3_000_000))
        assert json.loads(connection.getresponse().read())["body"] == 3_000_000


def test_a_request_in_clear_is_told_what_to_do(server: Server):
    answer = server.get("/", "Connection: close")
    assert answer.status == 400
    assert b"https://story.test/" in answer.body


def test_a_certificate_is_enough_for_https(folder: Path):
    """As with gunicorn and uvicorn: no scheme needs to be written."""
    with serving(folder, "environ:app", "--certfile", "server.pem", "--keyfile", "server.key") as server:
        assert server.addresses[0].startswith("https://")
        assert environ_of(server)["HTTPS"] == "on"


def test_openssl_finds_nothing_wrong(server: Server):
    found = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", "ca.pem", "-ign_eof"],
        input=b"GET / HTTP/1.0\r\n\r\n",
        cwd=server.folder,
        capture_output=True,
        timeout=LONG,
        check=False,
    )
    assert b"Verification: OK" in found.stdout
    assert b"HTTP/1.1 200 OK" in found.stdout


@pytest.fixture(scope="module")
def strict(folder):
    """Nothing is served without TLS."""
    with serving(
        folder,
        *("environ:app", "/files=./public", "--certfile", "server.pem", "--keyfile", "server.key"),
        *("-b", "https://127.0.0.1:0", "-b", "http://127.0.0.1:0"),
        *("--redirect-http", "--hsts", "max-age=1000; includeSubDomains"),
        *("--alt-svc", 'h3=":443"; ma=60, h2="alt.example:8443"'),
        bind=False,
    ) as server:
        yield server


def in_clear(server: Server) -> Client:
    return Client(("127.0.0.1", int(server.addresses[1].rpartition(":")[2])))


@pytest.mark.parametrize(
    ("target", "path"), [("/", "/"), ("/a/b?c=d%20e&f", "/a/b?c=d%20e&f"), ("http://story.test/x?y", "/x?y")]
)
def test_requests_in_clear_are_redirected(strict: Server, target: str, path: str):
    with in_clear(strict) as client:
        for method, status in (("GET", 301), ("HEAD", 301), ("DELETE", 308), ("GET", 301)):
            answer = client.ask(target, method=method)
            assert answer.status == status
            assert answer["Location"] == f"https://story.test:{strict.port}{path}"
            assert not answer["Strict-Transport-Security"]
            assert not answer["Alt-Svc"]
        answer = client.ask(target, method="POST", body=b"body")
        assert (answer.status, answer["Connection"]) == (308, "close")


def test_a_request_in_clear_without_a_host_can_not_be_redirected(strict: Server):
    with in_clear(strict) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.answer().status == 400


def test_browsers_are_told_to_use_https_alone(strict: Server):
    with closing(connected(strict)) as connection:
        for target in ("/", "/files/small", "/files/small", "/files/missing"):
            connection.request("GET", target)
            response = connection.getresponse()
            response.read()
            assert response.getheader("Strict-Transport-Security") == "max-age=1000; includeSubDomains"
            assert response.getheader("Alt-Svc") == 'h3=":443"; ma=60, h2="alt.example:8443"'


def test_only_the_ciphers_that_are_set_are_spoken(folder: Path):
    with serving(
        folder,
        *("environ:app", "--certfile", "server.pem", "--keyfile", "server.key"),
        *("--ssl-ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ) as server:
        for suite, fits in (
            ("ECDHE-ECDSA-AES256-GCM-SHA384", True),
            ("ECDHE-ECDSA-AES128-GCM-SHA256", False),
        ):
            context = client_context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(suite)
            if fits:
                assert environ_of(server, context=context)["SSL_CIPHER"] == suite
            else:
                with pytest.raises(ssl.SSLError):
                    ask(server, context=context)


# --- mistakes ----------------------------------------------------------------------------------------------


def refusal(folder: Path, *arguments: str) -> str:
    """What it says when it does not start."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(APPS)])}
    ended = command(folder, *arguments, environment=environment)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip()


@pytest.fixture(scope="module")
def mistakes(folder):
    leaf = issued(*HOSTS)
    (folder / "other.key").write_bytes(key_of(issued("other.example")))
    (folder / "encrypted.key").write_bytes(encrypted_key_of(leaf, b"secret"))
    (folder / "both.pem").write_bytes(key_of(leaf) + chain_of(leaf))
    (folder / "wrong-order.pem").write_bytes(authority().cert_pem.bytes() + chain_of(leaf))
    (folder / "marked.pem").write_bytes(b"\xef\xbb\xbf" + chain_of(leaf) + authority().cert_pem.bytes())
    (folder / "text.pem").write_text("hello\n")
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nabcd\n-----END CERTIFICATE-----\n")
    os.mkfifo(folder / "pipe.pem")
    return folder


@pytest.mark.parametrize("check", [(), ("--check-config",)])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--certfile missing.pem",
            "certfile: the file missing.pem can't be read: No such file or directory.",
        ),
        ("--certfile pipe.pem", "certfile: pipe.pem is no regular file."),
        ("--certfile public", "certfile: public is no regular file."),
        ("--certfile text.pem", "certfile: there is no certificate in text.pem (PEM)."),
        (
            "--certfile broken.pem --keyfile server.key",
            "certfile: the certificate in broken.pem is malformed.",
        ),
        ("--certfile server.pem", "there is no private key in server.pem: name its file with keyfile."),
        (
            "--certfile server.pem --keyfile server.pem",
            "keyfile: there is no private key in server.pem (PEM).",
        ),
        ("--keyfile server.key", "keyfile is given, but no certfile."),
        (
            "--certfile server.pem --keyfile other.key",
            "keyfile: the key in other.key does not fit the certificate in server.pem.",
        ),
        (
            "--certfile wrong-order.pem --keyfile server.key",
            "the key in server.key does not fit the first certificate in wrong-order.pem, but another",
        ),
        (
            "--certfile marked.pem --keyfile server.key",
            "does not fit the first certificate in marked.pem, but another one in it",
        ),
        (
            "--certfile wrong-order.pem --keyfile other.key",
            "keyfile: the key in other.key does not fit the certificate in wrong-order.pem.",
        ),
        (
            "--certfile server.pem --keyfile encrypted.key",
            "keyfile_password for encrypted.key is missing: the key is encrypted.",
        ),
        (
            "--certfile server.pem --keyfile encrypted.key --keyfile-password wrong",
            "keyfile_password for encrypted.key is wrong.",
        ),
        ("-b https://127.0.0.1:0", "there is no certificate: name one with certfile."),
        (
            "--certfile both.pem --cert-reqs required",
            "cert_reqs is 'required', but ca_certs names no authorities",
        ),
        (
            "--cert-reqs required --ca-certs ca.pem",
            "cert_reqs is 'required', but the default site is served at 127.0.0.1:0, in clear,",
        ),
        (
            "--certfile both.pem -b https://:0 -b http://127.0.0.2:0 --cert-reqs required --ca-certs ca.pem",
            "the default site is served at http://127.0.0.2:0, in clear, where no client can show",
        ),
        (
            "--certfile both.pem --cert-reqs optional --ca-certs text.pem",
            "there is no certificate in text.pem",
        ),
        ("--certfile both.pem --ciphers nonsense", "ciphers: OpenSSL knows none of 'nonsense'."),
        ("--redirect-http", "redirect_http: there is no https:// address in bind to redirect to."),
        ("--hsts max-age=1", "hsts: it must not be sent without TLS"),
        ("--alt-svc h3=:443", "alt_svc must be like 'h3="),
        ('--alt-svc h3=":443"', "alt_svc: it must not be sent without TLS"),
        ("--hsts forever", "hsts must be like 'max-age=63072000' or"),
        ("--certfile both.pem --minimum-version 1.0", "must be one of 1.2, 1.3"),
        ("--certfile both.pem,server.pem --keyfile server.key", "there must be a keyfile for each certfile"),
    ],
)
def test_mistakes_are_told_in_a_sentence(mistakes: Path, arguments: str, words: str, check: tuple[str, ...]):
    given = arguments.split()
    bind = [] if "-b" in given else ["-b", "127.0.0.1:0"]
    assert words in refusal(mistakes, "environ:app", *bind, *given, *check)


def test_a_file_that_may_not_be_read(folder: Path):
    (folder / "secret.key").write_bytes(b"")
    if os.getuid() == 0:
        pytest.skip("root may read everything")
    (folder / "secret.key").chmod(0)
    said = refusal(folder, "environ:app", "--certfile", "server.pem", "--keyfile", "secret.key")
    assert "keyfile: the file secret.key can't be read: Permission denied." in said


@pytest.mark.parametrize(("days", "words"), [((-3, -1), "expired on"), ((1, 3), "is not valid before")])
def test_a_certificate_out_of_its_time_is_a_warning(tmp_path, days, words):
    """It is served: clients whose clocks are wrong may need it, and the others say so."""
    prepare(tmp_path)
    now = datetime.now(UTC)
    leaf = issued(*HOSTS, not_before=now + timedelta(days[0]), not_after=now + timedelta(days[1]))
    write(tmp_path, leaf)
    with serving(tmp_path, "environ:app", "--certfile", "server.pem", "--keyfile", "server.key") as server:
        assert f"certfile: the certificate in server.pem {words}" in server.log()
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(server)


def test_a_key_in_the_same_file_and_an_encrypted_one(mistakes: Path):
    for given in (
        ("--certfile", "both.pem"),
        ("--certfile", "server.pem", "--keyfile", "encrypted.key", "--keyfile-password", "secret"),
    ):
        with serving(mistakes, "environ:app", *given) as server:
            assert environ_of(server)["HTTPS"] == "on"


# --- reload and stop ---------------------------------------------------------------------------------------


def shown(server: Server) -> int:
    """The serial number of the certificate that it shows."""
    with closing(connected(server)) as connection:
        connection.connect()
        return int(connection.sock.getpeercert()["serialNumber"], 16)  # type: ignore[index, arg-type]


def test_a_new_certificate_takes_effect_at_a_reload_and_nobody_is_disconnected(tmp_path):
    prepare(tmp_path)
    with serving(tmp_path, "environ:app", "--certfile", "server.pem", "--keyfile", "server.key") as server:
        before = shown(server)
        with closing(connected(server)) as kept:
            kept.request("GET", "/")
            kept.getresponse().read()
            sock = kept.sock
            write(tmp_path, issued(*HOSTS, key_type=RSA))
            server.signal(signal.SIGHUP)
            until(lambda: shown(server) != before)
            kept.request("GET", "/")
            assert kept.getresponse().status == 200
            assert kept.sock is sock
        after = shown(server)
        os.kill(server.pump, signal.SIGKILL)
        server.until_logged(r"pump \[\d+\] is started", 2)
        assert shown(server) == after


def test_a_bad_new_certificate_is_a_line_in_the_log_and_the_old_one_stays(tmp_path):
    prepare(tmp_path)
    with serving(tmp_path, "environ:app", "--certfile", "server.pem", "--keyfile", "server.key") as server:
        before = shown(server)
        (tmp_path / "server.key").write_bytes(key_of(issued("other.example")))
        server.signal(signal.SIGHUP)
        server.until_logged(
            "ERROR keyfile: the key in server.key does not fit the certificate in server.pem. The "
            "certificates that are in use stay."
        )
        server.until_logged("environ:app is reloaded")
        assert shown(server) == before


def resumed(server: Server, context: ssl.SSLContext, session: Any) -> tuple[bool, Any]:
    """Whether a session is resumed; and one to go on with."""
    raw = socket.create_connection(("127.0.0.1", server.port), LONG)
    with context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while sock.recv(65536):
            pass
        return bool(sock.session_reused), sock.session


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_sessions_outlive_a_reload_a_new_certificate_and_a_pump(tmp_path, version: str):
    prepare(tmp_path)
    with serving(tmp_path, "environ:app", "--certfile", "server.pem", "--keyfile", "server.key") as server:
        context = client_context()
        context.maximum_version = ssl.TLSVersion[version]
        _, session = resumed(server, context, None)
        assert resumed(server, context, session)[0]
        server.signal(signal.SIGHUP)
        server.until_logged("environ:app is reloaded")
        assert resumed(server, context, session)[0]
        before = shown(server)
        write(tmp_path, issued(*HOSTS, key_type=RSA))
        server.signal(signal.SIGHUP)
        until(lambda: shown(server) != before)
        assert resumed(server, context, session)[0]
        kill(server.pump)
        server.until_logged(r"pump \[\d+\] is started", 2)
        assert resumed(server, context, session)[0]


def test_a_stop_cuts_no_response_short(folder: Path):
    with serving(
        folder, "environ:app", "/files=./public", "--certfile", "server.pem", "--keyfile", "server.key"
    ) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(LONG)
        raw.connect(("127.0.0.1", server.port))
        with client_context().wrap_socket(
            raw, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as sock:
            sock.sendall(b"GET /files/large HTTP/1.0\r\n\r\n")
            data = sock.recv(1000)
            server.signal(signal.SIGTERM)
            server.until_logged("stopping; requests in flight")
            while piece := sock.recv(65536):  # an end without a close_notify would raise
                data += piece
            assert data.partition(b"\r\n\r\n")[2] == pattern(5_000_000)
        assert server.ends() == 0


def test_a_truncated_response_can_be_told(folder: Path):
    """Also of HTTP/1.0, where the end of the connection is the end of the response."""
    with serving(folder, "environ:app", "--certfile", "server.pem", "--keyfile", "server.key") as server:
        server.tracebacks = 1
        raw = socket.create_connection(("127.0.0.1", server.port), LONG)
        with client_context().wrap_socket(
            raw, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as sock:
            sock.sendall(b"GET /cut HTTP/1.0\r\n\r\n")
            with pytest.raises(OSError, match=r"EOF|reset"):
                read_on(sock)


def read_on(sock: ssl.SSLSocket) -> None:
    while sock.recv(65536):
        pass


def test_who_has_the_key(folder: Path):
    """The pump alone: not the workers, which run the application."""
    secret = key_of(issued(*HOSTS)).splitlines()[1]
    with serving(folder, "environ:app", "--certfile", "server.pem", "--keyfile", "server.key") as server:
        environ_of(server)
        for pid in [*server.workers("environ:app"), server.process.pid]:
            assert secret not in memory_of(pid)
            assert not [
                one for one in os.listdir(f"/proc/{pid}/fd") if pid != server.process.pid and is_key(pid, one)
            ]


def is_key(pid: int, fd: str) -> bool:
    try:
        return "certificates" in os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return False


def memory_of(pid: int) -> bytes:
    """All that is the process's own."""
    found = []
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    try:
        memory = open(f"/proc/{pid}/mem", "rb", 0)  # noqa: SIM115 (closed below)
    except PermissionError:
        pytest.skip("the memory of another process may not be read here")
    with memory:
        for line in maps:
            fields = line.split()
            if not fields[1].startswith("rw"):
                continue
            low, high = (int(number, 16) for number in fields[0].split("-"))
            try:
                memory.seek(low)
                found.append(memory.read(high - low))
            except (OSError, OverflowError):
                pass
    return b"\0".join(found)
