"""What carries a connection's bytes. The plain transport is the socket itself, so it costs nothing.

Another kind (TLS, see tls/transport.py) is a class with the same methods. What differs between kinds:

 - *When a read has emptied it.* Client sockets are edge-triggered, so this has to be known. A plain socket is
   empty after a short read; what decrypts records may hold more, and is empty when it says so.
 - *Whether sendfile(2) can send from it* (`sends_files`), how much it takes at once (`send_size`), and how
   much of a file to read for that (`read_size`).
 - *How it ends in good order*: a plain one by close(2) alone, TLS with a close_notify before.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Iterable
from typing import Protocol

from halfsync.system.copying import NO_SENDFILE

RECV_SIZE = 64 * 1024
FIRST_READ = 479
"""Bytes that are read at once from a plain connection in IDLE, until one of its requests is longer. An object
of so few (512 with its header) comes from Python's own allocator: a read of 64 KiB takes 0.15 µs more."""

INITIAL_WINDOW = 14_600
"""Bytes that TCP sends to a new client at once (RFC 6928), and that any client's buffer takes."""

SIOCOUTQNSD = 0x894B
"""Of linux/sockios.h, for TCP."""

MORE = int(socket.MSG_MORE)
STREAM = int(socket.SOCK_STREAM)
"""As plain numbers."""

_family_of: Callable[[socket.socket], int] = _socket.socket.family.__get__
"""As a number: to make it an AddressFamily takes 1 µs."""
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close(2) sends a reset
_NO_RESET = struct.pack("ii", 0, 0)


class Transport(Protocol):
    """Never waits: `recv`, `send`, `sendmsg`, `send_file` and `finish` raise BlockingIOError where they
    would, and another OSError when the client has disconnected. `recv` may give less than there is, and a
    send may take less than there is room for, but up to 16 KiB it takes at once. A send that raised
    BlockingIOError, or took a part, must be followed by one that begins with the same bytes: they may be
    encrypted already. (tests/pump/test_transports.py holds implementations to this.)"""

    sends_files: bool
    send_size: int  # bytes: no send takes more, so more need not be at hand
    read_size: int  # bytes of a file that are read for a send
    tells_of_more: bool  # when a read has left something, the connection becomes ready by itself
    ends_by_close: bool  # close(2) alone is an end in good order
    owed: int  # bytes of an earlier send that the next one takes, whatever it is given
    ends_unsaid: bool  # `finish` raised BlockingIOError, and has to be called again

    @property
    def suits_http2(self) -> bool:
        """Whether what has been agreed upon permits it (see tls/http2_ciphers.py)."""

    def fileno(self) -> int: ...

    def recv(self, size: int, /) -> bytes: ...

    def drained(self, received: int, size: int, /) -> bool:
        """Whether there is nothing more to read now, after a read of `received` of at most `size` bytes."""

    def send(self, data: bytes | memoryview, flags: int = ..., /) -> int: ...

    def send_last(self, data: bytes, /) -> int:
        """As `send`. If it takes all, `finish` follows, and what is taken may leave with that."""

    def sendmsg(
        self,
        buffers: Iterable[bytes | memoryview],
        ancillary: Iterable[tuple[int, int, bytes]] = ...,
        flags: int = ...,
        /,
    ) -> int: ...

    def offer(self, data: bytes, /) -> None:
        """Send these few bytes if there is room, and else forget them; never a part. Raises OSError, but not
        BlockingIOError."""

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """0 at the end of the file. Raises OSError also for what is wrong with the file."""

    def unsent(self) -> int:
        """Bytes that were taken and that the peer has not acknowledged."""

    def held_back(self) -> int:
        """Of these, bytes that are not even on their way: the peer's window, or the network's, is full."""

    def finish(self, *, closing: bool = False) -> None:
        """Tell the client that nothing more will come; with `closing`, as far as a close(2) that follows at
        once does not. Raises OSError."""

    def reset_at_close(self, wanted: bool) -> None:
        """Whether any close, also that of the process's death, resets the connection instead of ending it in
        good order. (A unix socket knows no reset.) Raises OSError."""

    def close(self) -> None: ...


class PlainTransport(_socket.socket):
    """A connected client, by its descriptor. (Python's `socket.socket` adds nothing that is of use here, and
    takes 0.2 µs longer to make.)"""

    __slots__ = ()
    sends_files = True
    send_size = read_size = 256 * 1024
    tells_of_more = True  # the kernel does
    ends_by_close = True
    suits_http2 = True
    ends_unsaid = False
    owed = 0

    @classmethod
    def accept_from(cls, listening: socket.socket) -> tuple[PlainTransport, object]:
        """The next client of a listening socket, and its address, as socket.accept gives them."""
        fd, address = listening._accept()  # type: ignore[attr-defined]
        return cls(_family_of(listening), STREAM, 0, fd), address

    def drained(self, received: int, size: int, /) -> bool:
        return received < size

    def peek(self, size: int) -> bytes:
        """What the kernel has; it stays there. Only before anything was read."""
        return _socket.socket.recv(self, size, socket.MSG_PEEK)

    def skip(self, size: int) -> None:
        """Drop that many bytes, which `peek` has shown."""
        _socket.socket.recv(self, size)

    def send_last(self, data: bytes, /) -> int:
        return self.send(data, MORE)

    def offer(self, data: bytes, /) -> None:
        rest = data
        try:
            while rest:
                rest = rest[self.send(rest) :]
        except BlockingIOError:
            if len(rest) < len(data):
                raise ConnectionResetError(
                    "a part of it is sent, and what follows would be framed wrongly"
                ) from None

    def send_file(self, fd: int, offset: int, count: int) -> int:
        try:
            return os.sendfile(self.fileno(), fd, offset, count)
        except OSError as error:
            if error.errno not in NO_SENDFILE:
                raise
        return self.send(os.pread(fd, min(count, self.read_size), offset))

    def unsent(self) -> int:
        """SIOCOUTQ (tcp(7), unix(7))."""
        return self._asked(termios.TIOCOUTQ)

    def held_back(self) -> int:
        return self._asked(SIOCOUTQNSD)

    def _asked(self, what: int) -> int:
        try:
            return int(struct.unpack("i", fcntl.ioctl(self.fileno(), what, b"\0\0\0\0"))[0])
        except OSError:
            return 0

    def finish(self, *, closing: bool = False) -> None:
        if not closing:
            self.shutdown(socket.SHUT_WR)

    def reset_at_close(self, wanted: bool) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET if wanted else _NO_RESET)
