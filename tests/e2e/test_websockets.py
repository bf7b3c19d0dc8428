"""WebSockets through the whole server, with a client that many use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import time
from typing import Any

import pytest
from websockets.asyncio.client import connect as async_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.certificates import client_context, issued, write
from tests.e2e.harness import LONG, Server, kill, resident, serving, until
from tests.wire.websocket_frames import frame

ALL = (
    *("--access-logfile", "access", "--access-logformat", "json", "--graceful-timeout", "20"),
    *("--ws-ping-interval", "0"),  # some clients here would take a Ping for a response
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    # No Pings: clients that are plain sockets do not answer them, however slow the machine is.
    arguments = ("sockets:app", "/wsgi=story:app", *ALL)
    with serving(tmp_path_factory.mktemp("sockets"), *arguments) as server:
        server.tracebacks = -1  # applications raise here
        yield server


def open_at(server: Server, path: str, **options: Any) -> Any:
    # (What the library takes for too long, 10 and 20 s, a busy machine may take.)
    usual = {"compression": None, "max_size": None, "open_timeout": LONG, "ping_interval": None}
    return connect(f"ws://127.0.0.1:{server.port}{path}", **{**usual, **options})


def closed(client: ClientConnection) -> tuple[int, str]:
    """The code and reason with which the server closes."""
    while True:
        try:
            client.recv(timeout=60)
        except ConnectionClosed:
            break
    assert client.protocol.close_rcvd is not None, "no Close came"
    return client.protocol.close_rcvd.code, client.protocol.close_rcvd.reason


def noted(server: Server, target: str) -> Any:
    """What the application wrote down last for this target. (It may still write for earlier tests, too.)"""
    path = server.folder / "ended"

    def last() -> Any:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = map(json.loads, text.splitlines() if text.endswith("\n") else ())
        return next((what for where, what in reversed(list(found)) if where == target), None)

    return until(last)


# --- messages ---------------------------------------------------------------------------------------


def test_an_echo(site):
    with open_at(site, "/echo?ends") as client:
        for message in ("hello", "h\N{LATIN SMALL LETTER A WITH DIAERESIS}", "", b"\x00\xff", b""):
            client.send(message)
            assert client.recv() == message
        client.send(["in ", "three ", "parts"])
        assert client.recv() == "in three parts"
        assert client.ping().wait(60)
    assert noted(site, "/echo?ends") == {"type": "websocket.disconnect", "code": 1000, "reason": ""}


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 1_000_000, 5_000_000])
def test_large_messages(site, size: int):
    data = os.urandom(size)
    with open_at(site, "/echo") as client:
        client.send(data)
        client.send("behind")
        assert client.recv() == data
        assert client.recv() == "behind"


def test_many_small_ones_at_once(site):
    with open_at(site, "/echo") as client:
        for n in range(3000):
            client.send(str(n))
        assert [client.recv() for _ in range(3000)] == [str(n) for n in range(3000)]


def test_two_tasks_that_receive(site):
    """Each message is one's, and both are told of the end."""
    with open_at(site, "/two_receivers") as client:
        for n in range(20):
            client.send(str(n))
        found = [client.recv(timeout=LONG).split() for _ in range(20)]
        assert sorted(int(n) for _, n in found) == list(range(20))
        for n in range(20):
            client.send(str(n))
            assert client.recv(timeout=LONG).split()[1] == str(n)


def test_no_message_is_lost_when_receive_is_cancelled(site):
    with open_at(site, "/impatient") as client:
        for n in range(50):
            client.send(str(n))
            if n % 10:
                assert client.recv(timeout=LONG) == str(n)
            else:
                time.sleep(0.003)
                client.send("more")
                assert [client.recv(timeout=LONG), client.recv(timeout=LONG)] == [str(n), "more"]


def test_a_child_of_the_application_sends_nothing(site):
    with open_at(site, "/fork") as client:
        assert [client.recv(timeout=60), client.recv(timeout=60)] == ["once", "by the parent"]
        assert closed(client) == (1000, "")


def test_byte_by_byte(site):
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    head = (
        f"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head.encode() + frame(1, b"hello"):
            client.send(bytes([byte]))
        found = b""
        while not found.endswith(b"hello"):
            data = client.recv(1000)
            assert data
            found += data
        for byte in frame(8, b"\x03\xe8"):
            client.send(bytes([byte]))
        while data := client.recv(1000):
            found += data
    assert found.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert found.endswith(b"\r\n\r\n\x81\x05hello\x88\x02\x03\xe8")


def test_over_tls(tmp_path):
    certfile, keyfile = write(tmp_path, issued("localhost", "127.0.0.1"))
    options = ("--certfile", certfile, "--keyfile", keyfile)
    with serving(tmp_path, "sockets:app", *options) as server:
        scope = json.loads(asyncio.run(first_message_over_tls(server)))
    assert (scope["type"], scope["scheme"]) == ("websocket", "wss")
    assert scope["extensions"]["tls"]["tls_version"] == 0x0304


async def first_message_over_tls(server: Server) -> str | bytes:
    """By a client with one thread. The other kind reads and writes in two, of which OpenSSL takes no account:
    when session tickets come while it sends its request, it may take that for the end of the connection."""
    url = f"wss://localhost:{server.port}/scope"
    context: ssl.SSLContext = client_context()
    async with async_connect(url, ssl=context, host="127.0.0.1", open_timeout=LONG) as client:
        return await client.recv()


# --- the handshake ----------------------------------------------------------------------------------


def test_the_scope(site):
    with open_at(site, "/scope/%C3%A9?a=b", subprotocols=["one", "two"], user_agent_header=None) as client:
        scope = json.loads(client.recv())
        host, port = client.local_address
    headers = dict(scope.pop("headers"))
    assert headers["sec-websocket-version"] == "13"
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/scope/\N{LATIN SMALL LETTER E WITH ACUTE}",
        "raw_path": "/scope/%C3%A9",
        "query_string": "a=b",
        "root_path": "",
        "client": [host, port],
        "server": ["127.0.0.1", site.port],
        "state": {},
        "subprotocols": ["one", "two"],
        "extensions": {"websocket.http.response": {}},
    }


def test_subprotocols_and_headers(site):
    with open_at(site, "/subprotocol/two", subprotocols=["one", "two"]) as client:
        assert client.subprotocol == "two"
        assert client.response is not None
        assert client.response.headers["x-who"] == "me"
        assert client.response.headers["set-cookie"] == "a=b"
    site.until_logged("the header 'upgrade', which is the server's")


def test_rejections(site):
    for path, status, body in (("/reject", 403, b"403 Forbidden\n"), ("/respond", 401, b"who are you?")):
        with pytest.raises(InvalidStatus) as caught, open_at(site, path):
            pass
        assert caught.value.response.status_code == status
        assert caught.value.response.body == body
    assert noted(site, "/reject") == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


def test_wrong_requests_are_refused(site):
    with site.client() as client:
        assert client.ask("/echo", "Upgrade: websocket").status == 400
        answer = client.ask("/echo", "Upgrade: websocket", "Connection: Upgrade")
        assert (answer.status, answer["Sec-WebSocket-Version"]) == (426, "13")
        assert client.ask("/").status == 200


def test_a_wsgi_application_sees_an_ordinary_request(site):
    with pytest.raises(InvalidStatus) as caught, open_at(site, "/wsgi/"):
        pass
    assert caught.value.response.status_code in (200, 404)


# --- the end ----------------------------------------------------------------------------------------


def test_the_application_closes(site):
    with open_at(site, "/close/4001/enough") as client:
        assert closed(client) == (4001, "enough")
    found = noted(site, "/close/4001/enough")
    assert found == {"type": "websocket.disconnect", "code": 4001, "reason": "enough"}


@pytest.mark.parametrize(("path", "code"), [("/return", 1000), ("/raise", 1011)])
def test_the_application_ends(site, path: str, code: int):
    with open_at(site, path) as client:
        assert closed(client)[0] == code
    if code == 1011:
        site.until_logged("Exception in the WebSocket GET /raise")
        assert "LookupError: nothing there" in site.log()


@pytest.mark.parametrize("path", ["/return_early", "/raise_early"])
def test_the_application_ends_before_it_has_accepted(site, path: str):
    with pytest.raises(InvalidStatus) as caught, open_at(site, path):
        pass
    assert caught.value.response.status_code == 500
    site.until_logged(
        "it returned, and neither accepted nor rejected" if "return" in path else "LookupError: nothing"
    )


def test_the_client_vanishes(site):
    with open_at(site, "/echo?vanishes") as client:
        client.socket.shutdown(socket.SHUT_RDWR)
    assert noted(site, "/echo?vanishes") == {"type": "websocket.disconnect", "code": 1006, "reason": ""}


def test_to_close_what_the_client_has_closed_is_no_error(site):
    """Applications do so in a `finally`, with more behind it. To send is one."""
    with open_at(site, "/close_again"):
        pass
    assert noted(site, "/close_again") == ["websocket.send"]


def test_what_the_access_log_says(site):
    with open_at(site, "/echo?logged") as client:
        client.send("12345")
        client.recv()

    def record() -> Any:
        lines = (site.folder / "access").read_text(encoding="utf-8").splitlines()
        return next((json.loads(line) for line in lines if "logged" in line), None)

    found = until(record)
    assert found["status"] == 101
    assert found["ending"] == "websocket_closed"


# --- rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("nothing", "'websocket.send' must have 'bytes' or 'text'"),
        ("both", "'websocket.send' must have 'bytes' or 'text', not both"),
        ("number", "the 'bytes' of 'websocket.send' must be bytes, not int"),
        ("surrogate", "the 'text' of 'websocket.send' has a surrogate in it"),
        ("twice", "it sent 'websocket.accept', but it has accepted already"),
        ("unknown", "it sent 'websocket.strange', but it has accepted already"),
        ("http", "it sent 'http.response.start', but it has accepted already"),
        ("late-response", "it sent 'websocket.http.response.start', but it has accepted already"),
        ("code", "the 'code' of 'websocket.close' can't be 1006"),
        ("reason", "the 'reason' of 'websocket.close' takes 124 bytes; 123 may be sent"),
        ("no-type", "a message must be a dict with a 'type'"),
        ("no-dict", "a message must be a dict with a 'type'"),
    ],
)
def test_a_rule_that_is_broken_is_named(site, name: str, rule: str):
    """By what `send` raises, and in the log; the WebSocket goes on."""
    with open_at(site, f"/rules/{name}") as client:
        assert str(client.recv()).startswith(rule)
        assert closed(client)[0] == 1000
    site.until_logged(f"GET /rules/{name} from 127.0.0.1: the application broke a rule of ASGI: {rule}")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("send", "it sent 'websocket.send', but 'websocket.accept' is to come first"),
        ("subprotocol", "the client has not named the subprotocol 'none of yours'"),
        ("body", "it sent 'http.response.body', but 'http.response.start' is to come first"),
        ("header", "the header b'a' has a control character in it"),
    ],
)
def test_a_rule_that_is_broken_before_it_has_accepted(site, name: str, rule: str):
    with pytest.raises(InvalidStatus) as caught, open_at(site, f"/early/{name}"):
        pass
    assert caught.value.response.status_code == 500
    site.until_logged(rule)


def test_a_message_behind_its_own_close(site):
    with open_at(site, "/after_close") as client:
        assert closed(client)[0] == 1000
    site.until_logged("it sent 'websocket.send', but it has closed already")


# --- slow ones, and many ------------------------------------------------------------------------------


def test_a_slow_client_stops_the_application(site):
    """And once it has left, `send` raises OSError."""
    client = open_at(site, "/flood", max_queue=1, legacy=True)
    count = site.folder / "count"

    def sent() -> int:
        return int(count.read_text(encoding="utf-8") or 0) if count.exists() else 0

    until(lambda: sent() > 10)
    before, since = sent(), time.monotonic()
    while time.monotonic() < since + 1:  # it has stopped when nothing was sent for a second
        if sent() != before:
            before, since = sent(), time.monotonic()
        time.sleep(0.05)
    assert before < 3000, "that is 30 MB, which no socket buffers"
    client.socket.close()
    found = noted(site, "/flood")
    assert found["error"] == "ClientLeftError"


def test_a_slow_application_stops_the_client(site):
    """Little of what is sent is in the server; later it has all of it."""
    for name in ("sleeps", "wake"):
        (site.folder / name).unlink(missing_ok=True)
    client = open_at(site, "/sleep", legacy=True)
    until((site.folder / "sleeps").exists)
    sock = client.socket
    before = resident(site.pump)
    data = frame(2, bytes(10_000)) * 2000 + frame(2, b"!")
    sock.setblocking(False)
    at, moved = 0, time.monotonic()
    while time.monotonic() < moved + 1 and at < len(data):
        try:
            at += sock.send(data[at : at + 65536])
            moved = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    assert at < len(data), "20 MB that nobody takes"
    assert resident(site.pump) - before < 8 << 20
    (site.folder / "wake").touch()
    sock.setblocking(True)
    sock.sendall(data[at:])
    assert client.recv(timeout=60) == str(2000 * 10_000 + 1)
    client.close()


def test_a_thousand_that_are_idle(site):
    """At most 16 KiB each, in pump and worker together."""
    [worker] = site.workers("sockets:app")
    before = resident(site.pump) + resident(worker)
    clients = []
    head = (
        "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for _ in range(1000):
        client = socket.create_connection(("127.0.0.1", site.port))
        client.sendall(head.encode() + frame(1, b"x" * 50))
        clients.append(client)
    for client in clients:
        found = b""
        while not found.endswith(b"\x81\x32" + b"x" * 50):
            data = client.recv(1000)
            assert data
            found += data
    grown = resident(site.pump) + resident(worker) - before
    assert grown < 1000 * 16 * 1024, f"{grown} bytes"
    for client in clients:
        client.sendall(frame(1, b"again"))
    for client in clients:
        assert client.recv(7, socket.MSG_WAITALL) == b"\x81\x05again"
        client.close()


# --- what ends around them ----------------------------------------------------------------------------


def test_kills_reloads_and_stops(tmp_path):
    """A client always gets a Close with a code: 1012, or 1001 at a stop."""
    with serving(tmp_path, "sockets:app", *ALL) as server:
        with open_at(server, "/pid") as client:
            pid = int(client.recv())
            kill(pid)
            assert closed(client) == (1012, "")
        server.until(lambda: server.workers("sockets:app") not in ([], [pid]))
        with open_at(server, "/pid") as client:
            pid = int(client.recv())
            server.signal(signal.SIGHUP)
            assert closed(client) == (1012, "")
        assert noted(server, "/pid") == {"type": "websocket.disconnect", "code": 1012, "reason": ""}
        server.until_gone([pid])
        with open_at(server, "/pid") as client:
            assert int(client.recv()) != pid
            server.signal(signal.SIGTERM)
            assert closed(client) == (1001, "")
        assert server.ends() == 0
        assert noted(server, "/pid") == {"type": "websocket.disconnect", "code": 1001, "reason": ""}
