"""A strict HTTP/1.1 client on one connection: what it accepts is a response, and all else has a name."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field

DEADLINE = 10.0
"""Seconds without a byte and without a close after which a client hangs."""


class Aborted(Exception):
    """The connection ended, and the client can tell that something is missing."""


class Refused(Exception):
    """Nobody listens."""


class Hung(Exception):
    """Nothing came for DEADLINE."""


class Malformed(Exception):
    """What came is no HTTP response."""


@dataclass
class Response:
    status: int
    fields: dict[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    ended_by_close: bool = False

    @property
    def closes(self) -> bool:
        return self.ended_by_close or self.fields.get("connection", "").lower() == "close"


class Connection:
    """Raises Refused, Aborted, Hung."""

    def __init__(self, port: int, seconds: float = 0.0) -> None:
        """`seconds`: in place of DEADLINE."""
        self._seconds = seconds or DEADLINE
        self._unread = bytearray()
        self.socket = socket.socket()
        self.socket.settimeout(self._seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            self.close()
            raise Refused from None
        except TimeoutError:
            self.close()
            raise Hung("connecting") from None
        except OSError as error:
            self.close()
            raise Aborted(f"connecting: {error.strerror}") from None

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """What the server does not take because it has responded already is not sent."""
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise Hung("sending") from None
        except OSError:
            pass  # the next read tells

    def unexpected(self) -> bytes:
        """What came though nothing is due."""
        if not self._unread:
            self.socket.setblocking(False)
            try:
                self._unread += self.socket.recv(4096)
            except OSError:
                pass
            finally:
                self.socket.settimeout(self._seconds)
        return bytes(self._unread)

    def response(self, method: str) -> Response:
        """The next final one. Raises Malformed, too."""
        while True:
            response = self._head()
            if response.status >= 200:
                break
        if method != "HEAD" and response.status not in (204, 304):
            self._read_body(response)
        return response

    def _head(self) -> Response:
        start = self._through(b"\r\n\r\n", "in the head")
        line, *lines = start[:-4].decode("latin-1").split("\r\n")
        version, _, rest = line.partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdigit():
            raise Malformed(line[:80])
        fields: dict[str, str] = {}
        for one in lines:
            name, colon, value = one.partition(":")
            if not colon or name.lower() in fields:
                raise Malformed(one[:80])
            fields[name.lower()] = value.strip()
        return Response(int(rest[:3]), fields)

    def _read_body(self, response: Response) -> None:
        if "transfer-encoding" in response.fields:
            response.body = self._chunks()
        elif "content-length" in response.fields:
            response.body = self._take(int(response.fields["content-length"]))
        else:
            response.body = self._rest()
            response.ended_by_close = True

    def _chunks(self) -> bytes:
        parts = []
        while True:
            line = self._through(b"\r\n", "in a chunk")
            try:
                size = int(line, 16)
            except ValueError:
                raise Malformed(f"chunk {bytes(line[:40])!r}") from None
            parts.append(self._take(size))
            if self._take(2) != b"\r\n":
                raise Malformed("a chunk without its end")
            if not size:
                return b"".join(parts)

    def _through(self, end: bytes, where: str) -> bytes:
        while (at := self._unread.find(end)) < 0:
            if not self._receive():
                raise Aborted(f"closed {where}" if self._unread else "closed without a response")
        return self._cut(at + len(end))

    def _take(self, size: int) -> bytes:
        while len(self._unread) < size:
            if not self._receive():
                raise Aborted("closed in the body")
        return self._cut(size)

    def _rest(self) -> bytes:
        while self._receive():
            pass
        return self._cut(len(self._unread))

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(256 * 1024)
        except TimeoutError:
            raise Hung(f"after {len(self._unread)} bytes at {time.strftime('%H:%M:%S')}") from None
        except OSError as error:
            raise Aborted(error.strerror) from None
        self._unread += data
        return bool(data)

    def _cut(self, size: int) -> bytes:
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data
