"""Reading from a client into its connection's inbox."""

from __future__ import annotations

from halfsync.pump.connection import Connection

RECV_SIZE = 64 * 1024
READS_A_TURN = 16
"""For each connection: how many reads of a body it may have taken in before others are served (1 MiB)."""


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
