"""The worker's side of the memory that it shares with the pump: see wire.blocks. Used by the loop alone."""

from __future__ import annotations

from collections.abc import Sequence

from halfsync.wire.blocks import BLOCK_SIZE, BLOCKS


class OwnBlocks:
    def __init__(self, shared: memoryview) -> None:
        """`shared`: bytes, from the beginning."""
        self._shared = shared
        self._lent_flags = shared[BLOCKS * BLOCK_SIZE :][:BLOCKS]
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
        shared = self._shared
        for piece in pieces:
            end = at + len(piece)
            shared[at:end] = piece
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
