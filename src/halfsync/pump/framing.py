"""Frames answers (RFC 9112 6, 7.1): from objects and their lengths to what is sent.

Looks at an object's length and at nothing else of it; the sender alone knows how each kind is
sent. Whatever a handler gives, no more goes out than Content-Length says (`exchange.body_owed`),
and nothing where an answer has no body.
"""

from __future__ import annotations

from halfsync.objects import File
from halfsync.pump.answers import BODILESS, connection_line, status_line
from halfsync.pump.connection import Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.sendables import FileSpan, Framing
from halfsync.stamps import Stamp
from halfsync.wire.messages import Reply


def head(exchange: Exchange, reply: Reply, keep: bool, date_line: bytes) -> None:
    """The head of `reply`: how the client will know where its body ends. `keep`: whether the
    connection may be kept, as far as everyone else is concerned."""
    request = exchange.head
    minor = request.minor if request is not None else 1
    to_head = request is not None and request.method == b"HEAD"
    exchange.status = status = reply.status
    length_line = b""
    if status in BODILESS:
        exchange.body_owed = 0
    elif reply.length >= 0:
        exchange.body_owed = reply.length
        length_line = b"Content-Length: %d\r\n" % reply.length
    elif to_head:
        pass  # of a size that is not known: nothing is said of it
    elif minor:
        exchange.chunked = True
        length_line = b"Transfer-Encoding: chunked\r\n"
    else:
        keep = False
        exchange.until_close = True
    if to_head:
        exchange.body_owed = 0
    exchange.keep = keep
    lines = (
        status_line(status, reply.reason),
        reply.fields,
        length_line,
        b"" if reply.dated else date_line,
        connection_line(keep, minor),
        b"\r\n",
    )
    exchange.out.append(Framing(b"".join(lines)))


def memory(exchange: Exchange, data: bytes) -> None:
    size = _grant(exchange, len(data))
    if size:
        if exchange.chunked:
            exchange.out.append(Framing(b"%x\r\n" % size))
            exchange.out.append(data)
            exchange.out.append(Framing(b"\r\n"))
        else:
            exchange.out.append(data if size == len(data) else data[:size])


def file(exchange: Exchange, item: File, fds: list[Descriptor]) -> None:
    """`fds` are the descriptors of the packet in which the item came."""
    if item.fd >= 0:
        exchange.shared_file = fds[item.fd]
    shared = exchange.shared_file
    assert shared is not None
    size = _grant(exchange, item.count)
    if size:
        last = exchange.out[-1] if exchange.out else None
        if exchange.chunked:
            _chunk_of_file(exchange, shared, item.offset, size, item.stamp)
        elif isinstance(last, FileSpan) and last.continues_with(shared, item.offset):
            last.count += size  # many small pieces that wait for a slow client are one
        else:
            exchange.out.append(FileSpan(shared, item.offset, size, item.stamp))


def _chunk_of_file(exchange: Exchange, file: Descriptor, offset: int, size: int, stamp: Stamp | None) -> None:
    """One chunk; joined with the one before, if that is the same file's and nothing of it is sent: many small
    pieces that wait for a slow client are one."""
    out = exchange.out
    if len(out) > 3:  # the first object may be on its way already
        before = out[-2]
        if isinstance(before, FileSpan) and before.continues_with(file, offset):
            before.count += size
            out[-3] = Framing(b"%x\r\n" % before.count)
            return
    out.append(Framing(b"%x\r\n" % size))
    out.append(FileSpan(file, offset, size, stamp))
    out.append(Framing(b"\r\n"))


def _grant(exchange: Exchange, size: int) -> int:
    """How much of `size` more bytes may be sent. `body_owed` is negative if no length was announced."""
    if exchange.body_owed >= 0:
        size = min(size, exchange.body_owed)
        exchange.body_owed -= size
    return size
