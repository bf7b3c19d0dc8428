"""Records of what was sent, on their way to the worker that writes the access log.

They go in batches, one batch at a time: so lines stand in order, a log that cannot be written
fast enough holds no thread but one, and what waits is bounded.
"""

from __future__ import annotations

from operator import itemgetter

from halfsync.logs.error import log
from halfsync.pump.connection import NEVER, Record

MAX_WAITING = 64 * 1024 * 1024
"""Bytes of records that wait. Past it the oldest are dropped, and the error log says how many: the access
log's disk or pipe is stuck. Some 70,000 records of browsers, or 1000 of clients whose heads take 64 KiB."""
RECORD_OVERHEAD = 400
"""Bytes that a record takes beside its head: the tuple and its numbers (measured: 330 to 380)."""
COUNT_EVERY = 256
"""Records that may wait uncounted: bytes are counted only where records pile up, so a log that is written as
fast as it grows costs nothing here."""
SAY_EVERY = 1.0
"""Seconds between two complaints about dropped records."""
BATCH_BYTES = 96 * 1024
"""Of heads in a packet; the other columns add at most some 80 bytes a record (see MAX_PACKET)."""
BATCH_RECORDS = 512
DELAY = 0.1
"""Seconds that a record may wait to be batched."""


_head = itemgetter(2)


class AccessLog:
    """`records` waits to be handed over. The hot path appends to it directly."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.records: list[Record] = []
        self.under_way: list[Record] = []  # handed over, not yet written
        self._counted = 0  # how many of `records`, from the first on, `_bytes` is about
        self._bytes = 0
        self._dropped = 0  # and not yet said
        self._say_at = 0.0  # monotonic
        self.due = NEVER  # monotonic: when the loop has to look at `ready` by itself
        self.look_at = 1  # so many records: the same

    @property
    def idle(self) -> bool:
        return not self.records and not self.under_way

    def ready(self, now: float) -> bool:
        """Whether a batch should be handed over: it is large, or its first record has waited. If it
        can't be, ask again after DELAY. To be called from `due` on, and when `look_at` records wait."""
        if len(self.records) - self._counted >= COUNT_EVERY:
            self._count()
        if self._dropped and now >= self._say_at:
            self._say_dropped(now)
        if not self.records or self.under_way:
            self._wait_for_more()
            return False
        if self.due == NEVER:
            self.due = now + DELAY
        if now < self.due and len(self.records) < BATCH_RECORDS:
            self.look_at = min(BATCH_RECORDS, self._counted + COUNT_EVERY)
            return False
        self.due = now + DELAY
        self.look_at = 1
        return True

    def _wait_for_more(self) -> None:
        """There is no batch now."""
        self.due = self._say_at if self._dropped else NEVER
        self.look_at = self._counted + COUNT_EVERY if self.under_way else 1

    def _count(self) -> None:
        """Count the bytes of what came since; drop the oldest if they are too many in all."""
        records = self.records
        self._bytes += _sizes(records[self._counted :])
        self._counted = len(records)
        if self._bytes <= MAX_WAITING:
            return
        surplus = 0
        while self._bytes > MAX_WAITING * 9 // 10:
            self._bytes -= _sizes(records[surplus : surplus + 1])
            surplus += 1
        self._dropped += surplus
        self._counted -= surplus
        del records[:surplus]

    def _say_dropped(self, now: float) -> None:
        log(
            "error",
            f"The access log is not written fast enough, and more than {MAX_WAITING >> 20} MiB of records "
            f"wait: {self._dropped} records dropped, the oldest first.",
        )
        self._dropped = 0
        self._say_at = now + SAY_EVERY

    def end(self) -> None:
        """No more records come."""
        if self._dropped:
            self._say_dropped(NEVER)

    def take_batch(self) -> list[Record]:
        """The next batch; empty while the one before is not written."""
        if self.under_way or not self.records:
            return []
        size = count = 0
        for record in self.records:
            size += len(record[2])
            if count and (size > BATCH_BYTES or count >= BATCH_RECORDS):
                break
            count += 1
        self.under_way = self.records[:count]
        del self.records[:count]
        counted = min(count, self._counted)
        self._bytes -= _sizes(self.under_way[:counted])
        self._counted -= counted
        self._wait_for_more()
        return self.under_way

    def written(self) -> None:
        self.under_way = []
        self.look_at = 1

    def lost(self) -> None:
        """The worker died before it said that the batch is written: another gets it. Lines may
        come twice then; a line that is missing would be worse."""
        self.records[:0] = self.under_way
        self.under_way = []
        self._bytes = self._counted = 0  # to be counted again, all of them
        self.look_at = 1


def _sizes(records: list[Record]) -> int:
    return RECORD_OVERHEAD * len(records) + sum(map(len, map(_head, records)))
