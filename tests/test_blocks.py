"""Shared memory between a worker and the pump: what is written is read, and comes back when it is sent."""

from __future__ import annotations

import mmap
import os
import resource

from halfsync import channel
from halfsync.objects import Memory, SimpleObject
from halfsync.parent.workers import joins
from halfsync.pump.blocks import LentBlocks
from halfsync.wire.blocks import (
    AREA,
    BLOCK_SIZE,
    BLOCKS,
    SHARED_BYTES,
    BlockCopier,
    BlockWriter,
    has_blocks,
    scoreboard_of,
)
from halfsync.wire.task_slots import SCOREBOARD_SLOTS, scoreboard_bytes


def both() -> tuple[BlockWriter, LentBlocks]:
    shared = mmap.mmap(-1, SHARED_BYTES + 8)
    return BlockWriter(memoryview(shared)[:AREA]), LentBlocks(shared)


def lend(own: BlockWriter, lent: LentBlocks, *pieces: bytes) -> SimpleObject:
    objects: list[SimpleObject] = [Memory(b"", sum(map(len, pieces)), own.fill(pieces))]
    lent.put_in(objects)
    return objects[0]


def test_what_is_written_is_read_and_the_block_comes_back_with_the_last_view():
    own, lent = both()
    [first] = [lend(own, lent, b"abc", b"def")]
    assert isinstance(first, Memory)
    rest = memoryview(first.data)[3:]
    del first
    second = own.fill([b"x"])
    assert bytes(rest) == b"def"  # still lent
    del rest
    assert own.fill([b"y"]) == BLOCKS - 1
    assert second == BLOCKS - 2


def test_when_all_are_lent_there_is_none():
    own, lent = both()
    held = [lend(own, lent, bytes([n])) for n in range(BLOCKS)]
    assert own.fill([b"x"]) == -1
    del held[7]
    assert own.fill([b"x"]) == BLOCKS - 8
    assert own.fill([b"x"]) == -1


def test_a_block_may_be_full():
    own, lent = both()
    held = [lend(own, lent, bytes([n]) * BLOCK_SIZE) for n in (1, 2)]
    assert [bytes(one.data) for one in held if isinstance(one, Memory)] == [
        bytes([1]) * BLOCK_SIZE,
        bytes([2]) * BLOCK_SIZE,
    ]


def test_what_is_copied_out_is_the_writers_again():
    area = memoryview(bytearray(AREA))
    writer, copier = BlockWriter(area), BlockCopier(area)
    numbers = [writer.fill([bytes([n]) * 5]) for n in range(BLOCKS)]
    assert writer.fill([b"x"]) == -1
    assert copier.take(numbers[3], 5) == bytes([3]) * 5
    assert writer.fill([b"x"]) == numbers[3]


def test_a_block_that_can_not_be_has_no_bytes():
    _, lent = both()
    objects: list[SimpleObject] = [
        Memory(b"", 5, BLOCKS),
        Memory(b"", BLOCK_SIZE + 1, 0),
        Memory(b"", -1, 0),
        Memory(b"abc"),
    ]
    lent.put_in(objects)
    assert [bytes(one.data) for one in objects if isinstance(one, Memory)] == [b"", b"", b"", b"abc"]


def test_without_room_for_blocks_there_are_none():
    """RLIMIT_FSIZE holds for shared memory, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = []
    for limit in (hard, 1024 * 1024):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            pumps, workers = joins.make(concurrency=10)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sizes.append(os.fstat(pumps[2]).st_size)
        channel.close_all([*pumps, *workers])
    assert sizes == [SHARED_BYTES + scoreboard_bytes(SCOREBOARD_SLOTS), scoreboard_bytes(SCOREBOARD_SLOTS)]


def test_the_scoreboard_stands_behind_the_blocks_or_alone():
    alone = memoryview(bytearray(8 * 3))
    assert not has_blocks(alone)
    assert len(scoreboard_of(alone)) == 3
    with_blocks = memoryview(bytearray(SHARED_BYTES + 8 * 3))
    assert has_blocks(with_blocks)
    assert len(scoreboard_of(with_blocks)) == 3
