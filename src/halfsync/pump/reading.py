"""Reading from a client into its connection's inbox."""

from __future__ import annotations

from halfsync.pump.connection import Connection
from halfsync.pump.transport import FIRST_READ, RECV_SIZE

READS_A_TURN = 16
"""For each connection: how many reads of a body it may have taken in before others are served (1 MiB)."""


def read_on(conn: Connection, data: bytes) -> bytes:
    """`data`, of FIRST_READ bytes; if no more was asked for, with what there is behind it, as one read of
    RECV_SIZE gives. Later reads of this connection are of that size."""
    if conn.read_size != FIRST_READ:
        return data
    conn.read_size = RECV_SIZE
    try:
        rest = conn.transport.recv(RECV_SIZE - FIRST_READ)
    except OSError:  # nothing; or to be found out again where all reads are
        return data
    if not rest:
        conn.readable = True  # this, too
    return data + rest


def read_more(conn: Connection, size: int = RECV_SIZE) -> bool:
    """One read, behind what the inbox holds; whether anything came. At the end of file, `ended` is set and
    `readable` is not."""
    if not conn.readable:
        return False
    try:
        data = conn.transport.recv(size)
    except BlockingIOError:
        conn.readable = False
        return False
    except OSError:
        data = b""
    if not data:
        conn.ended = True
        conn.readable = False
        return False
    if not conn.ended and conn.transport.drained(len(data), size):
        conn.readable = False  # edge-triggered: the next bytes will be told
    conn.inbox = conn.inbox + data if conn.inbox else data
    return True
