"""Memory that a worker with an event loop shares with the pump: large pieces of bodies cross in it.

It is in front of the worker's scoreboard, in the same file:

    BLOCKS blocks of BLOCK_SIZE bytes     the worker writes, the pump reads
    BLOCKS bytes, *lent*                  1: the block is the pump's, which writes 0 when it needs it no more
    the scoreboard                        (see SCOREBOARD_SLOTS in messages.py)

The worker writes a body's bytes into a block that is not lent, marks it as lent, and names it in a message
(`Memory.block`). The pump gives the block itself to the client's socket; nothing else is copied. If all
blocks are lent, because many clients are slow, bytes stand behind messages (packets.py).

The worker takes the block that came back last, so its bytes are in the processor's cache.
"""

from __future__ import annotations

BLOCK_SIZE = 128 * 1024
BLOCKS = 64
BLOCK_FROM = 16 * 1024
"""Bytes of a piece that is worth a block."""

SHARED_BYTES = BLOCKS * BLOCK_SIZE + BLOCKS
"""In front of the scoreboard."""


def scoreboard_of(shared: memoryview) -> memoryview:
    """The scoreboard, as integers. `shared`: the bytes of the whole file, which may be without blocks."""
    return shared[SHARED_BYTES if has_blocks(shared) else 0 :].cast("Q")


def has_blocks(shared: memoryview) -> bool:
    return len(shared) > SHARED_BYTES
