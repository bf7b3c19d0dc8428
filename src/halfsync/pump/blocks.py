"""The pump's side of the memory that a worker shares with it: see wire.blocks.

A block is a buffer of which the connection's queue holds views. When the last of them is gone, because the
socket has all or because the connection is no more, Python calls `__del__`, and the block is the worker's
again. So whoever cuts, frames or drops what is queued need not know of it.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import cast

from halfsync.objects import Memory, SimpleObject
from halfsync.wire.blocks import BLOCK_SIZE, BLOCKS


class _Block(ctypes.c_char * BLOCK_SIZE):  # type: ignore[misc]
    """One that is lent. (An array of ctypes, for no other exporter of a buffer can have a `__del__`.)"""

    lent: memoryview
    number: int

    def __del__(self) -> None:
        self.lent[self.number] = 0


class LentBlocks:
    def __init__(self, shared: mmap.mmap) -> None:
        self._shared = shared
        self._lent = memoryview(shared)[BLOCKS * BLOCK_SIZE :][:BLOCKS]

    def put_in(self, objects: list[SimpleObject]) -> None:
        """In place of objects that name blocks, those with their bytes. (One whose number or size can't be
        has none.) To be done with every message, whatever becomes of it: else the blocks would stay lent."""
        for index, item in enumerate(objects):
            if type(item) is Memory and item.block >= 0:
                objects[index] = Memory(cast(bytes, self._view(item)))

    def _view(self, item: Memory) -> memoryview:
        if item.block >= BLOCKS or not 0 <= item.behind <= BLOCK_SIZE:
            return memoryview(b"")
        block = _Block.from_buffer(self._shared, item.block * BLOCK_SIZE)
        block.lent, block.number = self._lent, item.block
        return memoryview(block).cast("B")[: item.behind]
