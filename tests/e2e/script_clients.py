"""Clients that have scripts done (see scripts.py), over HTTP/1.0, 1.1 and 2, in the clear and over TLS, well
or badly behaved."""

from __future__ import annotations

import random
import socket
import ssl
import struct
import time
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from tests.certificates import client_context
from tests.e2e.harness import LONG
from tests.e2e.scripts import BODILESS, Script, Seen, made


class EndedError(Exception):
    """The connection has. `cleanly`: by an end of file."""

    def __init__(self, cleanly: bool) -> None:
        super().__init__()
        self.cleanly = cleanly


def connect(port: int, chance: random.Random, *, tls: bool, protocols: tuple[str, ...] = ()) -> socket.socket:
    sock = socket.socket()
    if chance.random() < 0.2:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(LONG)
    sock.connect(("127.0.0.1", port))
    if not tls:
        return sock
    context = client_context(protocols=protocols, checks=False)
    return context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)


def leave(sock: socket.socket, chance: random.Random) -> None:
    if chance.random() < 0.5:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Http1:
    """One connection of HTTP/1."""

    def __init__(self, sock: socket.socket, chance: random.Random) -> None:
        self.sock = sock
        self._chance = chance
        self._slow = chance.random() < 0.15
        self._unread = b""

    def send(self, script: Script, minor: int) -> None:
        self.sock.sendall(self.encoded(script, minor))

    def encoded(self, script: Script, minor: int) -> bytes:
        lines = [f"{script.method} / HTTP/1.{minor}", "host: x", *(": ".join(one) for one in script.fields)]
        body = script.body
        if body and minor and self._chance.random() < 0.4:
            lines.append("transfer-encoding: chunked")
            cut = self._chance.randrange(len(body))
            body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:cut], body[cut:]) if one)
            body += b"0\r\n\r\n"
        elif body:
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def read(self, script: Script) -> Seen:
        """The next response. Raises EndedError if there is none."""
        while True:
            line, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            seen = Seen(int(line.split(" ")[1]), dict(_fields(lines)))
            if seen.status >= 200:
                break
        try:
            if script.method == "HEAD" or seen.status in BODILESS:
                seen.whole = True
            elif "transfer-encoding" in seen.fields:
                seen.chunked = True
                self._chunks(seen)
            elif "content-length" in seen.fields:
                size = int(seen.fields["content-length"])
                while len(seen.body) < size:
                    seen.body += self._some(size - len(seen.body))
                seen.whole = True
            else:
                while True:
                    seen.body += self._some(1 << 20)
        except EndedError as ended:
            framed = seen.chunked or "content-length" in seen.fields
            seen.whole = not framed and ended.cleanly
        return seen

    def _chunks(self, seen: Seen) -> None:
        while size := int(self._until(b"\r\n"), 16):
            left = size
            while left:
                some = self._some(left)
                seen.body += some
                left -= len(some)
            assert self._until(b"\r\n") == b"\r\n"
        while (line := self._until(b"\r\n")) != b"\r\n":
            seen.trailers.update(_fields([line.decode().rstrip()]))
        seen.whole = True

    def _until(self, end: bytes) -> bytes:
        while end not in self._unread:
            self._unread += self._receive()
        at = self._unread.index(end) + len(end)
        found, self._unread = self._unread[:at], self._unread[at:]
        return found

    def _some(self, most: int) -> bytes:
        if not self._unread:
            self._unread = self._receive()
        found, self._unread = self._unread[:most], self._unread[most:]
        return found

    def _receive(self) -> bytes:
        if self._slow and self._chance.random() < 0.05:
            time.sleep(0.01)
        try:
            data = self.sock.recv(5000 if self._slow else 1 << 18)
        except (ConnectionResetError, ssl.SSLEOFError, BrokenPipeError):
            raise EndedError(cleanly=False) from None
        if not data:
            raise EndedError(cleanly=True)
        return data


def _fields(lines: Sequence[str]) -> list[tuple[str, str]]:
    parts = (one.partition(":") for one in lines if one)
    return [(name.lower(), value.strip()) for name, _, value in parts]


def over_http1(port: int, chance: random.Random, *, tls: bool) -> None:
    """A connection with some requests, one after the other or pipelined; each response is checked."""
    minor = 1 if chance.random() < 0.85 else 0
    with connect(port, chance, tls=tls) as sock:
        client = Http1(sock, chance)
        scripts = [made(chance) for _ in range(chance.choice((1, 2, 5)) if minor else 1)]
        manner = chance.random()
        if minor and manner < 0.25:
            _pipelined(client, [one for one in scripts if not one.body] or [Script("GET", [])])
            return
        for script in scripts:
            client.send(script, minor)
            if manner > 0.85:
                _leave_or_close_own_side(client, script, chance, leaves=tls or manner > 0.9)
                return
            if not _checked(client, script):
                return


def _pipelined(client: Http1, scripts: Sequence[Script]) -> None:
    client.sock.sendall(b"".join(client.encoded(one, 1) for one in scripts))
    try:
        for script in scripts:
            if not _checked(client, script):
                return
    except EndedError:
        pass  # one before it was cut


def _leave_or_close_own_side(client: Http1, script: Script, chance: random.Random, *, leaves: bool) -> None:
    if leaves:
        if chance.random() < 0.5:
            client.sock.recv(chance.choice((1, 1000, 100_000)))
        leave(client.sock, chance)
        return
    client.sock.shutdown(socket.SHUT_WR)
    try:
        seen = client.read(script)
    except EndedError:
        return  # it took longer than such a client has
    if seen.whole:
        script.expected().check(seen)


def _checked(client: Http1, script: Script) -> bool:
    """Read a response. Whether the connection can have another request."""
    expected = script.expected()
    try:
        seen = client.read(script)
    except EndedError:
        if expected.whole:
            raise
        return False  # what is cut soon may be reset before a slow client has a record of it
    expected.check(seen)
    if not seen.whole or seen.fields.get("connection", "").lower() == "close":
        return False
    # Of a body that the application does not read, nobody knows where it ends.
    return not script.body or ["drain"] in script.steps


def over_http2(port: int, chance: random.Random, *, tls: bool) -> None:
    """A connection with some streams at a time, some of which the client resets."""
    with connect(port, chance, tls=tls, protocols=("h2",)) as sock:
        engine = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        window = chance.choice((65_535, 1_000, 1_000_000))
        engine.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        engine.initiate_connection()
        scripts = {2 * number + 1: made(chance) for number in range(chance.choice((1, 3, 8)))}
        left = {number: Seen() for number in scripts}
        unsent = {number: script.body for number, script in scripts.items() if script.body}
        for number, script in scripts.items():
            pseudo = [(":method", script.method), (":path", "/"), (":scheme", "https"), (":authority", "x")]
            engine.send_headers(number, [*pseudo, *script.fields], end_stream=not script.body)
        leaves = chance.random() < 0.1
        while left:
            _upload(engine, unsent)
            sock.sendall(engine.data_to_send())
            if leaves and chance.random() < 0.3:
                leave(sock, chance)
                return
            number = chance.choice([*left])
            # h2 takes no hints for a stream that it has reset.
            if chance.random() < 0.03 and "hint" not in str(scripts[number].steps):
                engine.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
                unsent.pop(number, None)
                del left[number]
                continue
            data = sock.recv(chance.choice((1000, 1 << 18)))
            assert data, "the server has closed the connection"
            for event in engine.receive_data(data):
                number = getattr(event, "stream_id", 0) or 0
                if number in left and _take(event, left[number]):
                    unsent.pop(number, None)
                    scripts[number].expected().check(left.pop(number))
                if isinstance(event, h2.events.DataReceived):
                    engine.acknowledge_received_data(event.flow_controlled_length, number)
                assert not isinstance(event, h2.events.ConnectionTerminated), event


def _upload(engine: h2.connection.H2Connection, unsent: dict[int, bytes]) -> None:
    for number, body in list(unsent.items()):
        try:
            while body and (room := min(engine.local_flow_control_window(number), 16_384)):
                engine.send_data(number, body[:room], end_stream=len(body) <= room)
                body = body[room:]
        except h2.exceptions.StreamClosedError:
            body = b""
        unsent[number] = body
        if not body:
            del unsent[number]


def _take(event: h2.events.Event, seen: Seen) -> bool:
    """Whether this is the end of the response."""
    if isinstance(event, h2.events.ResponseReceived):
        seen.fields = {str(name): str(value) for name, value in event.headers or ()}
        seen.status = int(seen.fields[":status"])
        seen.chunked = True
    elif isinstance(event, h2.events.DataReceived):
        seen.body += event.data or b""
    elif isinstance(event, h2.events.TrailersReceived):
        seen.trailers = {str(name): str(value) for name, value in event.headers or ()}
    elif isinstance(event, h2.events.StreamEnded):
        seen.whole = True
        return True
    return isinstance(event, h2.events.StreamReset)


def some_connection(ports: tuple[int, int], chance: random.Random) -> None:
    """`ports`: in the clear, and over TLS."""
    tls = chance.random() < 0.4
    protocol = over_http2 if chance.random() < 0.4 else over_http1
    protocol(ports[tls], chance, tls=tls)
