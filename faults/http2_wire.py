"""A strict HTTP/2 client on one connection: what becomes of requests that are under way at once.

(Not one of the libraries: they take a GOAWAY for the end of everything, and it is the end of nothing that has
begun. Only header blocks are decoded by one.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import hpack

from faults.requests import Request
from faults.wire import Aborted, Connection, Hung, Malformed, Response

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, *range(3, 10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
ENABLE_PUSH, INITIAL_WINDOW_SIZE = 2, 4
REFUSED_STREAM = 7
WINDOW = 1 << 20
"""Bytes that the server may send before it hears of us: of the connection, and of each stream. No response is
larger."""
LARGEST = 16384
"""Bytes of a frame."""


class NotBegun(Exception):
    """The server says that it has not begun this one: it may be sent again (RFC 9113 8.7)."""


Outcome = Response | Aborted | Hung | Malformed | NotBegun


class Http2Connection:
    """Raises Refused, Aborted and Hung when it is made. `is_over`: nothing more can be sent on it."""

    def __init__(self, port: int) -> None:
        self._connection = Connection(port)
        self._unread = bytearray()
        self._decoder = hpack.Decoder()
        self._next_stream = 1
        self._responses: dict[int, Response] = {}  # of streams that are open
        self._outcomes: dict[int, Outcome] = {}
        self._unsent: dict[int, bytes] = {}
        self._windows: dict[int, int] = {0: 65535}  # what may be sent
        self._first_window = 65535
        self._block = b""  # of headers that are not complete
        self._ends_stream = False  # with them
        self.is_over = False
        settings = b"".join(
            number.to_bytes(2, "big") + value.to_bytes(4, "big")
            for number, value in ((ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW))
        )
        opened = frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65535).to_bytes(4, "big"))
        self._connection.send(PREFACE + frame(SETTINGS, 0, 0, settings) + opened)

    def close(self) -> None:
        self._connection.close()

    def exchange(self, requests: Sequence[Request]) -> list[Outcome]:
        """All at once, each on a stream of its own."""
        if not self.is_over:
            self._read_what_is_there()
        if self.is_over:
            return [NotBegun("it has said goodbye before") for _ in requests]
        streams = [self._begin(request) for request in requests]
        try:
            while any(stream not in self._outcomes for stream in streams):
                self._send_bodies()
                self._receive()
        except (Aborted, Hung, Malformed) as ending:
            self.is_over = True
            for stream in streams:
                self._outcomes.setdefault(stream, ending)
        self._responses.clear()
        return [self._outcomes.pop(stream) for stream in streams]

    # --- sending

    def _begin(self, request: Request) -> int:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        lines = request.wire.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")[1:]
        fields = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
        pseudo = [(":method", request.method), (":scheme", "http"), (":path", request.target)]
        own = [one for one in fields if one[0] in ("range", "if-modified-since")]
        body = request.body if request.method == "POST" else b""  # (it is the response's, too)
        block = b"".join(_literal(*one) for one in [*pseudo, (":authority", "faults.test"), *own])
        flags = END_HEADERS | (0 if body else END_STREAM)
        self._responses[stream] = Response(0)
        self._windows[stream] = self._first_window
        if body:
            self._unsent[stream] = body
        self._connection.send(frame(HEADERS, flags, stream, block))
        return stream

    def _send_bodies(self) -> None:
        for stream, body in list(self._unsent.items()):
            while body and stream not in self._outcomes:
                room = min(LARGEST, self._windows[0], self._windows[stream])
                if room <= 0:
                    break
                piece, body = body[:room], body[room:]
                self._windows[0] -= len(piece)
                self._windows[stream] -= len(piece)
                self._connection.send(frame(DATA, 0 if body else END_STREAM, stream, piece))
            self._unsent[stream] = body
            if not body or stream in self._outcomes:
                del self._unsent[stream]

    # --- receiving

    def _read_what_is_there(self) -> None:
        """A goodbye, perhaps."""
        sock = self._connection.socket
        seconds = sock.gettimeout()
        sock.setblocking(False)
        try:
            self._take(sock.recv(256 * 1024))
        except BlockingIOError:
            pass
        except (OSError, Aborted):
            self.is_over = True
        finally:
            sock.settimeout(seconds)

    def _receive(self) -> None:
        try:
            data = self._connection.socket.recv(256 * 1024)
        except TimeoutError:
            raise Hung(f"with HTTP/2 at {time.strftime('%H:%M:%S')}") from None
        except OSError as error:
            raise Aborted(error.strerror) from None
        self._take(data)

    def _take(self, data: bytes) -> None:
        if not data:
            raise Aborted("closed before the end of a stream")
        self._unread += data
        while len(self._unread) >= 9:
            size, kind, flags = int.from_bytes(self._unread[:3], "big"), self._unread[3], self._unread[4]
            if size > LARGEST:
                raise Malformed(f"a frame of {size} bytes")
            if len(self._unread) < 9 + size:
                break
            stream = int.from_bytes(self._unread[5:9], "big") & 0x7FFFFFFF
            payload = bytes(self._unread[9 : 9 + size])
            del self._unread[: 9 + size]
            self._on_frame(kind, flags, stream, payload)

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if (kind == CONTINUATION) != bool(self._block):
            raise Malformed(f"frame {kind} where headers {'go on' if self._block else 'do not'}")
        if kind in (HEADERS, CONTINUATION):
            self._on_headers(kind, flags, stream, payload)
        elif kind == DATA:
            self._on_data(flags, stream, payload)
        elif kind == RST_STREAM:
            code = int.from_bytes(payload, "big")
            refused = code == REFUSED_STREAM
            self._ends(stream, NotBegun("refused") if refused else Aborted(f"reset with code {code}"))
        elif kind == SETTINGS and not flags & ACK:
            self._on_settings(payload)
        elif kind == PING and not flags & ACK:
            self._connection.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self._on_goodbye(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF)
        elif kind == PUSH:
            raise Malformed("a push")

    def _on_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if flags & (PADDED | WITH_PRIORITY) and kind == HEADERS:
            raise Malformed("a padded header frame")
        if kind == HEADERS:
            self._ends_stream = bool(flags & END_STREAM)
        self._block += payload
        if not flags & END_HEADERS:
            return
        block, self._block = self._block, b""
        try:
            fields = [(str(name), str(value)) for name, value in self._decoder.decode(block)]
        except hpack.HPACKError as error:
            raise Malformed(f"a header block: {error}") from None
        response = self._response(stream)
        status = dict(fields).get(":status", "")
        if not status.isdigit() or response.status >= 200:
            raise Malformed(f"headers {fields[:5]} for status {response.status}")
        if int(status) >= 200:
            response.status = int(status)
            response.fields = {name: value for name, value in fields if not name.startswith(":")}
        if self._ends_stream:
            self._complete(stream)

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        response = self._response(stream)
        if response.status < 200 or flags & PADDED:
            raise Malformed(f"data on stream {stream} with status {response.status}")
        response.body += payload
        if payload:
            self._connection.send(frame(WINDOW_UPDATE, 0, 0, len(payload).to_bytes(4, "big")))
        if flags & END_STREAM:
            self._complete(stream)

    def _response(self, stream: int) -> Response:
        if stream not in self._responses or isinstance(self._outcomes.get(stream), Response):
            raise Malformed(f"a frame for stream {stream}, which is not open")
        return self._responses[stream]

    def _complete(self, stream: int) -> None:
        response = self._responses[stream]
        length = response.fields.get("content-length")
        is_whole = length in (None, str(len(response.body))) or not response.body
        self._ends(stream, response if is_whole else Malformed(f"{len(response.body)} bytes, not {length}"))

    def _ends(self, stream: int, outcome: Outcome) -> None:
        self._outcomes.setdefault(stream, outcome)

    def _on_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            number = int.from_bytes(payload[at : at + 2], "big")
            value = int.from_bytes(payload[at + 2 : at + 6], "big")
            if number == INITIAL_WINDOW_SIZE:
                for stream in self._windows:
                    self._windows[stream] += value - self._first_window if stream else 0
                self._first_window = value
        self._connection.send(frame(SETTINGS, ACK, 0))

    def _on_goodbye(self, last: int) -> None:
        self.is_over = True
        for stream in self._responses:
            if stream > last:
                self._ends(stream, NotBegun("it has said goodbye"))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: str, value: str) -> bytes:
    """A field without indexing and without Huffman's code (RFC 7541 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    assert len(text) < 127
    return bytes((len(text),)) + text.encode("ascii")
