"""A response that may be repeated: what a lease holds (see leases.py)."""

from __future__ import annotations

from halfsync.pump.clock import Clock
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.sendables import FileSpan
from halfsync.system.stamps import Stamp
from halfsync.wire.http1_responses import BODILESS, connection_line, status_line
from halfsync.wire.messages import Reply

MAX_COPY = 1024 * 1024
"""Bytes of a leased file that is copied (see changing.py). Larger ones are asked for less often than their
clients read."""
OVERHEAD = 1024
"""Bytes that a lease is taken to cost beside its body and heads: objects and dictionary slots."""

FILE_OVERHEAD = 64 * 1024
"""Bytes that a lease on an open file is taken to cost: descriptors are scarcer than memory."""


class Leased:
    """A response that may be repeated until `expires`."""

    __slots__ = (
        "_cost_of_file",
        "begun_ns",
        "block",
        "block_start",
        "block_until",
        "body",
        "body_bytes",
        "count",
        "data_start",
        "dated",
        "expires",
        "fields",
        "file",
        "granted_by",
        "head_only",
        "ignores_cookie",
        "last_until",
        "last_wire",
        "length",
        "made_of",
        "offset",
        "renew_at",
        "size",
        "stamp",
        "status",
        "status_line",
        "until",
        "wire",
    )

    def __init__(
        self,
        reply: Reply,
        file: Descriptor | None = None,
        offset: int = 0,
        count: int = 0,
        stamp: Stamp | None = None,
    ) -> None:
        self.status = reply.status
        self.status_line = status_line(reply.status, reply.reason)
        self.fields = reply.fields
        self.dated = reply.dated
        self.body = reply.body
        self._cost_of_file = FILE_OVERHEAD + (count if count <= MAX_COPY else 0) if file is not None else 0
        self.file = file
        self.offset = offset
        self.count = count
        self.stamp = stamp  # what the file has to be; None: nobody can change it (see changing.py)
        self.made_of = (stamp, offset, count)
        self.length = len(reply.body) + count
        self.head_only = False  # to HEAD, or with a status that has no body
        self.body_bytes = 0  # that `wire` holds
        self.ignores_cookie = True
        self.granted_by = -1  # a worker's id
        self.begun_ns = 0  # when its handler began
        self.expires = 0.0
        self.renew_at = 0.0
        self.wire = b""
        self.size = 0
        self.until = 0.0  # `wire` may be sent as it is before this time
        self.last_wire = b""  # the same, behind which the connection is closed
        self.last_until = 0.0
        self.block = b""  # the head as HTTP/2 has it
        self.block_until = 0.0  # it is out of date from this time on
        self.block_start = self.data_start = b""  # of the frames around: length, kind and flags

    @property
    def cost(self) -> int:
        """Bytes, for the bound: `wire` holds the body once more."""
        return OVERHEAD + 2 * len(self.body) + self._cost_of_file

    def take_copy(self, old: Leased) -> None:
        """If the lease before this one, of the very same file, has a copy of it: that is as good."""
        if self.stamp is not None and old.stamp is None and old.made_of == self.made_of:
            self.file, self.offset, self.stamp = old.file, old.offset, None

    def objects(self) -> list[bytes | FileSpan]:
        """The body."""
        found: list[bytes | FileSpan] = [self.body] if self.body else []
        if self.file is not None and self.count:
            found.append(FileSpan(self.file, self.offset, self.count, self.stamp))
        return found

    def end(self) -> None:
        """No response is made from it any more, whatever tables hold it."""
        self.expires = self.renew_at = self.until = self.last_until = 0.0

    def is_small(self, size: int) -> bool:
        """Whether all of it is in memory, and the body has at most so many bytes."""
        return self.head_only or (self.file is None and len(self.body) <= size)

    def refresh_last(self, clock: Clock) -> None:
        """Build `last_wire` again, with this second's Date."""
        head = self.head(b"" if self.dated else clock.date_line, connection_line(False, 1))
        self.last_wire = head if self.head_only else head + self.body
        self.last_until = min(clock.next_second, self.renew_at)

    def refresh(self, clock: Clock) -> None:
        """Build `wire` again, with this second's Date."""
        head = self.head(b"" if self.dated else clock.date_line, b"")
        self.wire = head if self.head_only else head + self.body
        self.size = len(self.wire)
        self.body_bytes = self.size - len(head)
        # One comparison on the hot path stands for three: Date, renewal, and a body that is in a
        # file, which `wire` does not hold.
        in_wire = self.file is None or self.head_only
        self.until = min(clock.next_second, self.renew_at) if in_wire else 0.0

    def head(self, date_line: bytes, connection_line: bytes) -> bytes:
        length = b"" if self.status in BODILESS else b"Content-Length: %d\r\n" % self.length
        return b"".join((self.status_line, self.fields, length, date_line, connection_line, b"\r\n"))
