"""TLS in the pump: handshakes, what is read and written, and how a connection ends.

(That all that is promised of connections holds with TLS too, see test_transports.py.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import socket
import ssl
import struct
import time
from dataclasses import replace
from typing import Any

import pytest

from halfsync.objects import File, Memory
from halfsync.pump.connection import Connection
from halfsync.pump.reconfigure import PlanChange
from halfsync.pump.states import FRESH, HANDSHAKE, LINGERING
from halfsync.pump.tls import transport as tls_transport
from halfsync.pump.tls.contexts import Contexts
from halfsync.pump.tls.handshakes import STEPS
from halfsync.pump.tls.openssl import server_side
from halfsync.pump.tls.transport import SEND, TLSTransport
from halfsync.tls import ticket_keys
from halfsync.tls.certificates import SiteCertificates
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import Ending, Lease, Task
from tests.certificates import ECDSA, RSA, client_context, issued, issued_to
from tests.pump.harness import TIMEOUT, Hand, Stage, get, no_descriptor_left
from tests.pump.http2_client import Http2Client
from tests.pump.tls_ends import TLSSocket, certificates, site
from tests.wire.http2_frames import goaway, ping

MIB = 1 << 20


@pytest.fixture
def stage():
    with Stage(tls=certificates(), access_logfile="-") as stage:
        yield stage


class Raw:
    """A client that has connected, and has not shaken hands."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.sock = socket.socket()
        self.sock.setblocking(True)  # the pump has changed the default
        self.sock.connect(stage.listener.getsockname())
        self.sock.setblocking(False)
        self.inbox = b""
        before = len(stage.pump.connections)
        stage.until(lambda: len(stage.pump.connections) > before, "a connection")
        stage.clients.append(self)  # type: ignore[arg-type]

    def send(self, data: bytes) -> None:
        self.sock.send(data)
        self.stage.settle()

    def rest(self) -> bytes:
        """All that comes until the pump closes."""

        def over() -> bool:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return False
            except OSError:
                return True
            self.inbox += data
            return not data

        self.stage.until(over, "the end of the connection")
        return self.inbox


def hello(name: str | None = "a", context: ssl.SSLContext | None = None) -> bytes:
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        (context or client_context(checks=False)).wrap_bio(
            ssl.MemoryBIO(), outgoing, server_hostname=name
        ).do_handshake()
    return outgoing.read()


def send_large(hand: Hand, task: Task, data: bytes, **more: Any) -> None:
    """A response from a file, as a worker's are that are too large for a message."""
    fd = os.memfd_create("large")
    os.write(fd, data)
    hand.reply(task, objects=[File(0, 0, len(data))], fds=(fd,), **more)


def the(stage: Stage) -> Connection:
    (conn,) = stage.pump.connections.values()
    return conn


# --- handshakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_request_over_either_version(stage: Stage, version: str):
    stage.hand(answers=True)
    context = client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]
    client = stage.client(context=context)
    assert client.sock.tls.version() == version
    assert client.ask("/x").body == b"GET /x HTTP/1.1\n"
    assert client.ask("/y").body == b"GET /y HTTP/1.1\n"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_an_old_version_is_refused_with_its_alert(stage: Stage, version: ssl.TLSVersion):
    context = client_context()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        stage.client(context=context)


def test_a_hello_that_is_too_long_to_be_looked_at_is_refused(stage: Stage):
    """OpenSSL takes 128 KiB: it would go on with a name that we have not read."""
    body = hello()[9:]
    at = 35 + body[34]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    padding = b"\x00\x15" + (20_000).to_bytes(2, "big") + bytes(20_000)
    extensions = body[at + 2 :] + padding
    body = body[:at] + len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    client = Raw(stage)
    for piece in (message[:16_000], message[16_000:]):
        client.send(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece)
    assert client.rest() == b"\x15\x03\x01\x00\x02\x02\x28"
    assert stage.pump.endings.counts.closes == {int(CloseReason.HANDSHAKE_FAILED): 1}


def test_a_hello_in_pieces(stage: Stage):
    """Nothing of OpenSSL's is there before it is whole."""
    stage.hand(answers=True)
    raw = Raw(stage)
    data = hello()
    for at in range(len(data) - 1):
        raw.send(data[at : at + 1])
    transport = the(stage).transport
    assert isinstance(transport, TLSTransport)
    before = transport.has_begun
    raw.send(data[-1:])
    assert (before, transport.has_begun) == (False, True)
    assert raw.sock.recv(1) == b"\x16"


def test_a_client_that_says_nothing_has_a_socket_and_a_time_limit():
    with Stage(tls=certificates(), handshake_timeout=10.0) as stage, no_descriptor_left(stage):
        silent = Raw(stage)
        half = Raw(stage)
        half.send(hello()[:50])
        begun = Raw(stage)
        begun.send(hello())
        stage.later(9)
        assert len(stage.pump.connections) == 3
        stage.later(2)
        assert not stage.pump.connections
        for raw in (silent, half, begun):
            raw.rest()
            raw.sock.close()
        stage.clients.clear()


def test_the_time_limit_of_a_request_begins_after_the_handshake():
    with Stage(tls=certificates(), handshake_timeout=10.0, head_timeout=20.0) as stage:
        raw = Raw(stage)
        stage.later(9)
        client = stage.client()
        stage.later(9)
        assert raw.rest() == b""
        assert not client.over
        stage.later(12)
        assert client.rest() == b""
        assert client.sock.said_goodbye


def test_a_turn_takes_few_steps_of_handshakes_and_others_are_served_meanwhile(stage: Stage):
    """However many begin at once: they wait in their order, behind who is there."""
    stage.hand(answers=True)
    client = stage.client()
    raws = [Raw(stage) for _ in range(5 * STEPS)]
    for raw in raws:
        raw.sock.send(hello())
    client.sock.send(get("/x"))
    handshakes = stage.pump.handshakes
    stage.until(lambda: handshakes.due, "handshakes to be due")
    begun = [conn for conn in stage.pump.connections.values() if has_begun(conn)]
    assert len(begun) <= 2 * STEPS
    turns = 0
    while handshakes.due:
        before = sum(map(has_begun, stage.pump.connections.values()))
        stage.turn()
        turns += 1
        assert sum(map(has_begun, stage.pump.connections.values())) - before <= STEPS
    assert turns >= 2
    assert client.answer().body == b"GET /x HTTP/1.1\n"


def has_begun(conn: Connection) -> bool:
    transport = conn.transport
    return isinstance(transport, TLSTransport) and conn.state is HANDSHAKE and transport.has_begun


def test_a_thousand_that_never_shake_hands_hold_nothing_but_their_sockets():
    """Whether they have said nothing, or half of a hello; and nobody is kept waiting."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        with Stage(tls=certificates(), handshake_timeout=10.0) as stage:
            stage.hand(answers=True)
            count = min(1000, stage.pump.acceptor._most - 10)
            part = hello()[:200]
            raws = []
            for number in range(count):
                raw = socket.socket()
                raw.setblocking(True)
                raw.connect(stage.listener.getsockname())
                if number % 2:
                    raw.send(part)
                raws.append(raw)
                if number % 50 == 0:
                    stage.turn()
            stage.until(lambda: len(stage.pump.connections) == count, "all connections")
            stage.until(lambda: not stage.pump.handshakes.due, "all to be looked at")
            waiting = list(stage.pump.connections.values())
            assert not any(map(has_begun, waiting))
            assert sum(len(conn.inbox) for conn in waiting) == count // 2 * len(part)
            assert stage.client().ask(get("/x")).body == b"GET /x HTTP/1.1\n"
            stage.later(12)
            assert not [conn for conn in waiting if conn.state is HANDSHAKE]
            for raw in raws:
                raw.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_handshake_at_a_listener_that_a_reload_removes(stage: Stage):
    """Its client gets one response, as do those who have connected there before."""
    stage.hand(answers=True)
    raw = Raw(stage)
    handshakes = stage.pump.handshakes
    handshakes.close_soon = PlanChange(stage.pump)._close_after_next_response
    handshakes.removed = {0}
    client = stage.client()
    answer = client.ask(get("/x"))
    assert answer.status == 200
    assert answer.fields["connection"] == "close"
    assert client.rest() == b""
    raw.sock.close()


def test_a_client_that_leaves_in_its_handshake(stage: Stage):
    with no_descriptor_left(stage):
        for data in (b"", hello()[:20], hello()):
            raw = Raw(stage)
            if data:
                raw.send(data)
            stage.clients.clear()
            raw.sock.close()
            stage.until(lambda: not stage.pump.connections)
    assert not stage.pump.handshakes.due


def test_a_handshake_goes_on_at_a_stop(stage: Stage):
    """Whoever has connected is answered still; whoever says nothing is not waited for."""
    stage.hand(answers=True)
    silent, raw = Raw(stage), Raw(stage)
    stage.pump.draining.begin(30.0)
    stage.clients.clear()
    client = TLSSocket(raw.sock, stage.turn)
    client.send(get("/x"))
    received = b""

    def ended() -> bool:
        nonlocal received
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return False
        received += data
        return not data

    stage.until(ended)
    assert received.endswith(b"GET /x HTTP/1.1\n")
    assert b"Connection: close" in received
    stage.later(2)
    silent.rest()
    for sock in (silent.sock, raw.sock):
        sock.close()


# --- what else comes to the port ------------------------------------------------------------------------


def test_a_request_in_clear_is_told_to_use_https(stage: Stage):
    raw = Raw(stage)
    raw.send(get("/x", "Connection: keep-alive").replace(b"Host: a", b"Host: shop.example:8443"))
    answer = raw.rest()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert b"https://shop.example:8443/" in answer
    assert stage.reasons() == [CloseReason.REFUSED]


def test_a_request_in_clear_may_come_byte_by_byte(stage: Stage):
    raw = Raw(stage)
    for byte in get("/x"):
        raw.send(bytes([byte]))
    assert raw.rest().startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "data",
    [b"\x00" * 100, b"\r\n\r\n", b"\xfe\x01" * 1000, b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x02\x01\x00" * 200],
    ids=["zeros", "empty lines", "noise", "ssh", "records"],
)
def test_what_is_no_tls_is_closed(stage: Stage, data: bytes):
    stage.hand(answers=True)
    client = stage.client()
    raw = Raw(stage)
    raw.send(data)
    stage.later(11)
    rest = raw.rest()
    assert rest == b"" or rest[0] == 0x15  # an alert
    assert client.ask("/x").body == b"GET /x HTTP/1.1\n"


def test_a_handshake_that_turns_into_noise_gets_an_alert(stage: Stage):
    raw = Raw(stage)
    raw.send(hello())
    raw.send(b"\x16\x03\x03\x00\x20" + b"\xee" * 32)
    stage.until(lambda: not stage.pump.connections)
    assert raw.rest()[-24:-19] == b"\x17\x03\x03\x00\x13"  # an alert, encrypted as all is by now


def test_noise_on_a_connection_that_is_encrypted_gets_an_alert(stage: Stage):
    stage.hand(answers=True)
    client = stage.client()
    client.ask("/x")
    client.sock.raw.send(b"\x17\x03\x03\x00\x20" + b"\xee" * 32)
    stage.until(lambda: not stage.pump.connections)
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        client.sock.recv(1)


def change_keys(sock: TLSSocket, *, request: bool = True) -> None:
    """A KeyUpdate record (RFC 8446 4.6.3), for which Python has no call; and its client's next bytes are
    encrypted with the new key."""
    library = ctypes.CDLL("libssl.so.3")
    library.SSL_key_update.argtypes = (ctypes.c_void_p, ctypes.c_int)
    inner = id(sock.tls._sslobj)  # type: ignore[attr-defined]
    pointer = ctypes.c_void_p.from_address(inner + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
    assert library.SSL_key_update(pointer, int(request)) == 1
    sock.tls.do_handshake()


def test_a_client_may_change_its_keys(stage: Stage):
    stage.hand(answers=True)
    client = stage.client()
    for _ in range(20):
        change_keys(client.sock)
        assert client.ask(get("/x")).body == b"GET /x HTTP/1.1\n"


@pytest.mark.parametrize("between", [0, 1, 100])
def test_a_flood_of_key_updates_ends_its_connection_alone(stage: Stage, between: int):
    """Also if now and then there is data between them."""
    stage.hand(answers=True)
    other = stage.client()
    client = stage.client()
    for number in range(2000):
        change_keys(client.sock)
        if between and number % between == 0:
            client.sock.tls.write(b"G")
    with contextlib.suppress(OSError):
        client.sock.flush()
    stage.until(lambda: len(stage.pump.connections) == 1, "the end of the flood")
    assert other.ask(get("/x")).body == b"GET /x HTTP/1.1\n"


@pytest.mark.parametrize("size", [1, 5, 100, 16_384])
def test_many_records_with_data_are_no_flood(stage: Stage, size: int):
    """Of whatever size, and in whatever pieces they come."""
    hand = stage.hand()
    client = stage.client()
    body = bytes(size * (1000 if size < 1000 else 20))
    client.sock.tls.write(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
    for at in range(0, len(body), size):
        client.sock.tls.write(body[at : at + size])
    wire = client.sock.outgoing.read()
    for at in range(0, len(wire), 5000):
        piece = wire[at : at + 5000]
        while piece:
            try:
                piece = piece[client.sock.raw.send(piece) :]
            except BlockingIOError:
                stage.turn()
        stage.turn()
    assert hand.take().body_size == len(body)


def test_a_renegotiation_is_refused():
    """TLS 1.2 has it, and we do not: the client is told so, or its connection ends."""
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Stage(tls=certificates()) as stage:
        stage.hand(answers=True)
        client = stage.client(context=context)
        assert client.ask("/x").status == 200
        # A ClientHello within the connection, which is what begins one.
        client.sock.raw.send(b"\x16\x03\x03" + (32).to_bytes(2, "big") + b"\x01" * 32)
        stage.until(lambda: not stage.pump.connections)


# --- protocols --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "selected"), [((), None), (("http/1.1",), "http/1.1"), (("foo", "http/1.0"), "http/1.0")]
)
def test_the_protocol_is_agreed_upon(stage: Stage, offered: tuple[str, ...], selected: str | None):
    stage.hand(answers=True)
    client = stage.client(context=client_context(protocols=offered))
    assert client.sock.tls.selected_alpn_protocol() == selected
    assert client.ask("/x").status == 200


@pytest.mark.parametrize("offered", [("foo",), ("acme-tls/1",), ("\x01\x02",), tuple("abcdefghij")])
def test_a_client_that_speaks_no_protocol_of_ours_is_told_so(stage: Stage, offered: tuple[str, ...]):
    """RFC 7301 3.2."""
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        stage.client(context=client_context(protocols=offered))


# --- which certificate --------------------------------------------------------------------------------------


def sites(**more: Any) -> list[tuple[SiteCertificates, bytes]]:
    """A default, an exact name, a wildcard."""
    return [
        site("", leaves=(issued("default.example"),)),
        site("shop", "shop.example", "www.shop.example", **more),
        site("wild", "*.wild.example"),
        site("deep", "deep.wild.example"),
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("shop.example", "shop.example"),
        ("www.shop.example", "shop.example"),
        ("SHOP.example", "shop.example"),
        ("a.wild.example", "*.wild.example"),
        ("deep.wild.example", "deep.wild.example"),
        ("b.a.wild.example", "*.wild.example"),  # the site's, though the certificate does not cover it
        ("wild.example", "default.example"),
        ("unknown.example", "default.example"),
        ("", "default.example"),
    ],
)
def test_the_name_selects_the_certificate(name: str, shown: str):
    with Stage(tls=certificates(*sites())) as stage:
        context = client_context()
        context.check_hostname = False
        client = stage.client(context=context, name=name)
        names = [value for _, value in client.sock.tls.getpeercert()["subjectAltName"]]
        assert names[0] == shown


def test_without_a_default_an_unknown_name_is_refused():
    with Stage(tls=certificates(*sites()[1:])) as stage:
        stage.client(name="shop.example")
        for name in ("unknown.example", ""):
            context = client_context(checks=False)
            with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
                stage.client(context=context, name=name)


def test_a_site_has_its_own_least_version():
    """Even if the default, with which OpenSSL would have begun, lets older ones in."""
    with Stage(tls=certificates(*sites(minimum_version="1.3"))) as stage:
        context = client_context(checks=False)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert stage.client(context=context, name="a.wild.example").sock.tls.version() == "TLSv1.2"
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            stage.client(context=context, name="shop.example")


def test_a_refused_client_reads_why_though_it_goes_on_sending():
    """With TLS 1.3 it takes its handshake for done; with its requests unread, it would get a reset."""
    with Stage(tls=certificates(site("", "a", cert_reqs="required"))) as stage:
        client = stage.client()
        sock = client.sock
        for _ in range(3):
            stage.settle()
            sock.send(get("/x"))
        stage.settle()
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            sock.recv(1000)
        assert stage.pump.connections
        sock.close()
        stage.until(lambda: not stage.pump.connections, "the end")
        assert stage.pump.endings.counts.closes == {int(CloseReason.HANDSHAKE_FAILED): 1}


def test_a_refused_client_that_does_not_close_is_not_waited_for():
    with Stage(tls=certificates(site("", "a", cert_reqs="required"))) as stage:
        stage.client()
        stage.later(30)
        assert not stage.pump.connections


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_site_has_its_own_rule_about_client_certificates(version: str):
    with Stage(tls=certificates(*sites(cert_reqs="required"))) as stage:
        stage.hand(answers=True)

        def ask(name: str, context: ssl.SSLContext) -> bytes:
            context.check_hostname = False
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
            client = stage.client(context=context, name=name)
            client.send(get("/x"))
            stage.settle()
            client.receive()
            return client.inbox

        assert b"200 OK" in ask("a.wild.example", client_context())
        assert b"200 OK" in ask("shop.example", client_context(leaf=issued_to("someone@example.org")))
        # With TLS 1.3 the client's side of the handshake is done before the server looks.
        refused = pytest.raises(ssl.SSLError) if version == "TLSv1_2" else contextlib.nullcontext()
        with refused:
            assert ask("shop.example", client_context()) == b""


@pytest.mark.parametrize(
    "rule", [{"cert_reqs": "required"}, {"cert_reqs": "optional"}, {"minimum_version": "1.3"}]
)
def test_the_rules_of_a_site_hold_for_requests_on_other_sites_connections(rule: dict[str, str]):
    """Once the handshake is done with one name, a request may name another host. Also when a lease knows the
    response, and the request takes a fast path."""
    with Stage(tls=certificates(*sites(**rule))) as stage:
        hand = stage.hand()

        def head(host: str) -> bytes:
            return get("/x").replace(b"Host: a", f"Host: {host}".encode())

        let_in = stage.client(context=client_context(leaf=issued_to("x@example.org")), name="shop.example")
        for _ in range(3):
            let_in.send(head("shop.example"))
            if hand.tasks or hand.work():
                hand.reply(hand.take(), b"secret", lease=Lease(60.0, ()))
            assert let_in.answer().body == b"secret"
        context = client_context()
        context.check_hostname = False
        for host in ("shop.example", "SHOP.example:443", "www.shop.example."):
            other = stage.client(context=context, name="a.wild.example")
            other.send(head("a.wild.example"))
            hand.reply(hand.take(), b"open")
            assert other.answer().body == b"open"
            assert other.ask(head(host)).status == 421
        # Nor if the listening socket is no more, and the next response is the connection's last.
        last = stage.client(context=context, name="a.wild.example")
        last.send(head("a.wild.example"))
        hand.reply(hand.take(), b"open")
        assert last.answer().body == b"open"
        [*_, conn] = stage.pump.connections.values()
        PlanChange(stage.pump)._close_after_next_response(conn)
        assert last.ask(head("shop.example")).status == 421
        assert last.rest() == b""
        assert not hand.tasks


@pytest.mark.parametrize(
    "rule", [{"cert_reqs": "required"}, {"cert_reqs": "optional"}, {"minimum_version": "1.3"}]
)
def test_an_address_of_one_site_alone_has_the_rules_of_that_site_for_every_name(rule: dict[str, str]):
    """Requests for all other hosts are the site's there, though elsewhere they are the default site's."""
    with Stage(tls=certificates(*sites(**rule)), served=(1,)) as stage:
        stage.hand(answers=True)
        old = client_context()
        old.check_hostname = False
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        good = client_context(leaf=issued_to("x@example.org"), protocols=("h2",))
        good.check_hostname = False
        for name in ("unknown.example", "a.wild.example", "127.0.0.1", ""):
            if rule.get("cert_reqs") != "optional":
                with pytest.raises(ssl.SSLError):
                    stage.client(context=old, name=name).ask(get("/x"))
            client = stage.client(context=good, name=name)
            [*_, conn] = stage.pump.connections.values()
            assert isinstance(conn.transport, TLSTransport)
            assert conn.transport.terms is not None
            assert conn.transport.terms.rules.name == "shop"
            names = [value for _, value in client.sock.tls.getpeercert()["subjectAltName"]]
            assert names[0] == "shop.example"


def test_of_two_kinds_of_keys_each_client_gets_the_one_it_knows():
    leaves = (issued("a", key_type=RSA), issued("a", key_type=ECDSA))
    with Stage(tls=certificates(site("", leaves=leaves))) as stage:
        for suites, kind in (
            ("ECDHE-RSA-AES128-GCM-SHA256", "RSA"),
            ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDSA"),
        ):
            context = client_context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(suites)
            client = stage.client(context=context)
            assert kind in client.sock.tls.cipher()[0]


def test_only_good_ciphers_are_spoken():
    with Stage(tls=certificates()) as stage:
        for suite in ("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA", "AES128-GCM-SHA256"):
            context = client_context()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(suite)
            with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                stage.client(context=context)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_session_is_resumed(stage: Stage, version: str):
    stage.hand(answers=True)
    context = client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    first = stage.client(context=context)
    first.ask("/x")
    session = first.sock.tls.session
    second = stage.client(context=context, session=session)
    assert second.sock.tls.session_reused
    assert second.ask("/y").status == 200
    third = stage.client(context=context, session=second.sock.tls.session)
    assert third.sock.tls.session_reused


# --- reading ----------------------------------------------------------------------------------------------


def test_the_keys_of_tickets_are_made_again_after_some_time():
    """In all that has them: so a session of before is resumed by none, and costs a full handshake."""
    secret = ticket_keys.new_secret(1000.0)
    sites = certificates(site("", "a"), site("other", "b", cert_reqs="optional"))
    offset = os.fstat(sites.fd).st_size
    os.pwrite(sites.fd, secret, offset)
    sites = replace(sites, tickets=(offset, len(secret)))
    with Stage(tls=sites) as stage:
        one, two = (Contexts(stage.plan, ("http/1.1",)) for _ in range(2))
        context = client_context(checks=False)
        session = session_with(one, context, None)[1]
        assert session_with(two, context, session)[0]
        assert not session_with(two, context, session, name="b")[0]
        two.rotate_ticket_keys(1000.0 + ticket_keys.LIFE - 1)
        assert session_with(two, context, session)[0]
        two.rotate_ticket_keys(1000.0 + ticket_keys.LIFE)
        assert not session_with(two, context, session)[0]
        session = session_with(two, context, None)[1]
        assert session_with(Contexts(stage.plan, ("http/1.1",)), context, session)[0]


def session_with(
    contexts: Contexts, client: ssl.SSLContext, session: ssl.SSLSession | None, name: str = "a"
) -> tuple[bool, ssl.SSLSession | None]:
    """Of a handshake in memory: whether it is resumed, and the session that the client has then."""
    chosen = contexts.choose(0, name)
    assert chosen.context is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = chosen.context.wrap_bio(to_server, to_client, server_side=True)
    end = client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
    for _ in range(4):
        for side in (end, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    server.write(b"x")
    assert end.read(1) == b"x"
    return bool(end.session_reused), end.session


def test_records_that_come_together_are_all_read(stage: Stage):
    """The kernel tells of them once; also when the request takes a fast path, or a lease answers it."""
    hand = stage.hand()
    client = stage.client()
    client.send(get("/x"))
    hand.reply(hand.take(), b"leased", lease=Lease(60.0, ()))
    client.answer()
    for heads in ([get("/x")] * 5, [get("/x"), get("/y"), get("/x")], [get("/y")] * 3):
        wire = b""
        for head in heads:
            client.sock.tls.write(head)
            wire += client.sock.outgoing.read()
        client.sock.raw.send(wire)
        for head in heads:
            if head == get("/y"):
                hand.reply(hand.take(), b"made")
            assert client.answer().body == (b"made" if head == get("/y") else b"leased")


def test_a_lease_answers_with_one_read_and_one_send(stage: Stage):
    hand = stage.hand()
    client = stage.client()
    client.send(get("/x"))
    hand.reply(hand.take(), b"leased", lease=Lease(60.0, ()))
    client.answer()
    client.ask("/x")
    steps: list[Connection] = []
    drive = stage.pump.drive
    stage.pump.drive = lambda conn: (steps.append(conn), drive(conn))[1]  # type: ignore[method-assign, func-returns-value]
    assert client.ask("/x").body == b"leased"
    assert not steps


def test_a_record_in_pieces(stage: Stage):
    stage.hand(answers=True)
    client = stage.client()
    client.sock.tls.write(get("/x"))
    wire = client.sock.outgoing.read()
    for at in range(len(wire)):
        client.sock.raw.send(wire[at : at + 1])
        stage.settle()
    assert client.answer().status == 200


def test_a_large_body(stage: Stage):
    hand = stage.hand()
    client = stage.client()
    body = os.urandom(3 * MIB)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    task = hand.take()
    assert hand.bodies[task.number] == body
    hand.reply(task, b"ok")
    assert client.answer().body == b"ok"


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("size", [1000, 15_999, 16_000, 16_001])
def test_a_record_may_be_read_in_parts(stage: Stage, size: int, ends: bool):
    """What OpenSSL has decrypted and not given is no more in any buffer of ours, nor in the kernel."""
    client = stage.client()
    transport = the(stage).transport
    data = os.urandom(16_000)
    client.sock.send(data)
    if ends:
        client.sock.raw.shutdown(socket.SHUT_WR)
    found = [transport.recv(size)]
    while sum(map(len, found)) < len(data):
        assert not transport.drained(len(found[-1]), size)
        found.append(transport.recv(size))
        assert found[-1]
    assert b"".join(found) == data
    if ends:
        assert transport.recv(size) == b""
    else:
        with pytest.raises(BlockingIOError):
            transport.recv(size)


def test_the_last_record_of_a_body_that_is_collected_into_blocks():
    """Some of it fills a block up, and so is read by itself."""
    with Stage(tls=certificates(), stream_body=True) as stage:
        hand, client = stage.hand(), stage.client()
        body = os.urandom(1000 + 120_000 + 16_000)
        client.send(get("/", f"Content-Length: {len(body)}", method="POST"))
        task = hand.take()
        hand.ask(task)
        for start, end in ((0, 1000), (1000, 121_000), (121_000, len(body))):
            client.send(body[start:end])
        if hand.collect(task) is Ending.UNFINISHED:
            hand.ask(task, len(hand.bodies[task.number]))
            assert hand.collect(task) is Ending.DONE
        assert hand.bodies[task.number] == body


def test_a_client_waits_for_100_continue(stage: Stage):
    stage.hand(answers=True)
    client = stage.client()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert client.interim().status == 100
    client.send(b"body")
    assert client.answer().body == b"POST / HTTP/1.1\nbody"


def test_a_100_continue_that_finds_no_room_is_no_part_of_the_response(monkeypatch: pytest.MonkeyPatch):
    """The socket may be full of responses to earlier requests, when a handler begins to read."""
    with Stage(tls=certificates(), stream_body=True) as stage:
        hand, client = stage.hand(), stage.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        task = hand.take()
        transport = the(stage).transport
        with monkeypatch.context() as full:
            full.setattr(transport, "_give", has_no_room)
            hand.ask(task)
        client.send(b"body")
        assert hand.collect(task) is Ending.DONE
        hand.reply(task, b"well")
        assert client.interim().status == 100
        answer = client.interim()
        assert (answer.status, answer.body) == (200, b"well")


def has_no_room(_data: bytes, _flags: int = 0) -> int:
    raise BlockingIOError


# --- writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 16_384, SEND, SEND + 1, 5 * MIB])
@pytest.mark.parametrize("rcvbuf", [0, 4096])
def test_memory_and_files_are_sent_whole(tmp_path, size: int, rcvbuf: int):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    with Stage(tls=certificates()) as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=rcvbuf)
        for _ in range(2):
            client.send(get("/x"))
            fd = os.open(tmp_path / "file", os.O_RDONLY)
            task = hand.take()
            hand.reply(task, b"<", objects=[File(0, 0, size)], fds=(fd,), ending=Ending.UNFINISHED)
            hand.part(task, Memory(data[:100_000]), ending=Ending.DONE)
            assert client.answer().body == b"<" + data + data[:100_000]


def test_a_slow_client_holds_no_more_than_a_few_records():
    """What is encrypted waits for the socket, and nothing more is encrypted until it has that."""
    with Stage(tls=certificates()) as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        client.send(get("/x"))
        send_large(hand, hand.take(), b"x" * (20 * MIB))
        stage.settle()
        transport = the(stage).transport
        assert isinstance(transport, TLSTransport)
        assert 0 < transport.unsent() < 8 * MIB
        assert len(transport._unsent) <= SEND + 1000


def test_a_client_that_reads_nothing_is_given_up():
    # The kernel may acknowledge a little more in its own time: progress, if less than min_rate asks for.
    with Stage(tls=certificates(), send_timeout=20.0, min_rate=0, access_logfile="-") as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        client.send(get("/x"))
        send_large(hand, hand.take(), b"x" * (20 * MIB))
        give_up = time.monotonic() + TIMEOUT
        while not stage.reasons() and time.monotonic() < give_up:
            stage.later(25)
        assert stage.reasons() == [CloseReason.SEND_TIMEOUT]


def test_a_client_that_reads_slowly_and_steadily_gets_all():
    with Stage(tls=certificates(), send_timeout=20.0) as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        client.send(get("/x"))
        size = 2 * MIB
        send_large(hand, hand.take(), b"x" * size)
        give_up = time.monotonic() + 3 * TIMEOUT
        while len(client.inbox) < size and time.monotonic() < give_up:
            client.receive(100_000)
            stage.later(10)
        assert client.answer().body == b"x" * size


# --- ending -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [get("/", "Connection: close"), get("/", version="1.0")])
def test_an_end_in_good_order_is_told(stage: Stage, head: bytes):
    stage.hand(answers=True)
    client = stage.client()
    client.send(head)
    assert client.rest().endswith(b" HTTP/1.%d\n" % (b"/1.1" in head))
    assert client.sock.said_goodbye


@pytest.mark.parametrize("room", [0, 1, 1000])
def test_the_last_response_of_a_connection_goes_on_when_there_is_room_again(stage: Stage, room: int):
    """From a lease, which is sent by a short cut; of the close_notify behind it, too, nothing is lost."""
    hand = stage.hand()
    head = get("/x", "Connection: close")
    first = stage.client()
    first.send(head)
    hand.reply(hand.take(), b"leased" * 500, lease=Lease(60.0, ()))
    assert first.answer().body == b"leased" * 500
    stage.until(lambda: not stage.pump.connections)
    client = stage.client()
    stage.settle()
    conn = the(stage)
    connected: Any = conn.transport
    real = connected._give
    left = room

    def give(data: Any, flags: int = 0) -> int:
        nonlocal left
        size = min(left, len(data))
        if not size:
            raise BlockingIOError
        left -= size
        return int(real(data[:size], flags))

    connected._give = give
    client.send(head)
    stage.until(lambda: conn.state is LINGERING)
    stage.settle()
    assert stage.pump.connections, "the rest is yet to be sent"
    connected._give = real
    stage.pump.run_queue.ready(conn)
    stage.settle()
    assert client.rest().endswith(b"leased")
    assert client.sock.said_goodbye
    client.leave()
    stage.until(lambda: not stage.pump.connections)
    assert stage.reasons().count(CloseReason.ANSWERED) == 2


def test_a_request_that_comes_with_the_end_of_a_handshake_is_answered_in_the_same_turn(stage: Stage):
    """And if the client wants no other one, the connection is over with it."""
    hand = stage.hand()
    client = stage.client()
    head = get("/x", "Connection: close")
    client.send(head)
    hand.reply(hand.take(), b"leased", lease=Lease(60.0, ()))
    assert client.answer().body == b"leased"
    client.sock.raw.close()
    stage.settle()
    raw = Raw(stage)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(checks=False).wrap_bio(incoming, outgoing, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    raw.send(outgoing.read())
    incoming.write(raw.sock.recv(65536))
    tls.do_handshake()
    tls.write(head)
    sends: list[int] = []

    transport = the(stage).transport
    assert isinstance(transport, TLSTransport)
    give = transport.plain.send

    def send(data: Any, flags: int = 0) -> int:
        sends.append(len(data))
        return give(data, flags)

    transport._give = send
    raw.send(outgoing.read())
    assert not stage.pump.connections
    incoming.write(raw.rest())
    assert tls.read(65536).endswith(b"leased")
    assert tls.read(65536) == b""  # a close_notify
    assert len(sends) == 1


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("what", ["all", "a part", "the end", "all and the end", "a reset", "nothing"])
def test_what_comes_while_openssl_ends_a_handshake(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, version: str, what: str
):
    """A request, as most clients send it: it is read at once, and with TLS 1.3 the ticket goes with the
    response. A client that says nothing yet, or a part, has the ticket at once."""
    stage.hand(answers=True)
    raw = Raw(stage)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(checks=False)
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, f"TLSv1_{version[-1]}")
    tls = context.wrap_bio(incoming, outgoing, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    raw.send(outgoing.read())
    incoming.write(raw.sock.recv(65536))
    if version == "1.3":
        tls.do_handshake()
    else:
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
    flight = outgoing.read()
    later = b""
    shake = TLSTransport.shake

    def shake_and_more_comes(transport: TLSTransport, data: bytes) -> bool:
        nonlocal later
        assert shake(transport, data)
        if version == "1.2":
            incoming.write(raw.sock.recv(65536))
            tls.do_handshake()
        tls.write(get("/x"))
        wire = outgoing.read()
        size = {"all": len(wire), "all and the end": len(wire), "a part": 30}.get(what, 0)
        later = wire[size:]
        raw.sock.send(wire[:size])
        if "the end" in what:
            raw.sock.shutdown(socket.SHUT_WR)
        if what == "a reset":
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sock.close()
        if what != "nothing":
            assert select.select([transport.plain], [], [], TIMEOUT)[0]
        return True

    monkeypatch.setattr(TLSTransport, "shake", shake_and_more_comes)
    sends: list[int] = []
    transport = the(stage).transport
    assert isinstance(transport, TLSTransport)
    give = transport.plain.send

    def send(data: Any, flags: int = 0) -> int:
        sends.append(len(data))
        return give(data, flags)

    transport._give = send
    raw.send(flight)
    if what in ("the end", "a reset"):
        stage.until(lambda: not stage.pump.connections, "the end of the connection")
        (reason,) = stage.pump.endings.counts.closes
        assert reason in (CloseReason.CLIENT_CLOSED, CloseReason.CLIENT_DISCONNECTED)
        return
    if what in ("a part", "nothing"):
        stage.settle()
        assert len(sends) == 1
        raw.sock.send(later)
    answer = b""

    def is_answered() -> bool:
        nonlocal answer
        try:
            data = raw.sock.recv(65536)
        except BlockingIOError:
            return False
        incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            answer += tls.read(65536)
        return answer.endswith(b"GET /x HTTP/1.1\n")

    stage.until(is_answered, "the response")
    together = "all" in what and version == "1.3"
    assert len(sends) == (1 if together else 2) + (what == "all and the end")  # and a close_notify


def test_nothing_is_waited_for_if_the_client_wants_the_end(stage: Stage):
    """It has sent all that it will; so nothing unread can cost it the response."""
    stage.hand(answers=True)
    client = stage.client()
    client.ask("/")
    client.send(get("/", "Connection: close"))
    assert not stage.pump.connections
    assert client.rest()
    assert client.sock.said_goodbye


def test_more_is_waited_for_if_some_has_come(stage: Stage):
    stage.hand(answers=True)
    client = stage.client()
    client.send(get("/", "Connection: close") + b"more")
    assert the(stage).state is LINGERING
    assert client.rest()
    assert client.sock.said_goodbye


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("size", [40_000, 330_000, 400_000])
def test_a_body_that_nobody_reads_is_dropped_until_the_client_ends(version: str, size: int):
    """Were the connection closed while some of it is unread, the kernel would send a reset, which can destroy
    the response before the client has read it (RFC 9112 9.6)."""
    context = client_context()
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, f"TLSv1_{version[-1]}")
    with Stage(tls=certificates(), stream_body=True) as stage:
        hand, client = stage.hand(), stage.client(context=context)
        client.send(get("/", "Content-Length: 1000000", method="POST"))
        task = hand.take()
        hand.ask(task)
        client.send(bytes(size))  # more than the handler's window has room for, or not
        hand.reply(task, b"enough")
        stage.settle()
        client.send(bytes(200_000))
        assert the(stage).state is LINGERING
        assert client.answer().body == b"enough"
        client.finish()
        assert client.rest() == b""
        assert client.sock.said_goodbye
        stage.until(lambda: not stage.pump.connections)


def test_a_kept_connection_that_idles_too_long_is_ended_in_good_order(stage: Stage):
    stage.hand(answers=True)
    client = stage.client()
    client.ask("/x")
    stage.later(80)
    assert client.rest() == b""
    assert client.sock.said_goodbye


def test_the_end_is_told_when_a_slow_client_has_read_all():
    """There was no room for it when the last byte was taken."""
    with Stage(tls=certificates()) as stage:
        hand = stage.hand()
        client = stage.client(rcvbuf=4096)
        client.send(get("/x", version="1.0"))
        send_large(hand, hand.take(), b"x" * (3 * MIB), length=-1)
        assert client.answer().body == b"x" * (3 * MIB)
        assert client.sock.said_goodbye


def test_the_end_of_an_http2_connection_waits_for_room(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """The same with HTTP/2. (Were it closed at once, what the client still sends would make that a reset.)"""
    stage.hand(answers=True)
    client = Http2Client(stage, context=client_context(protocols=("h2",)))
    assert client.ask("/x").status == 200
    with monkeypatch.context() as full:
        full.setattr(the(stage).transport, "_give", has_no_room)
        client.client.send(goaway())
        assert the(stage).state is LINGERING
    client.client.send(ping())
    client.until_closed()
    assert client.client.sock.said_goodbye


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_response_that_is_cut_short_has_no_good_end(stage: Stage, version: str):
    """Of one whose end is told by the close alone, nothing else shows it."""
    hand = stage.hand()
    client = stage.client()
    client.send(get("/x", version=version))
    task = hand.take()
    hand.reply(task, b"part", length=-1, ending=Ending.UNFINISHED)
    stage.settle()
    hand.part(task, ending=Ending.ABORTED)
    client.rest()
    assert client.reset
    assert not client.sock.said_goodbye


def test_a_worker_that_dies_leaves_no_good_end(stage: Stage):
    hand = stage.hand()
    client = stage.client()
    client.send(get("/x", version="1.0"))
    hand.reply(hand.take(), b"part", length=-1, ending=Ending.UNFINISHED)
    hand.die()
    client.rest()
    assert client.reset
    assert not client.sock.said_goodbye


def test_a_client_may_close_its_side_and_read_on(stage: Stage):
    hand = stage.hand()
    client = stage.client()
    client.send(get("/x"))
    task = hand.take()
    client.finish()
    hand.reply(task, b"answered")
    assert client.answer().body == b"answered"


def test_a_client_that_closes_between_requests(stage: Stage):
    stage.hand(answers=True)
    with no_descriptor_left(stage):
        client = stage.client()
        client.ask("/x")
        client.finish()
        stage.until(lambda: not stage.pump.connections)
        stage.clients.remove(client)
        client.sock.close()


def test_all_is_freed(stage: Stage):
    """With a connection go its transport and OpenSSL's objects, at once."""
    import gc
    import sys

    stage.hand(answers=True)
    client = stage.client()
    client.ask("/x")
    tls = the(stage).transport.inner  # type: ignore[attr-defined]
    alone = object()  # 2 references: ours, and that of the call, which from Python 3.14 on is none
    assert sys.getrefcount(tls) > sys.getrefcount(alone)
    gc.disable()
    try:
        client.leave()
        del client  # which knows its connection
        stage.until(lambda: not stage.pump.connections)
        assert sys.getrefcount(tls) == sys.getrefcount(alone)
    finally:
        gc.enable()


def test_python_need_not_show_what_is_in_an_ssl_object(monkeypatch):
    """It is no part of its interface."""
    wrapped = []

    def wrap(context: ssl.SSLContext, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> Any:
        class Other:
            wrap_bio = context.wrap_bio

        wrapped.append(real(Other, incoming, outgoing))  # type: ignore[arg-type]
        return wrapped[-1]

    real = server_side
    monkeypatch.setattr(tls_transport, "server_side", wrap)
    with Stage(tls=certificates(site("", "a", cert_reqs="optional"))) as stage:
        stage.hand(answers=True)
        context = client_context(protocols=("http/1.1",))
        client = stage.client(context=context)
        assert client.ask("/x").status == 200
        client.send(get("/x", "Connection: close"))
        assert b" 200 OK" in client.rest()
        assert client.sock.said_goodbye
    assert wrapped


def test_the_state_after_the_handshake(stage: Stage):
    raw = Raw(stage)
    assert the(stage).state is HANDSHAKE
    TLSSocket(raw.sock, stage.turn)
    stage.settle()
    assert the(stage).state is FRESH
