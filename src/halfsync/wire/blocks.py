"""Memory that a worker with an event loop shares with the pump: large pieces of bodies cross in it.

It is in front of the worker's scoreboard, in the same file, and has two *areas*: one for responses, which the
worker writes and the pump reads, and one for requests, the other way. Each consists of

    BLOCKS blocks of BLOCK_SIZE bytes     of the writer
    BLOCKS bytes, *lent*                  1: the block is the reader's, who writes 0 when it needs it no more

The writer copies bytes into a block that is not lent, marks it as lent, and names it in a message
(`Memory.block`, `Piece.block`). The pump gives the block itself to the client's socket; nothing else is
copied. If all blocks are lent, because many clients are slow, bytes cross in packets, as small ones do.

The writer takes the block that came back last, so its bytes are in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence

BLOCK_SIZE = 128 * 1024
BLOCKS = 64
BLOCK_FROM = 16 * 1024
"""Bytes of a piece that is worth a block."""

AREA = BLOCKS * BLOCK_SIZE + BLOCKS
SHARED_BYTES = 2 * AREA
"""In front of the scoreboard: the area for responses, then the one for requests."""


def scoreboard_of(shared: memoryview) -> memoryview:
    """The scoreboard, as integers. `shared`: the bytes of the whole file, which may be without blocks."""
    return shared[SHARED_BYTES if has_blocks(shared) else 0 :].cast("Q")


def has_blocks(shared: memoryview) -> bool:
    return len(shared) > SHARED_BYTES


class BlockWriter:
    """The writer's side of an area. For one thread."""

    def __init__(self, area: memoryview) -> None:
        self._area = area
        self._lent_flags = area[BLOCKS * BLOCK_SIZE :][:BLOCKS]
        self._free = list(range(BLOCKS))  # the last one is taken first
        self._lent: list[int] = []

    def fill(self, pieces: Sequence[bytes]) -> int:
        """Write them into a block, which is lent then. Its number; -1 if all are lent. Together they have no
        more than BLOCK_SIZE bytes."""
        self._take_back()
        if not self._free:
            return -1
        number = self._free.pop()
        at = number * BLOCK_SIZE
        area = self._area
        for piece in pieces:
            end = at + len(piece)
            area[at:end] = piece
            at = end
        self._lent_flags[number] = 1
        self._lent.append(number)
        return number

    def _take_back(self) -> None:
        flags = self._lent_flags
        back = [number for number in self._lent if not flags[number]]
        if back:
            self._free += back
            self._lent = [number for number in self._lent if number not in back]


class BlockCopier:
    """A reader's side, for who wants bytes."""

    def __init__(self, area: memoryview) -> None:
        self._area = area

    def take(self, number: int, size: int) -> bytes:
        """What is in a block, which is the writer's again then."""
        at = number * BLOCK_SIZE
        data = bytes(self._area[at : at + size])
        self._area[BLOCKS * BLOCK_SIZE + number] = 0
        return data
