"""What the server has counted goes on at an upgrade: requests, bytes, histograms, the status page's plots.

The old version writes what it has counted into a file in memory, which the new one has inherited: when it
hands over, then every second while it finishes what it has, and at its end. The new one copies that, each
time, into the part of its scoreboard that is for what was before, and shows the sum.

It is written and copied whole each time. So what is read in the midst of a write (a CRC tells) is right the
next time, nobody waits for anybody, no number has two writers, and none is counted twice. All of it has a
name, because the two versions may have different layouts.

(Of three versions that run at once, the first may still count when the second has ended. Nobody sees that.)
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence

import msgspec

from halfsync.scoreboard.counts import (
    BYTES_SENT,
    CLOSED_FOR,
    CONNECTIONS_ACCEPTED,
    CONNECTIONS_CLOSED,
    LEASE_HITS,
    LEASE_MISSES,
    LEASE_SLOW_HITS,
    POOL_REFUSED,
    REFUSALS,
    REFUSED,
    STATUS,
    TOTAL_NS,
    Counts,
    History,
    PoolCounts,
)
from halfsync.scoreboard.scoreboard import CLOSES, POOLS, SAMPLE_WORDS, STATUSES, TIMES, Scoreboard
from halfsync.wire.upgrade import Counted, CountedPool, decode_counted, encode

EVERY = 1.0
"""Seconds. To gather it and to write it takes half a millisecond."""

_CRC = 4
_WORDS = {
    "lease_hits": LEASE_HITS,
    "lease_slow_hits": LEASE_SLOW_HITS,
    "lease_misses": LEASE_MISSES,
    "bytes_sent": BYTES_SENT,
    "connections_accepted": CONNECTIONS_ACCEPTED,
    "connections_closed": CONNECTIONS_CLOSED,
}


class CountsForNext:
    """The old version's side. `fd`: to be inherited."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        """Raises OSError."""
        self._scoreboard = scoreboard
        self.fd = os.memfd_create("counted", os.MFD_CLOEXEC)
        self._due = 0.0

    def write(self, pools: Sequence[str], now: float, until: float) -> None:
        """Once a second. `pools`: the names of the plan's. `until`: when this server has ended; monotonic,
        as `now`."""
        if now >= self._due:
            self._due = now + EVERY
            self._write(gathered(self._scoreboard, pools, until))

    def end(self, pools: Sequence[str]) -> None:
        """There is nobody any more who counts."""
        self._write(gathered(self._scoreboard, pools, 0.0))
        self.close()

    def close(self) -> None:
        os.close(self.fd)

    def _write(self, counted: Counted) -> None:
        content = encode(counted)
        data = zlib.crc32(content).to_bytes(_CRC, "little") + content
        try:
            os.pwrite(self.fd, data, 0)
            os.truncate(self.fd, len(data))
        except OSError:
            pass  # no memory: then the numbers are those of before


class CountsFromBefore:
    """The new version's side. `is_over`: nothing more comes."""

    def __init__(self, fd: int, scoreboard: Scoreboard) -> None:
        """`fd` is this object's to close; -1: there is none."""
        self._fd = fd
        self._scoreboard = scoreboard
        self._due = 0.0

    @property
    def is_over(self) -> bool:
        return self._fd < 0

    def copy(self, pools: Sequence[str], now: float) -> None:
        """Once a second. `pools`: the names of the plan's; monotonic seconds."""
        if self.is_over or now < self._due:
            return
        self._due = now + EVERY
        counted = self._read()
        if counted is None:
            return
        carry(counted, self._scoreboard, pools)
        if now >= counted.until:
            self.close()

    def end(self, pools: Sequence[str]) -> None:
        """The last time: this server ends, and has to tell the next one, if there is one."""
        self._due = 0.0
        self.copy(pools, 0.0)
        self.close()

    def close(self) -> None:
        if not self.is_over:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> Counted | None:
        """None if it can't be read now."""
        try:
            data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
            if zlib.crc32(data[_CRC:]) == int.from_bytes(data[:_CRC], "little"):
                return decode_counted(data[_CRC:])
        except (OSError, msgspec.MsgspecError):
            pass
        return None


def gathered(scoreboard: Scoreboard, pools: Sequence[str], until: float) -> Counted:
    counts = Counts(scoreboard.counts, scoreboard.counts_before)
    history = History(scoreboard.history, scoreboard.history_before)
    return Counted(
        until,
        scoreboard.header[0],
        {name: counts.total(word) for name, word in _WORDS.items()},
        counts.statuses,
        counts.refusals,
        [_gathered(scoreboard, index, name) for index, name in enumerate(pools[:POOLS])],
        [[round(at * 1e9), requests, sent, *times] for at, requests, sent, times in history.samples],
        counts.closes,
    )


def _gathered(scoreboard: Scoreboard, index: int, name: str) -> CountedPool:
    counts = PoolCounts(scoreboard.pool(index), scoreboard.pool_before(index))
    return CountedPool(name, counts.all_times, counts.total_ns, counts.refused)


def carry(counted: Counted, scoreboard: Scoreboard, pools: Sequence[str]) -> None:
    """To where a scoreboard has what was before. Pools of a name go to those of the same name, in order."""
    scoreboard.header[0] = counted.started_ns
    words = scoreboard.counts_before
    for name, word in _WORDS.items():
        words[word] = counted.words.get(name, 0)
    for status, count in counted.statuses.items():
        words[STATUS + status % STATUSES] = count
    for reason, count in counted.closes.items():
        words[CLOSED_FOR + reason % CLOSES] = count
    _carry_refusals(counted.refused, words, REFUSED)
    free = list(enumerate(pools[:POOLS]))
    for pool in counted.pools:
        same = next((one for one in free if one[1] == pool.name), None)
        if same is not None:
            free.remove(same)
            _carry_pool(pool, scoreboard.pool_before(same[0]))
    history = scoreboard.history_before
    if not history[0]:  # what is added while it ends is ours, too
        for sample in counted.history:
            History(history).add((sample + [0] * SAMPLE_WORDS)[:SAMPLE_WORDS])


def _carry_pool(pool: CountedPool, words: memoryview) -> None:
    for place, count in enumerate(pool.times[:TIMES]):
        words[place] = count
    words[TOTAL_NS] = pool.total_ns
    _carry_refusals(pool.refused, words, POOL_REFUSED)


def _carry_refusals(refused: dict[str, int], words: memoryview, first: int) -> None:
    """Reasons that are not known here are "other"."""
    other = refused.get(REFUSALS[0], 0)
    for reason, count in refused.items():
        if reason in REFUSALS:
            words[first + REFUSALS.index(reason)] = count
        else:
            other += count
    words[first] = other
