"""A client connection, and the request it is busy with: all state of either, in two objects.

A connection that waits for its next request holds no parser, no buffer and no exchange: its socket
and these slots are all there is (10,000 of them fit 2 KiB each with room to spare).
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING

from halfsync.pump.closes import CloseReason
from halfsync.pump.states import TABLE, Event, State
from halfsync.wire.messages import Ending

if TYPE_CHECKING:
    from halfsync.pump.descriptors import Descriptor
    from halfsync.pump.sendables import Sendable
    from halfsync.pump.spool import Spool
    from halfsync.pump.workers import Worker
    from halfsync.wire.chunked import ChunkedBody
    from halfsync.wire.http1 import RequestHead

NEVER = float("inf")


class Connection:
    """One client. `state` says who has the next word (see states.py)."""

    __slots__ = (
        "again",
        "client",
        "client_port",
        "ended",
        "exchange",
        "expires",
        "fd",
        "first_byte",
        "inbox",
        "listener",
        "readable",
        "scanned",
        "served",
        "sock",
        "state",
        "when",
    )

    def __init__(
        self, sock: socket.socket, client: str, client_port: int, listener: int, expires: float
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.client = client
        self.client_port = client_port
        self.listener = listener
        self.state = State.FRESH
        self.expires = expires  # monotonic: when the sweep has to look at it
        self.exchange: Exchange | None = None
        self.inbox = b""  # read and not yet framed
        self.scanned = 0  # bytes of the inbox in which no end of head was found
        self.readable = False  # the kernel may have bytes for us (edge-triggered: we must remember)
        self.ended = False  # the client's end of file is on its way, behind what is unread
        self.again = False  # due in the next turn: it used up its share of this one
        self.served = 0  # requests before the present one
        self.when = 0.0  # wall clock: first byte of the present head
        self.first_byte = 0.0  # the same on the monotonic clock

    def move(self, event: Event) -> None:
        """To the state that the table names."""
        state = TABLE[self.state][event]
        if state is None:
            raise AssertionError(f"no {event.name} in {self.state.name}")
        self.state = state


class Exchange:
    """A request and its answer, from a whole head to the last byte sent.

    What most exchanges never touch stands in the class, not in each of them: making one costs
    0.3 µs so, and 1.1 with every attribute stored.
    """

    conn: Connection | None  # None: the client is gone
    head: RequestHead | None  # None: it was refused before it was whole

    # where it goes
    mount_index = -1
    # the request's body
    chunks: ChunkedBody | None = None  # decodes it, if it is chunked
    body_left = 0  # bytes yet to come, if its size was announced
    received = 0
    spool: Spool | None = None
    # who has it
    queued_ns = 0
    begun_ns = 0
    handler_ns = -1
    worker: Worker | None = None
    task = -1  # its number in that worker
    attempts = 0
    # the answer
    status = 0
    out: deque[Sendable]  # framed, and not yet taken by the socket
    shared_file: Descriptor | None = None  # what SAME_FILE means
    chunked = False
    memory = 0  # bytes of its body that came in memory
    body_owed = -1  # bytes yet to be framed; -1: no size was announced
    ending = Ending.MORE
    until_close = False  # nothing but the close tells the client where the body ends
    keep = False  # the connection is kept after this answer
    reason = CloseReason.KEPT
    wire_bytes = 0
    body_bytes = 0
    # what the sweep saw last (see limits.py)
    moved = 0
    progress_at = 0.0
    checked_at = 0.0
    timed = 0.0
    queued_before = 0  # bytes of earlier answers that the socket held

    def __init__(self, conn: Connection, head: RequestHead | None) -> None:
        self.conn = conn
        self.head = head
        self.out = deque()

    @property
    def request_line(self) -> str:
        """Method and target, for the error log."""
        if self.head is None:
            return "?"
        return f"{self.head.method.decode('latin-1')} {self.head.target.decode('latin-1')[:200]!r}"
