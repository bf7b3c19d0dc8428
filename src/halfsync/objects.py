"""Simple objects: what a handler hands back and the pump sends by its fastest method.

A body is a sequence of these. Framing looks at `length` and at nothing else; only the pump's
sender knows how each kind is sent. They cross the seam inside messages (`wire.messages`); a
descriptor crosses beside the message (SCM_RIGHTS), and `fd` is then its index among the
packet's descriptors.

This module is near the bottom: it imports `stamps` only.
"""

from __future__ import annotations

import msgspec

from halfsync.system.stamps import Stamp

SAME_FILE = -1
"""In a message, `File.fd` with this value means the file that this response's last `File` named."""


class Memory(msgspec.Struct, tag="m", array_like=True, frozen=True, gc=False):
    """Bytes, sent in a gathering write."""

    data: bytes
    behind: int = 0  # so many bytes, which stand behind the packet's messages (see wire.packets)
    block: int = -1  # or in this block of the memory that is shared (see wire.blocks)

    @property
    def length(self) -> int:
        return len(self.data) + self.behind


class File(msgspec.Struct, tag="f", array_like=True, gc=False):
    """`count` bytes of a regular file from `offset`, sent with sendfile(2); or, with a `stamp`, in a way
    that shows the client if the file changes meanwhile.

    The descriptor's own position is neither used nor moved, so one descriptor can serve many
    responses at once.
    """

    fd: int
    offset: int
    count: int
    stamp: Stamp | None = None  # what the file was when the head was made; None: nobody can change it

    @property
    def length(self) -> int:
        return self.count


class Pipe(msgspec.Struct, tag="p", array_like=True, gc=False):
    """A descriptor to read until it ends. Only a `Part` that says DONE makes the body whole:
    end of file alone may also mean that the writer died."""

    fd: int

    @property
    def length(self) -> None:
        return None


class Tunnel(msgspec.Struct, tag="t", array_like=True, gc=False):
    """A connected stream socket, to which the client is connected from now on: bytes both ways, until both
    ways have ended. It is all of a response, whose status is 101."""

    fd: int

    @property
    def length(self) -> None:
        return None


SimpleObject = Memory | File | Pipe | Tunnel
