"""Files that are not in memory are read by a helper, and meanwhile the loop serves the others."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from halfsync.objects import File
from tests.pump.harness import Stage, get, no_descriptor_left

SIZE = 6 * 1024 * 1024


@pytest.fixture
def uncached():
    """A descriptor of a file on a true disk, none of whose pages is in memory."""
    with tempfile.TemporaryFile(dir=Path(__file__).parent) as file:
        file.write(b"".join(b"%07d\n" % number for number in range(SIZE // 8)))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, SIZE, os.POSIX_FADV_DONTNEED)
        if is_cached(file.fileno()):
            pytest.skip("this file system keeps its pages, or can't tell")
        yield file.fileno()


def is_cached(fd: int) -> bool:
    try:
        os.preadv(fd, [bytearray(1)], SIZE - 1, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_after_a_page_cache_miss_a_helper_reads_and_all_is_sent(uncached):
    with Stage() as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(get("/file"))
        hand.reply(hand.take(), length=SIZE, objects=[File(0, 0, SIZE)], fds=(os.dup(uncached),))
        answer = client.answer()
        assert answer.body == os.pread(uncached, SIZE, 0)
        assert stage.pump.page_cache.misses > 0


def test_a_client_that_leaves_while_its_file_is_read_leaves_nothing_behind(uncached):
    with Stage() as stage:
        hand = stage.hand()
        with no_descriptor_left(stage):
            client = stage.client()
            client.send(get("/file"))
            hand.reply(hand.take(), length=SIZE, objects=[File(0, 0, SIZE)], fds=(os.dup(uncached),))
            stage.until(lambda: stage.pump.page_cache.misses > 0)
            client.leave()
            stage.until(lambda: not stage.pump.connections)
