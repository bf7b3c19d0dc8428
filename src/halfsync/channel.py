"""Sending and receiving packets with descriptors over `SOCK_SEQPACKET`.

For the `orders` channels and wherever speed is no matter; the hot paths have their own.
Nothing here blocks on a non-blocking socket, and every failure of the other side is a value:
the parent must survive whatever a child does to a channel.
"""

from __future__ import annotations

import _socket
import array
import errno
import mmap
from enum import Enum
from typing import cast

from halfsync.system.primitives import os, socket
from halfsync.system.temporary_files import out_of_reach
from halfsync.wire.messages import MAX_DESCRIPTORS, MAX_PACKET

ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
"""Bytes of ancillary data."""
# As plain numbers: two members of an IntFlag are joined in Python, and take 1 µs for it.
CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
AT_ONCE = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
"""Flags of a recvmsg(2): what it gives is closed in other programs; and it does not wait."""
CUT = int(socket.MSG_CTRUNC)
"""Of the flags that it gives: there was no room for all descriptors."""


class SendResult(Enum):
    """What became of a packet."""

    YES = "yes"
    FULL = "full"  # no room now; try again later
    GONE = "gone"  # the other side will never read it


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, close-on-exec and blocking."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def page_buffer(size: int) -> memoryview:
    """To receive packets or read files in. It begins with a page: what the kernel copies to anywhere else can
    cost several times as much (see wire.packets)."""
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def adopt(descriptor: int) -> socket.socket:
    """The blocking socket of a descriptor that came in a packet, in a process with an application: neither
    `socket.setdefaulttimeout` nor a method that is replaced in `socket.socket` has an effect on it."""
    descriptor = out_of_reach(descriptor)
    made = _socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor)
    made.setblocking(True)
    return cast(socket.socket, made)  # its subclass has no more that is used here


def send(channel: socket.socket, packet: bytes, descriptors: tuple[int, ...] = ()) -> SendResult:
    """Send one packet. The descriptors stay open here. On a non-blocking socket, never waits."""
    try:
        socket.send_fds(channel, [packet], list(descriptors), socket.MSG_NOSIGNAL)
    except (BlockingIOError, InterruptedError):
        return SendResult.FULL
    except OSError as error:
        return SendResult.FULL if error.errno in _SHORT_OF else SendResult.GONE
    return SendResult.YES


_SHORT_OF = {errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS}
"""The last one means that too many descriptors are on their way to processes that have
not read them yet (as many as RLIMIT_NOFILE may be)."""


def receive(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    """One packet and its descriptors (close-on-exec); None at the end, whatever brought it.

    If there was no room for all of the descriptors here, none is given. A packet is never empty.
    Raises BlockingIOError if a non-blocking socket has nothing to read.
    """
    try:
        packet, ancillary, flags, _ = channel.recvmsg(MAX_PACKET, ROOM_FOR_DESCRIPTORS, CLOSE_ON_EXEC)
    except BlockingIOError:
        raise
    except OSError:
        return None
    descriptors = _descriptors(ancillary)
    if flags & CUT:
        close_all(descriptors)
        descriptors = []
    if packet:
        return packet, descriptors
    close_all(descriptors)
    return None


def peek(channel: socket.socket) -> bytes:
    """The next packet, which stays the next one; empty at the end. Of a channel that carries no
    descriptors."""
    try:
        return channel.recv(MAX_PACKET, socket.MSG_PEEK)
    except OSError:
        return b""


def drop(channel: socket.socket) -> None:
    """Take the next packet away."""
    try:
        channel.recv(1)
    except OSError:
        pass


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def close_all(descriptors: list[int] | tuple[int, ...]) -> None:
    """Close them; those that are closed already do not matter."""
    for descriptor in descriptors:
        try:
            os.close(descriptor)
        except OSError:
            pass
