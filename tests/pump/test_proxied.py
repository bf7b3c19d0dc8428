"""A listener where a proxy says first, by the PROXY protocol, for which client it speaks."""

from __future__ import annotations

import socket
import struct

import pytest

from halfsync.pump.states import ConnectionState
from halfsync.wire.messages import Lease, Task
from tests.pump.harness import Hand, Stage, echo, get, transport

pytestmark = pytest.mark.skipif(
    transport() == "tls", reason="over TLS the PROXY header stands before the handshake"
)

LINE = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n"
BINARY = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 12)
    + socket.inet_aton("192.0.2.7") * 2
    + b"\x12\x67\0\x50"
)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0"


def stage(**settings) -> Stage:
    return Stage(proxied=True, access_logfile="-", **settings)


def told_to_handlers(stage: Stage) -> list[tuple[str, int]]:
    """The clients of the requests, as their handlers are told, from now on."""
    told: list[tuple[str, int]] = []

    def handler(hand: Hand, task: Task) -> None:
        told.append((task.client, task.client_port))
        echo(hand, task)

    stage.handler = handler
    stage.hand(answers=True)
    return told


@pytest.mark.parametrize("header", [LINE, BINARY])
@pytest.mark.parametrize("how", ["together", "alone first", "byte by byte"])
def test_the_client_is_the_one_that_is_named(header, how):
    with stage() as s:
        told = told_to_handlers(s)
        client = s.client()
        if how == "together":
            client.send(header + get())
        elif how == "alone first":
            client.send(header)
            client.send(get())
        else:
            for byte in header + get():
                client.send(bytes((byte,)))
        assert client.answer().status == 200
        client.send(get())  # a later one needs no header
        assert client.answer().status == 200
        assert told == [("192.0.2.7", 4711)] * 2
        assert {record[1] for record in s.pump.access.records} == {"192.0.2.7"}


def test_a_proxy_that_speaks_for_itself():
    with stage() as s:
        told = told_to_handlers(s)
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            client = s.client()
            client.send(header + get())
            assert client.answer().status == 200
            assert told.pop()[0] == "127.0.0.1"


def test_pipelined_requests_behind_it_are_served_in_order():
    with stage() as s:
        s.hand(answers=True)
        client = s.client()
        client.send(LINE + b"".join(get(f"/{number}") for number in range(20)))
        for number in range(20):
            assert f"/{number}".encode() in client.answer().body


def test_leases_are_used_as_elsewhere():
    with stage() as s:
        hand = s.hand()
        client = s.client()
        client.send(LINE + get())
        hand.reply(hand.take(), b"leased", lease=Lease(60.0, ()))
        assert client.answer().body == b"leased"
        client.send(get())
        assert client.answer().body == b"leased"
        other = s.client()
        other.send(LINE + get())
        assert other.answer().body == b"leased"
        assert not hand.tasks


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (get(), "it does not begin with a PROXY header"),
        (b"\x16\x03\x01\x02\x00\x01", "it does not begin with a PROXY header"),
        (b"PROXY TCP4 x x 1 1\r\n" + get(), "its PROXY line has a bad address, b'x'"),
        (LINE[:-2] + b"\n" + get(), "its PROXY line has no end"),
    ],
)
def test_whatever_begins_otherwise_is_closed_and_logged(sent, why, capfd):
    with stage() as s:
        told_to = told_to_handlers(s)
        for _ in range(3):
            client = s.client()
            client.send(sent)
            assert client.rest() == b""
        s.later(2)
        client = s.client()
        client.send(sent)
        assert client.rest() == b""
        assert told_to == []
        assert not s.pump.connections
    told = [line for line in capfd.readouterr().err.splitlines() if "proxy_protocol" in line]
    assert len(told) == 2
    assert f"closed a connection from 127.0.0.1: {why} (proxy_protocol)." in told[0]
    assert "(2 more since the last such line.)" in told[1]


def test_only_a_trusted_proxy_is_believed(capfd):
    with stage(forwarded_allow_ips=["10.0.0.0/8"]) as s:
        told_to = told_to_handlers(s)
        client = s.client()
        client.send(LINE + get())
        assert client.rest() == b""
        assert told_to == []
    assert "it is not in forwarded_allow_ips (proxy_protocol)" in capfd.readouterr().err


def test_a_unix_sockets_peer_is_believed():
    with Stage(proxied=True, unix=True) as s:
        told = told_to_handlers(s)
        client = s.client()
        client.send(LINE + get())
        assert client.answer().status == 200
        assert told == [("192.0.2.7", 4711)]


@pytest.mark.parametrize("sent", [b"", LINE[:10], BINARY[:20]])
def test_a_header_that_does_not_come_is_waited_for_no_longer_than_a_handshake(sent):
    with stage(handshake_timeout=5.0) as s:
        client = s.client()
        client.send(sent)
        (conn,) = s.pump.connections.values()
        s.later(4)
        assert conn.state is ConnectionState.HANDSHAKE
        s.later(2)
        assert client.rest() == b""
        assert not s.pump.connections


def test_behind_the_header_head_timeout_counts():
    with stage(handshake_timeout=5.0, head_timeout=20.0) as s:
        client = s.client()
        client.send(LINE)
        s.later(19)
        assert s.pump.connections
        s.later(2)
        assert not s.pump.connections


def test_a_client_that_leaves_within_it():
    with stage() as s:
        client = s.client()
        client.send(LINE[:10])
        client.finish()
        assert not s.pump.connections


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (b"/a?b=/c", "/a?b=/c"),
        (b"/%2f?", "/%2f?"),
        (b'/"<>?{a}|', "/%22%3C%3E?%7Ba%7D%7C"),
        (b"/a#b?c", "/a"),
        (b"http://other.test/a?b", "/a?b"),
        (b"http://other.test?b=/c", "/?b=/c"),
        (b"http://other.test", "/"),
        (b"//a/b", "//a/b"),
    ],
)
def test_where_a_redirect_to_https_leads(target, place):
    """To what was asked for, all of it, as an address in ASCII."""
    with stage(redirect_http=True) as s:
        client = s.client()
        client.send(LINE + b"GET %b HTTP/1.1\r\nHost: other.test\r\n\r\n" % target)
        answer = client.answer()
        assert (answer.status, answer.fields["location"]) == (301, "https://other.test" + place)


@pytest.mark.parametrize(("port", "place"), [(0, ""), (443, ""), (8443, ":8443")])
def test_a_redirect_leads_to_the_port_that_clients_see(port, place):
    with stage(redirect_http=True, redirect_http_port=port) as s:
        client = s.client()
        client.send(LINE + b"GET / HTTP/1.1\r\nHost: other.test:80\r\n\r\n")
        assert client.answer().fields["location"] == f"https://other.test{place}/"


def test_a_redirect_to_https_behind_it():
    with stage(redirect_http=True) as s:
        client = s.client()
        client.send(LINE + get("/a"))
        assert client.answer().status == 301
