"""Records of what was sent, on their way to the worker that writes the access log.

They go in batches, one batch at a time: so lines stand in order, a log that cannot be written
fast enough holds no thread but one, and what waits is bounded.
"""

from __future__ import annotations

from halfsync.logs.error import log
from halfsync.pump.connection import NEVER

Record = tuple[float, str, bytes, int, int, int, int, int, int, int, int]
"""A LogRecord's columns, in order: on the wire they are the same, and a tuple costs 0.1 µs to make
where the struct costs 0.3."""

MAX_WAITING = 200_000
"""Records. Past it the oldest are dropped, and how many is said: the log's disk or pipe is stuck."""
BATCH_BYTES = 96 * 1024
"""Of heads in a packet; the other columns add at most some 80 bytes a record (see MAX_PACKET)."""
BATCH_RECORDS = 512
DELAY = 0.1
"""Seconds that a record may wait for company."""


class AccessLog:
    """`records` waits to be handed over. The hot path appends to it directly."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.records: list[Record] = []
        self.under_way: list[Record] = []  # handed over, not yet written
        self.due = NEVER  # monotonic: when the loop has to look at `ready` by itself

    @property
    def idle(self) -> bool:
        return not self.records and not self.under_way

    def ready(self, now: float) -> bool:
        """Whether a batch should be handed over: it is large, or its first record has waited. If it
        can't be, ask again after DELAY."""
        if len(self.records) > MAX_WAITING:
            self._drop_surplus()
        if not self.records or self.under_way:
            self.due = NEVER
            return False
        if self.due == NEVER:
            self.due = now + DELAY
        if now < self.due and len(self.records) < BATCH_RECORDS:
            return False
        self.due = now + DELAY
        return True

    def _drop_surplus(self) -> None:
        surplus = len(self.records) - MAX_WAITING * 9 // 10
        del self.records[:surplus]
        log("error", f"the access log is not written fast enough: {surplus} records dropped")

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
        return self.under_way

    def written(self) -> None:
        self.under_way = []

    def lost(self) -> None:
        """The worker died before it said that the batch is written: another gets it. Lines may
        come twice then; a line that is missing would be worse."""
        self.records[:0] = self.under_way
        self.under_way = []
