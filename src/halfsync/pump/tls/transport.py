"""TLS: a transport with the methods of a plain one, over a socket of its own.

Theory of operation
-------------------
OpenSSL reads and writes memory (`ssl.MemoryBIO`), and the socket is ours. That it reads the socket itself
(`ssl.SSLSocket`) was measured against it: a small response took 16.5 µs so and 19.3 with SSLSocket, which
makes two read(2) of each record and can't tell whether the kernel has more; of a large response several
records go into one send(2). And what OpenSSL works on is bounded: given the socket, it goes on for
as long as records without data come (KeyUpdate), which a client can send faster than they are read.

*Reading.* The kernel tells of new bytes once (edge-triggered). So whoever reads must know whether all was
read: the kernel's part is known by a short recv(2), ours by what the memory holds (`drained`). If a read
leaves something, `more` is called, which puts the connection into the run queue: so the loop's fast
paths may read once and be done.

*Writing.* What is encrypted can't be taken back. If the socket takes only a part of it, `send` raises
BlockingIOError and remembers how many bytes it stands for; the next send must be given the same bytes again
(a connection's queue holds them still), and says that they are taken when the socket has all. So a
response is over when the kernel has its last byte, as without TLS.

*Ending.* `finish` sends a close_notify, by which the client knows that what it has is all. A response that
was cut short has none, so that it can be told. The client may go on sending, as with a socket of which one
way is shut.

Memory: a BIO keeps the capacity that it once had. What is put into one at a time is therefore bounded:
idle connections have some 16 KiB, and up to 110 after large bodies.
"""

from __future__ import annotations

import os
import time
from _ssl import MemoryBIO, SSLError, SSLWantReadError, SSLZeroReturnError
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from halfsync import channel
from halfsync.logs.error import log
from halfsync.pump.tls.openssl import TLSError, reason_of, server_side
from halfsync.pump.transport import MORE, PlainTransport
from halfsync.tls.http2_ciphers import suits_http2

if TYPE_CHECKING:
    # Never at run time: workers have this file in memory, and gevent can't patch an `ssl` that is there
    # before it.
    import ssl

    from halfsync.pump.tls.contexts import Terms

RECEIVE = 32 * 1024
"""Bytes of records that are read at a time."""
FIRST_RECEIVE = 4 * 1024
"""The same, until the client has sent as much at once."""
SEND = 48 * 1024
"""Bytes that are encrypted at a time: three full records. (1 MiB took 1.05 ms with one record, 0.8 with
three, 0.75 with eight.)"""
SEND_AT_ONCE = 4 * SEND
"""Bytes that a send takes, piece by piece, as long as the socket takes each whole. (The way from the queue to
here takes 5 µs. But of what is read for a slow client, a part only may be sent.)"""
OVERHEAD = 32
"""Bytes that a record may have beside its data. (22 with TLS 1.3, 29 with 1.2.)"""
MAX_WITHOUT_DATA = 20 * 1024
"""Bytes that may come before there is any data, or with what there is. A record has 16 KiB, and is of no use
before it is whole. A KeyUpdate has 27 bytes, and costs 28 µs: OpenSSL would take any number of them."""
WITHOUT_DATA_A_SECOND = 1024
"""Bytes of that which may come for ever."""


_buffer = channel.page_buffer(SEND)
"""What is read into it is encrypted at once."""


class TLSTransport:
    """A client that has shaken hands (see handshakes.py)."""

    sends_files = False
    tells_of_more = True
    send_size = SEND_AT_ONCE
    read_size = SEND

    __slots__ = (
        "__dict__",  # for what few connections have
        "_emptied",
        "_fed",
        "_give",
        "_held",
        "_incoming",
        "_outgoing",
        "_over",
        "_read",
        "_receive",
        "_room",
        "_said_end",
        "_unsent",
        "_write",
        "ends_by_close",
        "ends_unsaid",
        "full",
        "inner",
        "is_newest",
        "more",
        "owed",
        "plain",
        "server_name",
        "terms",
    )

    _ahead = b""  # what `finish` has read, and nobody has taken
    _ended = False  # and behind it is the end
    _is_deaf = False  # what comes is for nobody, and not decrypted (it is `_over`)
    _surplus = 0.0  # bytes that were no data, and too many; as of `_surplus_at`
    _surplus_at = 0.0

    def __init__(self, sock: PlainTransport) -> None:
        self.plain = sock  # what is beneath
        self._receive = sock.recv
        self._give = sock.send
        self.server_name = ""  # that the client asked for
        self.terms: Terms | None = None  # that the handshake began with
        self.more: Callable[[], None] = _nothing  # called when a read leaves something
        self.full: Callable[[int], None] | None = None  # called when the socket was full for the first time
        self._emptied = False  # the last recv(2) took all that the kernel had
        self._over = False  # nothing more can be read of OpenSSL, or not now (see `_take_ahead`)
        self._room = FIRST_RECEIVE  # bytes of a recv(2)
        self._fed = 0  # bytes of records that have come, and of which nothing was given out
        self._held = 0  # bytes that wait for something to go with (see `shake`)
        self._said_end = False
        self.ends_by_close = False  # our close_notify is sent
        self.ends_unsaid = False  # `finish` has yet to be called again
        self._unsent: bytes | memoryview = b""  # encrypted, and not yet taken by the socket
        self.owed = 0  # bytes of the caller's that these stand for
        self.inner: Any = None  # OpenSSL's; None: nothing has come that it has to know
        self.is_newest = False  # TLS 1.3

    def begin(self, context: ssl.SSLContext) -> None:
        """Be the server's side of a handshake."""
        self._incoming = MemoryBIO()
        self._outgoing = MemoryBIO()
        self.inner = inner = server_side(context, self._incoming, self._outgoing)
        self._read: Callable[[int], bytes] = inner.read
        self._write = inner.write

    @property
    def has_begun(self) -> bool:
        return self.inner is not None

    @property
    def suits_http2(self) -> bool:
        """Where HTTP/2 is not offered for this reason, a client may begin it all the same."""
        cipher = None if self.inner is None else self.inner.cipher()
        return cipher is None or suits_http2(cipher[0])

    def fileno(self) -> int:
        return self.plain.fileno()

    # --- the handshake -----------------------------------------------------------------------------

    def shake(self, data: bytes) -> bool:
        """Go on with the handshake, after `data` has come. Whether it is done. Raises TLSError (the alert is
        sent), OSError.

        With TLS 1.3 our side is done with the client's last flight, and all that is left to send are tickets:
        see `look_further`."""
        self._incoming.write(data)
        inner = self.inner
        try:
            inner.do_handshake()
        except SSLWantReadError:
            self._flush_control()
            return False
        except SSLError as error:
            self._fail()
            raise TLSError(reason_of(error)) from None
        self.is_newest = inner.version() == "TLSv1.3"
        if self.is_newest:
            self._held = self._outgoing.pending
        else:
            self._flush_control()
        return True

    def look_further(self, size: int, *, emptied: bool) -> bool:
        """When the handshake is done: has the client's request come, with its last flight or since? (Most
        clients send it at once, and OpenSSL takes longer for a ticket than they do.) If so, the tickets go
        with its response; else at once. (A client that waits for an acknowledgement before it sends a small
        segment, Nagle's algorithm, would wait for 40 ms.) `emptied`: the kernel had no more when the last
        flight was read. Gives the same, as it is now. Raises OSError.

        This saves a turn of the loop and a send."""
        if self._incoming.pending or not self.is_newest:
            return emptied
        if not emptied:
            self._flush_control()
            return False
        try:
            raw = self._receive(size)
        except BlockingIOError:
            self._flush_control()
            return True
        except OSError:
            return False  # to be found out again, where all reads are
        if not raw:
            self._flush_control()
            return False  # the end, which will be read again
        self._incoming.write(raw)
        return len(raw) < size

    def take_along(self, size: int, *, emptied: bool) -> bytes:
        """What came together with the client's last part of the handshake, and behind it; b"" if that is
        nothing, or is not whole. `emptied`: the kernel had no more when that was read. Raises TLSError."""
        incoming = self._incoming
        if not incoming.pending:
            return b""
        self._emptied = emptied
        try:
            data = self._read(size)
            if emptied and 0 < len(data) < size and not incoming.pending:  # as most are
                return data
            return self._given(data, size)
        except SSLWantReadError:
            pass
        except SSLError as error:
            return self._read_failed(error)
        try:
            self._take_in_more()
            return self._decrypt(size)
        except BlockingIOError:
            self._flush_control()
            return b""

    # --- reading -----------------------------------------------------------------------------------

    def recv(self, size: int, /) -> bytes:
        if self._over:
            return self._take_ahead(size)
        incoming = self._incoming
        if incoming.pending:
            # True only if this call has emptied the kernel: what came since another may have been told.
            self._emptied = False
            return self._decrypt(size)
        room = self._room
        try:
            raw = self._receive(room)
        except BlockingIOError:
            if self.inner.pending():
                return self._rest_of_record(size)
            raise
        self._emptied = emptied = len(raw) < room
        if not raw:
            if self.inner.pending():
                return self._rest_of_record(size)
            self._over = True
            return b""
        incoming.write(raw)
        self._fed += len(raw)
        try:
            data = self._read(size)
        except SSLWantReadError:
            self._take_in_more()
            return self._decrypt(size)
        except SSLError as error:
            return self._read_failed(error)
        # As most are: one record, and nothing else.
        if (
            emptied
            and 0 < len(data) < size
            and self._fed - len(data) <= OVERHEAD
            and not (incoming.pending or self._outgoing.pending)
        ):
            self._fed = 0
            return data
        return self._given(data, size)

    def _rest_of_record(self, size: int) -> bytes:
        """Of one of which a read before took less than it has."""
        self._emptied = False  # what the kernel has said of itself is to be found out again
        return self._decrypt(size)

    def _decrypt(self, size: int) -> bytes:
        """The next data of what has come. Raises as `recv`."""
        while True:
            try:
                data = self._read(size)
            except SSLWantReadError:
                self._take_in_more()
                continue
            except SSLError as error:
                return self._read_failed(error)
            return self._given(data, size)

    def _given(self, data: bytes, size: int) -> bytes:
        """OpenSSL has given this, of at most `size` bytes. Raises TLSError."""
        if not data:  # a close_notify
            self._over = True
            return b""
        if self._outgoing.pending > self._held:
            self._flush_control()
        pending = self._incoming.pending
        self._fed -= len(data)
        if len(data) < size:  # else OpenSSL may have more of this record
            if self._fed - pending > OVERHEAD:
                self._count_surplus(self._fed - pending)
            self._fed = pending
        if len(data) == size or pending or not self._emptied:
            self._room = RECEIVE
            self.more()
        return data

    def _count_surplus(self, size: int) -> None:
        """So many bytes have come that were no data. Raises TLSError if there were too many of late."""
        if not self.is_newest:
            return  # it has no KeyUpdate, and some of its cipher suites add more to a record
        now = time.monotonic()
        self._surplus = max(0.0, self._surplus - WITHOUT_DATA_A_SECOND * (now - self._surplus_at)) + size
        self._surplus_at = now
        if self._surplus > MAX_WITHOUT_DATA:
            self._fail_for_nothing()

    def _fail_for_nothing(self) -> NoReturn:
        self._over = True
        log("info", f"TLS: {_peer_of(self.plain)} sends many records without data: connection closed")
        raise TLSError("many records without data")

    def _take_in_more(self) -> None:
        """A record is not whole yet. Raises BlockingIOError if there is nothing more of it, OSError."""
        if self._outgoing.pending > self._held:
            self._flush_control()
        if self._fed > MAX_WITHOUT_DATA:
            self._fail_for_nothing()
        if self._emptied:
            raise BlockingIOError
        raw = self._receive(self._room)
        self._emptied = len(raw) < self._room
        if not raw:
            self._over = True
            raise TLSError("the connection ended within a record")
        self._fed += len(raw)
        self._incoming.write(raw)

    def _read_failed(self, error: SSLError) -> bytes:
        """Gives the end, or raises TLSError."""
        if isinstance(error, SSLZeroReturnError):  # a close_notify, after ours
            self._over = True
            return b""
        self._fail()
        log("debug", f"TLS: {reason_of(error)}: connection closed")
        raise TLSError(reason_of(error)) from None

    def drained(self, received: int, size: int, /) -> bool:
        return received < size and self._emptied and not self._incoming.pending

    def _flush_control(self) -> None:
        """Send what OpenSSL has to say for itself. Raises OSError if too much of it waits."""
        self._held = 0
        wire = self._outgoing.read()
        self._unsent = bytes(self._unsent) + wire if self._unsent else wire
        self._push()
        if len(self._unsent) > 2 * SEND:
            self._over = True
            raise TLSError("the client reads nothing of what TLS itself has to say")

    def _fail(self) -> None:
        """OpenSSL gave up: send its alert."""
        self._over = True
        self._said_end = True  # an alert is the end already, and close_notify would be refused
        self.say(self._outgoing.read())

    def say(self, data: bytes) -> None:
        """Send bytes as they are (an alert), if the socket takes them."""
        try:
            self._unsent = bytes(self._unsent) + data
            self._push()
        except OSError:
            pass

    # --- writing -----------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview, _flags: int = 0, /) -> int:
        if self._unsent or self.owed:
            self._push()
            if self._unsent:
                raise BlockingIOError
            if self.owed:
                return self._paid()
        size = len(data)
        if size > SEND:
            return self._send_pieces(memoryview(data)[:SEND_AT_ONCE])
        done = self._write(data)  # one record, at most
        if done < size:
            self._encrypt(memoryview(data)[done:])
        wire = self._outgoing.read()
        self._held = 0
        try:
            sent = self._give(wire)
        except BlockingIOError:
            sent = 0
        if sent == len(wire):
            return size
        self._unsent = memoryview(wire)[sent:]
        self.owed = size
        self._is_full()
        raise BlockingIOError

    def _is_full(self) -> None:
        if self.full is not None:
            self.full(self.plain.fileno())
            self.full = None

    def send_last(self, data: bytes, /) -> int:
        """So response and close_notify are one segment, and the client wakes once."""
        size = len(data)
        if self._unsent or self.owed or size > SEND:
            return self.send(data)
        self._encrypt(data)
        self._held = self._outgoing.pending
        return size

    def _send_pieces(self, data: memoryview) -> int:
        taken = 0
        try:
            while taken < len(data):
                taken += self.send(data[taken : taken + SEND])
        except BlockingIOError:
            if not taken:
                raise
        return taken

    def _encrypt(self, data: bytes | memoryview) -> None:
        done = self._write(data) if data else 0  # one record
        if done < len(data):
            rest = memoryview(data)[done:]
            while rest:
                rest = rest[self._write(rest) :]

    def _paid(self) -> int:
        """What the last send was given is taken now."""
        owed, self.owed = self.owed, 0
        return owed

    def _push(self, flags: int = 0) -> None:
        """Give the socket as much of what is encrypted as it accepts. Raises OSError, not BlockingIOError."""
        if not self._unsent:
            return
        try:
            sent = self._give(self._unsent, flags)
        except BlockingIOError:
            sent = 0
        if sent == len(self._unsent):
            self._unsent = b""
        else:
            self._unsent = self._unsent[sent:]
            self._is_full()

    def offer(self, data: bytes, /) -> None:
        """Nothing is remembered of it, so the next send may be given other bytes."""
        if self._unsent:
            return
        self._encrypt(data)
        self._unsent = self._outgoing.read()
        self._held = 0
        self._push()

    def sendmsg(
        self,
        buffers: Iterable[bytes | memoryview],
        _ancillary: Iterable[tuple[int, int, bytes]] = (),
        _flags: int = 0,
        /,
    ) -> int:
        pieces: list[bytes | memoryview] = []
        room = SEND
        for buffer in buffers:
            if len(buffer) >= room:
                pieces.append(memoryview(buffer)[:room])
                break
            pieces.append(buffer)
            room -= len(buffer)
        return self.send(b"".join(pieces))

    def send_file(self, fd: int, offset: int, count: int) -> int:
        if self.owed:
            return self.send(b"")
        size = os.preadv(fd, [_buffer[:count]], offset)
        return self.send(_buffer[:size]) if size else 0

    def unsent(self) -> int:
        return self.plain.unsent() + len(self._unsent)

    def held_back(self) -> int:
        return self.plain.held_back() + len(self._unsent) + self._held

    # --- ending ------------------------------------------------------------------------------------

    def finish(self, *, closing: bool = False) -> None:
        if self.ends_by_close:
            return
        if not self._said_end and self.inner is not None and not self.owed:
            self._said_end = True
            if closing:
                # OpenSSL looks for the client's close_notify, and to be told that there is none yet would be
                # an exception (1.4 µs).
                self._incoming.write_eof()
            else:
                self._read_ahead()
            try:
                self.inner.shutdown()
            except SSLError:  # the client's is not waited for
                pass
            wire = self._outgoing.read()
            self._held = 0
            self._unsent = bytes(self._unsent) + wire if self._unsent else wire
        # A close that follows at once sends the last segment, and its FIN with it.
        self._push(MORE if closing else 0)
        if self._unsent:
            self.ends_unsaid = True
            if closing:
                self._over = self._is_deaf = True
            raise BlockingIOError
        self.ends_unsaid = False
        self.ends_by_close = True
        if not closing:
            self.plain.finish()

    def _read_ahead(self) -> None:
        """All that OpenSSL has been given. (What says our close_notify looks for the client's as well. Were
        there data, that would be an error, behind which nothing can be read any more.)"""
        pieces = []
        try:
            while data := self._read(RECEIVE):
                pieces.append(data)
            self._ended = True
        except SSLZeroReturnError:
            self._ended = True
        except SSLError:
            pass  # there is no more; or it is found out again where all reads are
        self._fed = 0
        self._ahead = b"".join(pieces)
        self._over = self._over or bool(pieces) or self._ended
        if pieces:
            self.more()

    def _take_ahead(self, size: int) -> bytes:
        """Nothing, at the end."""
        if self._is_deaf:
            return self._receive(size)
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        if data:
            self._over = bool(self._ahead) or self._ended
            self._emptied = False
        return data

    def reset_at_close(self, wanted: bool) -> None:
        self.plain.reset_at_close(wanted)

    def close(self) -> None:
        self.more = _nothing
        self.inner = None
        self.plain.close()


def _peer_of(sock: PlainTransport) -> str:
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return "a client"


def _nothing() -> None:
    pass
