"""Tells in the error log when a pool has fewer threads than its requests need: requests wait, or are refused.

A response of 503 says to a client that the server is busy; this says to whoever runs it what keeps it
busy. It is told from the sweep, so within a second, and of one pool once a minute at most: what was
refused meanwhile is counted, and told with the next.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from halfsync.logs.error import log
from halfsync.pump.clock import Clock
from halfsync.pump.connection import Exchange
from halfsync.pump.pools.workers import Pool

LONG = 5.0
"""Seconds in the queue that are worth a warning."""

INTERVAL = 60.0
"""Seconds between two warnings about one pool."""


class _Told(msgspec.Struct):
    """Of one pool. Times are monotonic seconds."""

    quiet_until: float = 0.0
    refused: Counter[str] = msgspec.field(default_factory=Counter)  # since the last warning, by setting


class Saturation:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[Pool, _Told] = {}

    def refused(self, pool: Pool, setting: str) -> None:
        """One of its requests got a 503, because of this setting."""
        self._told.setdefault(pool, _Told()).refused[setting] += 1
        pool.counts.refuse(setting)

    def sweep(self, pool: Pool) -> None:
        """Warn if there is reason to, and it was not done lately."""
        told = self._told.get(pool)
        now = self._clock.now
        if told is not None and now < told.quiet_until:
            return
        now_ns = self._clock.now_ns
        waiting = _waiting_since(pool)
        waits_long = bool(waiting) and now_ns - min(waiting) > LONG * 1e9
        refused = Counter[str]() if told is None else told.refused
        if not waits_long and not refused:
            return
        log("warning", _sentences(pool, waiting, refused, now_ns))
        self._told[pool] = _Told(now + INTERVAL)


def _waiting_since(pool: Pool) -> list[int]:
    """The `queued_ns` of all that no handler has begun: in the queue, and handed over to a worker."""
    handed_over = (
        owner.queued_ns
        for worker in pool.workers
        for number, owner in worker.owners.items()
        if isinstance(owner, Exchange) and owner.conn is not None and not worker.begun(number)
    )
    queued = (one.queued_ns for one in (*pool.queue, *pool.retries) if one.conn is not None)
    return [*handed_over, *queued]


def _sentences(pool: Pool, waiting: list[int], refused: Counter[str], now_ns: int) -> str:
    threads = sum(worker.threads for worker in pool.workers)
    begun = [
        (since, owner)
        for worker in pool.workers
        for number, owner in worker.owners.items()
        if (since := worker.begun(number))
    ]
    what = "requests are handled" if pool.has_loops else "threads are busy"
    at_work = min(len(begun), threads)  # of some that have begun, the response may be on its way
    busy = f"{at_work} of {threads} {what}" if threads else "there is no worker"
    parts = [f"{pool.name}: {busy}"]
    longer = 0 if pool.has_loops else _busy_threads(pool) - at_work
    if longer > 0:
        parts[0] += f", and {longer} after their response (in a WebSocket or a close())"
    if waiting:
        seconds = max(0, now_ns - min(waiting)) / 1e9
        requests = _count(len(waiting), "request waits", "requests wait")
        parts.append(f"{requests}, the longest for {seconds:.1f} s")
    for setting, number in refused.items():
        parts.append(f"{_count(number, 'request', 'requests')} got a 503 ({setting})")
    more = "A larger limit_concurrency, or more workers," if pool.has_loops else "More threads or workers"
    if pool.concurrency_limit is not None:
        parts.append(f"more than {pool.concurrency_limit} at once would only make each other slower")
        more = "More processors, with workers for them,"
    return f"{'; '.join(parts)}.{_longest(begun, now_ns)} {more} may help."


def _busy_threads(pool: Pool) -> int:
    """As they say it themselves: also those whose handlers have more to do than to respond."""
    return sum(row.is_busy for worker in pool.workers for row in worker.thread_rows)


def _longest(begun: list[tuple[int, object]], now_ns: int) -> str:
    """(Tasks that are no requests are records for the access log, and those whose client has
    disconnected.)"""
    requests = [(at, owner) for at, owner in begun if isinstance(owner, Exchange)]
    if not requests:
        return ""
    at, exchange = min(requests, key=lambda one: one[0])
    seconds = max(0, now_ns - at) / 1e9  # it may have begun after the turn, whose time this is
    return f" The longest running: {exchange.named} for {seconds:.1f} s."


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
