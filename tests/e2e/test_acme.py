"""Certificates by ACME, from a real authority that runs on this machine (pebble), and from one that fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from acme.client import _renewal_info_path_component
from cryptography import x509

from halfsync.issuing import files
from halfsync.issuing.main import Issuer
from halfsync.settings.errors import SettingError
from halfsync.settings.site_tls import acme_of, tls_of
from halfsync.settings.sources import load
from halfsync.tls.acme_plan import AcmePlan, AcmeSite
from tests.certificates import authority, issued, write
from tests.e2e.harness import LONG, Client, Server, kill, serving, until
from tests.ports import free_port, free_ports

APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.url_scheme"].encode()]
"""


class Authority:
    """pebble, and beside it the DNS server for which every name is this machine."""

    def __init__(self, folder: Path, environment: dict[str, str], more: dict[str, Any]) -> None:
        self.http_port, self.tls_port, self.port, self._own, dns, management = free_ports(6)
        write(folder, issued("localhost", "127.0.0.1"), "authority")
        self.trusted = folder / "ca.pem"
        configuration = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self._own}",
            "certificate": str(folder / "authority.pem"),
            "privateKey": str(folder / "authority.key"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            **more,
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": configuration}))
        self.log = folder / "pebble.log"
        names = [
            *("pebble-challtestsrv", "-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""),
            *("-dns01", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{management}"),
        ]
        pebble = ["pebble", "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"]
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", **environment}
        with self.log.open("wb") as log:
            self._processes = [
                subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                for command in (names, pebble)
            ]
        until(self._answers)

    def _answers(self) -> bool:
        assert all(one.poll() is None for one in self._processes), self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    def root(self) -> bytes:
        """What clients trust its certificates by (PEM)."""
        context = ssl.create_default_context(cafile=self.trusted)
        with urlopen(f"https://127.0.0.1:{self._own}/roots/0", timeout=LONG, context=context) as response:
            found: bytes = response.read()
            return found

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def pebble(folder: Path, more: dict[str, Any] | None = None, **environment: str) -> Iterator[Authority]:
    """`more`: of its configuration."""
    if shutil.which("pebble") is None:
        pytest.skip("there is no pebble")
    running = Authority(folder, environment, more or {})
    try:
        yield running
    except BaseException:
        print(running.log.read_text()[-5000:], file=sys.stderr)
        raise
    finally:
        running.stop()


def configure(folder: Path, ports: Sequence[int], directory: str, more: str = "", routes: str = "") -> None:
    """`ports`: for https and http. `directory`: "" if `more` says it."""
    (folder / "app.py").write_text(APPLICATION)
    more += f'\nacme_directory = "{directory}"' if directory else ""
    (folder / "halfsync.toml").write_text(
        f'bind = ["https://127.0.0.1:{ports[0]}", "http://127.0.0.1:{ports[1]}"]\n'
        f'{more}\n[routes]\n"/" = "app:app"\n{routes}'
    )


def shown(port: int, host: str) -> x509.Certificate:
    """The certificate that a client gets that asks for this host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), LONG) as raw,
        context.wrap_socket(raw, server_hostname=host) as sock,
    ):
        der = sock.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


def names_of(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def is_of_authority(certificate: x509.Certificate) -> bool:
    return "Pebble" in certificate.issuer.rfc4514_string()


def test_certificates_come_by_themselves(tmp_path: Path):
    """For the default site and for another, by tls-alpn-01, of an authority that rejects every fifth nonce.
    They are there when the pump is another one, and at the next start."""
    with pebble(tmp_path, PEBBLE_WFE_NONCEREJECT="20") as pebbles:
        more = 'acme = true\nacme_hosts = ["shop.test", "www.shop.test"]\nacme_email = "ann@shop.test"'
        routes = '[sites."blog.test"]\nacme = true\n[sites."blog.test".routes]\n"/" = "app:app"\n'
        configure(tmp_path, (pebbles.tls_port, pebbles.http_port), pebbles.directory, more, routes)
        environment = {"REQUESTS_CA_BUNDLE": str(pebbles.trusted)}
        with serving(tmp_path, "-c", "halfsync.toml", bind=False, environment=environment) as server:
            assert names_of(shown(server.port, "shop.test")) == ["shop.test", "www.shop.test"]
            for host in ("shop.test", "blog.test"):
                server.until(lambda host=host: is_of_authority(shown(server.port, host)))  # type: ignore[misc]
            assert names_of(shown(server.port, "www.shop.test")) == ["shop.test", "www.shop.test"]
            assert names_of(shown(server.port, "blog.test")) == ["blog.test"]
            for name in ("account.key", "shop.test.pem", "blog.test.pem"):
                assert (tmp_path / "acme" / name).stat().st_mode & 0o777 == 0o600
            kill(server.pump)
            server.until_logged(r"pump \[\d+\] is started", 2)
            assert is_of_authority(shown(server.port, "shop.test"))
        with serving(tmp_path, "-c", "halfsync.toml", bind=False, environment=environment) as server:
            assert is_of_authority(shown(server.port, "shop.test"))
            server.until_logged(r"acme \[\d+\] is ready")
            assert "ordering a certificate" not in server.log()


def test_by_http_where_all_else_is_redirected(tmp_path: Path):
    with pebble(tmp_path) as pebbles:
        more = 'acme = true\nacme_hosts = ["shop.test"]\nacme_challenge = "http-01"\nredirect_http = true'
        configure(tmp_path, (pebbles.tls_port, pebbles.http_port), pebbles.directory, more)
        environment = {"REQUESTS_CA_BUNDLE": str(pebbles.trusted)}
        with serving(tmp_path, "-c", "halfsync.toml", bind=False, environment=environment) as server:
            server.until(lambda: is_of_authority(shown(server.port, "shop.test")))
            with Client(("127.0.0.1", pebbles.http_port)) as client:
                assert client.ask("/.well-known/acme-challenge/another").status == 301


def test_an_account_is_bound_to_another(tmp_path: Path):
    """External account binding: without it, or with a wrong key, it is said why there is no certificate."""
    key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    more = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {"kid-1": key}}
    with pebble(tmp_path, more) as pebbles:
        acme = 'acme = true\nacme_hosts = ["shop.test"]'
        bound = f'{acme}\nacme_eab_kid = "kid-1"\nacme_eab_hmac_key = '
        ports = (pebbles.tls_port, pebbles.http_port)
        configure(tmp_path, ports, pebbles.directory, acme)
        environment = {"REQUESTS_CA_BUNDLE": str(pebbles.trusted)}
        with serving(tmp_path, "-c", "halfsync.toml", bind=False, environment=environment) as server:
            server.until_logged(r"no new certificate for shop.test: .* acme_eab_kid, acme_eab_hmac_key\.")
            configure(tmp_path, ports, pebbles.directory, f'{bound}"{key[::-1]}"')
            server.signal(signal.SIGHUP)
            server.until_logged(r"no new certificate for shop.test: the authority says .*")
            configure(tmp_path, ports, pebbles.directory, f'{bound}"{key}"')
            server.signal(signal.SIGHUP)
            server.until(lambda: is_of_authority(shown(server.port, "shop.test")))


def test_a_host_that_is_not_ours_is_told_and_others_are_served(tmp_path: Path):
    """The authority connects to a port where nobody listens."""
    with pebble(tmp_path) as pebbles:
        more = 'acme = true\nacme_hosts = ["shop.test"]'
        configure(tmp_path, free_ports(2), pebbles.directory, more)
        environment = {"REQUESTS_CA_BUNDLE": str(pebbles.trusted)}
        with serving(tmp_path, "-c", "halfsync.toml", bind=False, environment=environment) as server:
            server.until_logged(
                r"acme: no new certificate for shop.test: shop.test: the authority says .*\. The one that is "
                r"in use stays; the next try is in 1 min, or at a reload\."
            )
            assert names_of(shown(server.port, "shop.test")) == ["shop.test"]


class Failing(BaseHTTPRequestHandler):
    """An authority that has come as far as `newOrder`."""

    protocol_version = "HTTP/1.1"
    problem: tuple[int, dict[str, Any]] = (429, {})

    window: tuple[datetime, datetime] | None = None  # in which it wants certificates to be renewed
    orders: list[dict[str, Any]]  # that have come
    conflict = (409, {"type": "urn:ietf:params:acme:error:alreadyReplaced"})  # if they say what they replace

    def do_GET(self) -> None:
        if self.window is not None and self.path.startswith("/renewalInfo/"):
            start, end = (moment.isoformat(timespec="seconds") for moment in self.window)
            self.respond(200, {"suggestedWindow": {"start": start, "end": end}})
            return
        here = f"http://{self.headers['Host']}"
        names = ["newNonce", "newAccount", "newOrder", "revokeCert", "keyChange"]
        names += ["renewalInfo"] if self.window else []
        self.respond(200, {name: f"{here}/{name}" for name in names})

    def do_HEAD(self) -> None:
        self.respond(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/newAccount":
            self.respond(201, {"status": "valid"})
            return
        payload = json.loads(body)["payload"]
        self.orders.append(json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))
        if "replaces" in self.orders[-1]:
            self.respond(*self.conflict)
        else:
            self.respond(*self.problem)

    def respond(self, status: int, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        kind = "application/problem+json" if status >= 400 else "application/json"
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Replay-Nonce", "bm9uY2U"),
        ):
            self.send_header(name, value)
        self.send_header("Location", "http://127.0.0.1/account/1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def failing_with(
    status: int,
    problem: dict[str, Any],
    window: tuple[datetime, datetime] | None = None,
    orders: list[dict[str, Any]] | None = None,
) -> Iterator[str]:
    """`orders`: where those are kept that come."""
    told = {"problem": (status, problem), "window": window, "orders": [] if orders is None else orders}
    handler = type("Handler", (Failing,), told)
    # a port that nobody else is given: servers may ask there for longer than this lasts
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dir"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A server whose certificate is an authority's, for its host, and to be renewed; the authority can't be
    reached. The function gives it another one."""
    folder = tmp_path_factory.mktemp("old")
    leaf = authority().issue_cert("shop.test", not_after=soon())
    (folder / "acme").mkdir()
    (folder / "acme/shop.test.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    more = 'acme = true\nacme_hosts = ["shop.test"]'
    *ports, nowhere = free_ports(3)

    def with_directory(directory: str) -> None:
        configure(folder, ports, directory, more)

    with_directory(f"http://127.0.0.1:{nowhere}/dir")
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server, with_directory


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(days=2)


def still_serves(server: Server) -> bool:
    return "trustme" in shown(server.port, "shop.test").issuer.rfc4514_string()


def test_an_authority_that_can_not_be_reached(old: tuple[Server, Callable[[str], None]]):
    server, _ = old
    server.until_logged(
        r"acme: no new certificate for shop.test: http://127.0.0.1:\d+/dir can't be reached: .*refused\. The"
    )
    assert still_serves(server)


@pytest.mark.parametrize(
    ("status", "problem", "words"),
    [
        (
            429,
            {
                "type": "urn:ietf:params:acme:error:rateLimited",
                "detail": "too many certificates already issued",
            },
            r"the authority says too many certificates already issued \(rateLimited\)",
        ),
        (
            400,
            {"type": "urn:ietf:params:acme:error:badNonce", "detail": "no such nonce"},
            r"the authority says no such nonce \(badNonce\)",
        ),
        (200, {}, "the authority's response is not as it should be: "),
    ],
)
def test_an_authority_that_refuses(old: tuple[Server, Callable[[str], None]], status, problem, words):
    server, with_directory = old
    with failing_with(status, problem) as directory:
        with_directory(directory)
        server.signal(signal.SIGHUP)
        server.until_logged(rf"ordering a certificate for shop.test at {directory}")
        server.until_logged(words)
    assert still_serves(server)


@pytest.mark.parametrize(("days", "is_early"), [(-1, True), (20, False)])
def test_an_authority_may_want_an_early_renewal(tmp_path: Path, days: int, is_early: bool):
    """As before it revokes certificates: it is asked, and a new one is ordered long before two thirds of the
    time are over."""
    begin = datetime.now(UTC) - timedelta(days=30)
    leaf = authority().issue_cert("shop.test", not_before=begin, not_after=begin + timedelta(days=90))
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme/shop.test.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    wanted = datetime.now(UTC) + timedelta(days=days)
    window = (wanted, wanted + timedelta(hours=1))
    refusal = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "not today"}
    orders: list[dict[str, Any]] = []
    with failing_with(429, refusal, window, orders) as directory:
        configure(tmp_path, free_ports(2), directory, 'acme = true\nacme_hosts = ["shop.test"]')
        with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
            server.until_logged(r"acme: the authority wants shop.test to be renewed early, at \d{4}-")
            if is_early:
                server.until_logged(r"acme: no new certificate for shop.test: the authority says not today")
            assert still_serves(server)
        assert ("ordering" in server.log()) is is_early
    if not is_early:
        assert orders == []
        return
    # It names the certificate that it is to replace; and does not, where the authority does not want that.
    [certificate] = x509.load_pem_x509_certificates(leaf.cert_chain_pems[0].bytes())
    first, second = orders[:2]
    assert first.pop("replaces") == _renewal_info_path_component(certificate)
    assert first == second == {"identifiers": [{"type": "dns", "value": "shop.test"}]}


def test_a_certificate_that_is_taken_away_while_it_is_looked_at_is_ordered(tmp_path: Path, monkeypatch):
    site = AcmeSite(("shop.test",), str(tmp_path / "shop.test.pem"))
    nowhere = "https://127.0.0.1:1/dir"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        issuer = Issuer(AcmePlan((site,), str(tmp_path), nowhere, "", "http-01"), ours)
        now = datetime.now(UTC).timestamp()
        monkeypatch.setattr(files, "renew_at", lambda *_: now + 1000)  # it has read the file
        assert issuer._renew_at(site, now) <= now


def test_what_an_order_replaces(tmp_path: Path):
    """Nothing, if there is no certificate of an authority's for one of the hosts."""
    path = tmp_path / "shop.test.pem"

    def replaced(*hosts: str) -> str:
        return files.identifier(str(path), hosts)

    assert replaced("shop.test") == ""
    path.write_bytes(files.self_signed(["shop.test"]))
    assert replaced("shop.test") == ""
    path.write_text("no certificate")
    assert replaced("shop.test") == ""
    for _ in range(3):  # whatever the first bit of the serial number is
        leaf = authority().issue_cert("shop.test", "www.shop.test")
        path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        [certificate] = x509.load_pem_x509_certificates(leaf.cert_chain_pems[0].bytes())
        assert replaced("new.test", "www.shop.test") == _renewal_info_path_component(certificate)
        assert replaced("new.test") == ""


ROUTES = '\nroutes = { "/" = "app:app" }'
AUTHORITY = "https://acme.authority.example/directory"


@pytest.mark.parametrize(
    ("more", "routes", "words"),
    [
        ("acme = true", "", "acme: name the hosts that the certificate is for with acme_hosts."),
        (
            'acme = true\nacme_hosts = ["*.shop.test"]',
            "",
            "'*.shop.test' can't be had by tls-alpn-01 or http-01",
        ),
        (
            'acme = true\nacme_hosts = ["shop test"]',
            "",
            "acme_hosts: there is no certificate for 'shop test'",
        ),
        (
            'acme = true\nacme_hosts = ["shop.test"]\ncertfile = "a.pem"',
            "",
            "acme gets a certificate, and certfile names one: only one of them counts.",
        ),
        (
            'acme = true\nacme_hosts = ["a.test"]\nacme_eab_kid = "7"',
            "",
            "acme_eab_kid is of no use alone: an authority gives both of acme_eab_kid and acme_eab_hmac_key.",
        ),
        (
            'acme = true\nacme_hosts = ["a.test"]\nacme_eab_kid = "7"\nacme_eab_hmac_key = "a b"',
            "",
            "acme_eab_hmac_key must be base64url",
        ),
        (
            'acme = true\nacme_hosts = ["192.0.2.1"]',
            "",
            "acme_hosts: '192.0.2.1' is an IP address: certificates",
        ),
        ('acme = true\nacme_hosts = ["[2001:db8::1]"]', "", "acme_hosts: '[2001:db8::1]' is an IP address"),
        (
            "",
            '[sites."192.0.2.1"]\nacme = true' + ROUTES,
            "sites.\"192.0.2.1\": acme: '192.0.2.1' is an IP address",
        ),
        *(
            (
                f'acme = true\nacme_hosts = ["a.test"]\nacme_directory = "{directory}"',
                "",
                f"address of an authority's directory, such as {AUTHORITY}, not '{directory}'.",
            )
            for directory in ("ftp://x", "acme.test/directory", "https:///directory", "https://a b/", "")
        ),
        *(
            (
                f'acme = true\nacme_hosts = ["a.test"]\nacme_email = "{email}"',
                "",
                f"acme_email must be an address such as admin@shop.example, not '{email}'.",
            )
            for email in ("admin", "mailto:a@b.test", "a@b.test, c@d.test")
        ),
        (
            'acme = true\nacme_hosts = ["a.test"]\n',
            '[sites."a.test"]\nhosts = ["a.test", "b.test"]\nacme = true' + ROUTES,
            "certificate for a.test, b.test would be in the same file as that for a.test, acme/a.test.pem",
        ),
        (
            "",
            '[sites.a]\nhosts = ["a.test", "*.a.test"]\nacme = true' + ROUTES,
            "sites.\"a\": hosts: '*.a.test' can't be had",
        ),
    ],
)
def test_mistakes(tmp_path: Path, more: str, routes: str, words: str):
    directory = "" if "acme_directory" in more else "http://127.0.0.1:1/dir"
    configure(tmp_path, (1, 2), directory, more, routes)
    loaded = load({}, {}, str(tmp_path / "halfsync.toml"))
    with pytest.raises(SettingError, match=re.escape(words)):
        acme_of(loaded.settings, tls_of(loaded.settings, loaded.sites))
