"""HTTP/2 over TLS, as browsers get it: agreed upon in the handshake (ALPN), with clients of other makers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.certificates import client_context, issued, issued_to, write
from tests.command_line import command
from tests.e2e.harness import APPS, LONG, SOURCES, Server, curl, digest, pattern, serving

SETTINGS = """
bind = ["https://127.0.0.1:0"]
certfile = "server.pem"
keyfile = "server.key"
access_logfile = "access.log"
access_logformat = "%H %r %s"

[routes]
"/" = "story:app"
"/public" = "./public"
"/loop" = "asgis:app"
"/streamed" = { app = "reading:app", stream_body = true, threads = 4 }

[sites."open.test"]
certfile = "server.pem"
keyfile = "server.key"
[sites."open.test".routes]
"/" = "story:app"

[sites."members.test"]
certfile = "server.pem"
keyfile = "server.key"
ca_certs = "ca.pem"
cert_reqs = "required"
[sites."members.test".routes]
"/" = "story:app"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("http2-tls")
    write(folder, issued("127.0.0.1", "open.test", "members.test"))
    (folder / "public").mkdir()
    (folder / "public/small.bin").write_bytes(pattern(6144))
    (folder / "public/large.bin").write_bytes(pattern(5_000_000))
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


def over_tls(server: Server, *arguments: str, host: str = "127.0.0.1") -> bytes:
    """What curl gets; the last argument is a path."""
    *options, path = arguments
    resolved = ("--resolve", f"{host}:{server.port}:127.0.0.1")
    trusted = ("--cacert", f"{server.folder}/ca.pem")
    return curl(*trusted, *resolved, *options, f"https://{host}:{server.port}{path}").stdout


def client(server: Server, *, http2: bool = True, **more: object) -> httpx.AsyncClient:
    context = more.pop("verify", None) or client_context(protocols=("h2", "http/1.1"))
    assert isinstance(context, ssl.SSLContext)
    url = f"https://127.0.0.1:{server.port}"
    return httpx.AsyncClient(http2=http2, verify=context, base_url=url, timeout=LONG, trust_env=False)


def test_curl_gets_what_it_asks_for(server):
    version = ("-w", "%{http_version}")
    assert over_tls(server, "--http2", *version, "/hello") == b"hello\n2"
    assert over_tls(server, *version, "/hello") == b"hello\n2", "curl's own habit over TLS"
    assert over_tls(server, "--http1.1", *version, "/hello") == b"hello\n1.1"
    assert over_tls(server, "--no-alpn", *version, "/hello") == b"hello\n1.1"
    assert over_tls(server, "--http2", "--tls-max", "1.2", *version, "/hello") == b"hello\n2"


def test_what_the_application_sees(server):
    environ = json.loads(over_tls(server, "--http2", "/environ"))
    assert environ["SERVER_PROTOCOL"] == "HTTP/2.0"
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert environ["SSL_PROTOCOL"] == "TLSv1.3"


@pytest.mark.parametrize("name", ["small", "large"])
def test_files(server, name):
    size = 6144 if name == "small" else 5_000_000
    assert over_tls(server, "--http2", f"/public/{name}.bin") == pattern(size)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_uploads(server, tmp_path, size):
    (tmp_path / "body").write_bytes(pattern(size))
    got = over_tls(server, "--http2", "--data-binary", f"@{tmp_path}/body", "/received")
    assert got.decode() == f"{size} {digest(pattern(size))}"


def test_streamed_uploads_share_a_connection(server, tmp_path):
    """More than there are threads: those that wait fill their windows, and keep no other waiting."""
    body = pattern(500_000)
    (tmp_path / "body").write_bytes(body)
    url = f"https://127.0.0.1:{server.port}/streamed/digest?"
    uploads = [
        ("-T", f"{tmp_path}/body", "-o", f"{tmp_path}/{number}", url + str(number)) for number in range(10)
    ]
    curl("--cacert", f"{server.folder}/ca.pem", "-Z", *(word for upload in uploads for word in upload))
    got = [(tmp_path / str(number)).read_text().split()[:2] for number in range(10)]
    assert got == [["500000", digest(body)]] * 10


def test_httpx_many_at_once(server):
    assert asyncio.run(ask_many(server)) == []


async def ask_many(server: Server) -> list[str]:
    """What is wrong with a hundred responses on one connection."""
    wrong: list[str] = []

    async def ask(one: httpx.AsyncClient, number: int) -> None:
        body = pattern(500 * number)
        got = await one.post(f"/echo?{number}", content=body)
        if got.http_version != "HTTP/2" or got.content != body:
            wrong.append(f"{number}: {got}")

    async with client(server) as one:
        await asyncio.gather(*(ask(one, number) for number in range(100)))
    return wrong


@pytest.mark.parametrize("more", [(), ("--header-table-size=0", "--encoder-header-table-size=0")])
def test_h2load(server, more):
    found = shutil.which("h2load")
    if found is None:
        pytest.skip("there is no h2load")
    url = f"https://127.0.0.1:{server.port}/public/small.bin"
    command = [found, "-n3200", "-c4", "-m32", *more, url]
    done = subprocess.run(command, capture_output=True, timeout=LONG, check=False)
    assert b"3200 succeeded, 0 failed, 0 errored" in done.stdout, done.stdout
    assert re.search(rb"Application protocol: h2\b", done.stdout)


def test_the_access_log(server):
    over_tls(server, "--http2", "/hello?logged")
    log = server.folder / "access.log"
    server.until(lambda: "HTTP/2.0 GET /hello?logged HTTP/2.0 200\n" in log.read_text())


def test_a_host_of_a_guarded_site_is_refused_on_a_connection_for_another(server):
    """RFC 9113 9.1.1: one certificate is good for both names, so a browser uses one connection for both. But
    the other site requires a client's certificate, which this one was not asked for: 421, and it connects
    again."""
    assert asyncio.run(ask_for_another_site(server)) == [200, 421, 200, 421, 200]


async def ask_for_another_site(server: Server) -> list[int]:
    async def ask(one: httpx.AsyncClient, host: str, path: str = "/hello") -> int:
        got = await one.get(
            path, headers={"Host": f"{host}:{server.port}"}, extensions={"sni_hostname": "open.test"}
        )
        assert got.http_version == "HTTP/2"
        return got.status_code

    context = client_context(protocols=("h2",), leaf=issued_to("member"))
    async with client(server, verify=context) as one:
        hosts = ("open.test", "members.test", "open.test", "MEMBERS.test", "open.test")
        return [await ask(one, host) for host in hosts]


SEVERAL = """
bind = ["https://127.0.0.1:0"]
certfile = "first.pem"
keyfile = "first.key"
[routes]
"/" = "./first"

[sites."second.test"]
certfile = "second.pem"
keyfile = "second.key"
[sites."second.test".routes]
"/" = "./second"

[sites."third.test"]
certfile = "third.pem"
keyfile = "third.key"
[sites."third.test".routes]
"/" = "./third"

[sites."same.example"]
certfile = "first.pem"
keyfile = "first.key"
[sites."same.example".routes]
"/" = "./first"
"""
NAMES = {"first": ("127.0.0.1", "first.test"), "second": ("second.test", "*.test"), "third": ("third.test",)}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("several")
    for name, hosts in NAMES.items():
        write(folder, issued(*hosts), name)
        (folder / name).mkdir()
        (folder / name / "page").write_text(name)
    (folder / "halfsync.toml").write_text(SEVERAL)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "served", "refused"),
    [
        ("first.test", ["first.test", "other.test", "same.example"], ["second.test", "third.test"]),
        ("second.test", ["first.test", "second.test", "third.test"], ["example", "same.example"]),
        ("same.example", ["same.example", "first.test", "other.test"], ["second.test"]),
        ("third.test", ["third.test", "THIRD.test.:443"], ["first.test", "second.test", "other.test"]),
        ("127.0.0.1", ["first.test", "second.test", "third.test"], []),
    ],
)
def test_a_host_for_which_the_certificate_is_not_is_refused_over_http2(several, name, served, refused):
    """RFC 9113 9.1.1: only a client that makes a mistake asks for such a host on this connection, and the
    certificate has not shown that we are it. (127.0.0.1: no name was asked for in the handshake.) Leases
    know the responses after the first requests."""
    hosts = [*served, *refused] * 3 + sorted([*served, *refused] * 3)

    async def ask(version: str) -> list[tuple[str, str]]:
        protocols = ("h2",) if version == "HTTP/2" else ("http/1.1",)
        context = client_context(protocols=protocols, checks=False)
        found = []
        async with client(several, http2=version == "HTTP/2", verify=context) as one:
            for host in hosts:
                got = await one.get("/page", headers={"Host": host}, extensions={"sni_hostname": name})
                assert got.http_version == version
                found.append((host, got.text if got.status_code == 200 else str(got.status_code)))
        return found

    def site_of(host: str) -> str:
        name = host.partition(".")[0].lower()
        return name if name in NAMES else "first"

    assert asyncio.run(ask("HTTP/1.1")) == [(host, site_of(host)) for host in hosts]
    assert asyncio.run(ask("HTTP/2")) == [(one, "421" if one in refused else site_of(one)) for one in hosts]


def test_a_connection_is_for_the_name_that_it_was_made_with_also_after_a_reload(tmp_path):
    """When that name's site has another certificate."""
    write(tmp_path, issued("first.test"), "first")
    write(tmp_path, issued("second.test"), "second")
    top = 'bind = ["https://127.0.0.1:0"]\ncertfile = "first.pem"\nkeyfile = "first.key"\n'
    routes = '[sites."second.test".routes]\n"/" = { respond = "second" }\n'
    (tmp_path / "halfsync.toml").write_text(f"{top}{routes}")

    async def ask(server: Server) -> list[int]:
        context = client_context(protocols=("h2",), checks=False)
        found = []
        async with client(server, verify=context) as one:
            for number in range(4):
                host = "second.test" if number != 3 else "first.test"
                name = {"sni_hostname": "second.test"}
                found.append((await one.get("/", headers={"Host": host}, extensions=name)).status_code)
                if number == 0:
                    own = '[sites."second.test"]\ncertfile = "second.pem"\nkeyfile = "second.key"\n'
                    (tmp_path / "halfsync.toml").write_text(f"{top}{own}{routes}")
                    server.signal(signal.SIGHUP)
                    server.until_logged("The new configuration is in effect")
        return found

    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        assert asyncio.run(ask(server)) == [200, 200, 200, 404]


def test_the_guarded_site_itself(server):
    with_certificate = client_context(protocols=("h2",), leaf=issued_to("member"))

    async def ask() -> tuple[int, str]:
        async with client(server, verify=with_certificate) as one:
            host = {"Host": f"members.test:{server.port}"}
            got = await one.get("/hello", headers=host, extensions={"sni_hostname": "members.test"})
            return got.status_code, got.http_version

    assert asyncio.run(ask()) == (200, "HTTP/2")


def test_without_http2(tmp_path):
    """`http2 = false`: it is not offered."""
    write(tmp_path, issued("127.0.0.1"))
    tls = ("--certfile", "server.pem", "--keyfile", "server.key", "--no-http2")
    with serving(tmp_path, "story:app", *tls, "-b", "https://127.0.0.1:0", bind=False) as server:
        assert over_tls(server, "--http2", "-w", "%{http_version}", "/hello") == b"hello\n1.1"


def test_http2_is_turned_off_and_on_by_a_reload(tmp_path):
    """The certificates are the same, and what is agreed upon in a handshake is not."""
    write(tmp_path, issued("127.0.0.1"))
    settings = tmp_path / "halfsync.toml"
    settings.write_text(SETTINGS_OF_ONE)
    version = ("-w", "%{http_version}")
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        assert over_tls(server, *version, "/hello") == b"hello\n2"
        for count, (http2, spoken) in enumerate((("false", b"1.1"), ("true", b"2"), ("false", b"1.1")), 1):
            settings.write_text(f"http2 = {http2}\n{SETTINGS_OF_ONE}")
            server.signal(signal.SIGHUP)
            server.until_logged("The new configuration is in effect", count)
            assert over_tls(server, *version, "/hello") == b"hello\n" + spoken


SETTINGS_OF_ONE = """
bind = ["https://127.0.0.1:0"]
certfile = "server.pem"
keyfile = "server.key"
[routes]
"/" = "story:app"
"""


# --- cipher suites with which HTTP/2 must not be spoken (RFC 9113 9.2.2) -----------------------------------

MIXED = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384"
MIXED_SETTINGS = f"""
bind = ["https://127.0.0.1:0"]
certfile = "server.pem"
keyfile = "server.key"
ciphers = "{MIXED}"
[routes]
"/" = "story:app"
[sites."strict.test"]
certfile = "server.pem"
keyfile = "server.key"
ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256"
[sites."strict.test".routes]
"/" = "story:app"
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("mixed-ciphers")
    write(folder, issued("127.0.0.1", "strict.test"))
    (folder / "halfsync.toml").write_text(MIXED_SETTINGS)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


def shake(
    server: Server, *protocols: str, ciphers: str = "", newest: bool = False, name: str = "127.0.0.1"
) -> ssl.SSLSocket:
    context = client_context(protocols=protocols)
    if not newest:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if ciphers:
        context.set_ciphers(ciphers)
    raw = socket.create_connection(("127.0.0.1", server.port), LONG)
    return context.wrap_socket(raw, server_hostname=name)


@pytest.mark.parametrize("suite", MIXED.split(":"))
def test_a_client_of_tls_1_2_gets_http1_where_a_prohibited_suite_may_be_chosen(mixed: Server, suite: str):
    with shake(mixed, "h2", "http/1.1", ciphers=suite) as sock:
        assert (sock.cipher() or ("",))[0] == suite
        assert sock.selected_alpn_protocol() == "http/1.1"
        sock.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_of_tls_1_3_gets_http2_there(mixed: Server):
    with shake(mixed, "h2", "http/1.1", newest=True) as sock:
        assert sock.selected_alpn_protocol() == "h2"
    assert over_tls(mixed, "--http2", "-o", "/dev/null", "-w", "%{http_version}", "/hello") == b"2"
    old = ("--http2", "--tls-max", "1.2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}")
    assert over_tls(mixed, *old, "/hello") == b"1.1 200"


def test_a_site_without_such_suites_speaks_http2_with_both(mixed: Server):
    for newest in (False, True):
        with shake(mixed, "h2", "http/1.1", newest=newest, name="strict.test") as sock:
            assert sock.selected_alpn_protocol() == "h2"


def test_a_client_of_tls_1_2_that_speaks_http2_alone_is_refused_there(mixed: Server):
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        shake(mixed, "h2")


@pytest.mark.parametrize(("suite", "status"), [(MIXED.split(":")[0], None), (MIXED.split(":")[1], b"505")])
def test_a_preface_that_was_not_agreed_upon_begins_nothing_with_such_a_suite(mixed, suite, status):
    with shake(mixed, ciphers=suite) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        begin = sock.recv(1000)
        assert begin.split()[1] == status if status else begin[3] == 4, "SETTINGS, or a response"


@pytest.mark.parametrize(
    ("more", "told"), [((), True), (("--no-http2",), False), (("--minimum-version", "1.3"), False)]
)
def test_who_names_such_a_suite_is_told_so(mixed: Server, more: tuple[str, ...], told: bool):
    words = (
        "halfsync.toml:5: ciphers: HTTP/2 must not be spoken with ECDHE-ECDSA-AES128-SHA, "
        "ECDHE-ECDSA-AES256-SHA384 (RFC 9113, appendix A), so clients that speak no TLS 1.3 get HTTP/1.1."
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(APPS)])}
    done = command(mixed.folder, "-c", "halfsync.toml", "--check-config", *more, environment=environment)
    assert not done.returncode, done.stderr
    assert (words in done.stdout + done.stderr) is told


def test_a_session_does_not_keep_a_suite_that_is_no_longer_spoken(tmp_path):
    """OpenSSL resumes a session of TLS 1.2 with the suite that it began with, whatever the context's are."""
    write(tmp_path, issued("127.0.0.1"))
    settings = tmp_path / "halfsync.toml"
    settings.write_text(f'ciphers = "{MIXED}"\n{SETTINGS_OF_ONE}')
    context = client_context(protocols=("h2", "http/1.1"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    weak, good = "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-GCM-SHA256"
    context.set_ciphers(f"{weak}:{good}")
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        *before, session = connect(server, context, None)
        assert before == [weak, "http/1.1", False]
        assert connect(server, context, session)[:3] == (weak, "http/1.1", True)
        settings.write_text(f'ciphers = "{good}"\n{SETTINGS_OF_ONE}')
        server.signal(signal.SIGHUP)
        server.until_logged("The new configuration is in effect")
        assert connect(server, context, session)[:3] == (good, "h2", False)


def connect(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[str, str | None, bool | None, ssl.SSLSession | None]:
    """Cipher suite, protocol, whether it is resumed, and the session."""
    raw = socket.create_connection(("127.0.0.1", server.port), LONG)
    with context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as sock:
        cipher = sock.cipher()
        assert cipher is not None
        return cipher[0], sock.selected_alpn_protocol(), sock.session_reused, sock.session


@pytest.mark.parametrize("http2", [True, False], ids=["HTTP/2", "HTTP/1.1"])
def test_large_bodies_cross_an_event_loop_both_ways(server, http2):
    """Several at once: what crosses in shared memory is neither mixed up nor overwritten."""
    bodies = [pattern(600_000 + number)[number:] for number in range(6)]

    async def run() -> list[httpx.Response]:
        async with client(server, http2=http2) as one:
            return await asyncio.gather(*(one.post("/loop/echo", content=body) for body in bodies))

    responses = asyncio.run(run())
    assert {one.http_version for one in responses} == {"HTTP/2" if http2 else "HTTP/1.1"}
    assert [digest(one.content) for one in responses] == list(map(digest, bodies))
