"""Two transports that a pump may have in place of the plain socket. They behave as one that decrypts records.

Both read all that the kernel has into a buffer of their own and give it out in pieces. The kernel does not
tell of what is in that buffer: a reader that stops before BlockingIOError without having been told `drained`
loses it. A send takes one record at most, which does not mean that the socket is full.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
from typing import Any

from halfsync.pump import acceptor
from halfsync.pump.tls.transport import TLSTransport
from halfsync.pump.transport import PlainTransport

RECORD = 16 * 1024
SINGLE = 100
"""Bytes of a connection that a ByteTransport gives one by one."""
BYTES_LATER = 4093
"""That it gives at once, later on."""


KEPT = 4 * 65536
"""Bytes that are kept, about: a client may send without end. The rest is read by a later call."""


class Buffered(PlainTransport):
    """`kept` is what was read from the kernel and not yet given out."""

    sends_files = False
    tells_of_more = False

    def __init__(self, family: int, kind: int, protocol: int, fileno: int) -> None:
        super().__init__(family, kind, protocol, fileno)
        self.kept = b""
        self.error: OSError | None = None
        self.ended = False

    def _piece(self) -> int:
        """Bytes that the next read gives at most."""
        raise NotImplementedError

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        self._fill()
        if not self.kept:
            if self.error is not None:
                raise self.error
            if self.ended:
                return b""
            raise BlockingIOError
        count = min(size, self._piece())
        data, self.kept = self.kept[:count], self.kept[count:]
        return data

    def _fill(self) -> None:
        while not (self.ended or self.error) and len(self.kept) < KEPT:
            try:
                data = super().recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                self.error = error
                return
            self.kept += data
            self.ended = not data

    def drained(self, _received: int, _size: int, /) -> bool:
        """Only BlockingIOError tells: the kernel may have more, whatever is kept here."""
        return False

    def send(self, data: Any, flags: int = 0, /) -> int:
        return super().send(data[:RECORD], flags & ~socket.MSG_MORE)

    def sendmsg(self, buffers: Any, _ancillary: Any = (), flags: int = 0, _address: Any = None, /) -> int:
        return self.send(b"".join(buffers), flags)

    def send_file(self, fd: int, offset: int, count: int) -> int:
        data = os.pread(fd, min(count, RECORD), offset)
        return self.send(data) if data else 0


class ByteTransport(Buffered):
    """The first bytes are read one by one, later ones BYTES_LATER at a time (8 MB would take minutes)."""

    def __init__(self, family: int, kind: int, protocol: int, fileno: int) -> None:
        super().__init__(family, kind, protocol, fileno)
        self._moved = 0

    def _piece(self) -> int:
        self._moved += 1
        return 1 if self._moved < SINGLE else BYTES_LATER


class RecordTransport(Buffered):
    """Records of 16 KiB; a client that pipelines begins one for each request."""

    def _piece(self) -> int:
        end = self.kept.find(b"\r\n\r\n", 0, RECORD)
        return RECORD if end < 0 else end + 4


TRANSPORTS: dict[str, type[PlainTransport]] = {
    "plain": PlainTransport,
    "bytes": ByteTransport,
    "records": RecordTransport,
}


class _OverPlain(TLSTransport):
    """TLS is a transport of its own, and knows the plain one beneath it."""

    __slots__ = ()

    def __init__(self, sock: PlainTransport) -> None:
        if isinstance(sock, Buffered):
            assert not sock.kept, "it was read from"
            sock = PlainTransport(sock.family, sock.type, sock.proto, sock.detach())
        super().__init__(sock)


def install(name: str) -> None:
    """All servers that this process becomes have that transport, where they do not have TLS."""
    acceptor.Acceptor.transport = TRANSPORTS[name]
    acceptor.TLSTransport = _OverPlain  # type: ignore[attr-defined]
    _show(name)


def _show(name: str) -> None:
    """To whoever looks at this process, or one that it forks: see is_installed. (By ctypes, for Python's own
    mmap keeps a descriptor open, and there are tests that count them.)"""
    libc = ctypes.CDLL(None)
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mmap.restype = ctypes.c_void_p
    file = os.memfd_create(_shown(name))
    try:
        libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, file, 0)
    finally:
        os.close(file)


def is_installed(name: str, pid: int) -> bool:
    """In that process."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return f":{_shown(name)} " in maps.read()


def _shown(name: str) -> str:
    return f"transport-{name}"
