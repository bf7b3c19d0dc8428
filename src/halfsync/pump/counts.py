"""What has happened since the server's start, counted where it happens, in the scoreboard's memory.

So it outlives the pump: the next one counts on. A request that a lease answers costs two additions of small
integers; all else is counted once a packet of responses, once an exchange that took the general road, or once
a connection. (To add to a word in shared memory takes about 90 ns, to an attribute 30.)
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, TypeVar

from halfsync.scoreboard import REASONS, SAMPLE_WORDS, SAMPLES, STATUSES, TIMES

EVERY = 10
"""Sweeps from one sample to the next: 5 seconds."""

# Words of Scoreboard.counts:
LEASE_HITS = 0  # on the hot path; what a lease answers on the general road has a status below
BYTES_SENT = 1  # to clients, without what TLS adds
CONNECTIONS_ACCEPTED = 2  # connections
CONNECTIONS_CLOSED = 3
LEASE_SLOW_HITS = 4  # on the general road
LEASE_MISSES = 5  # responses of workers that made a lease, or renewed it
REFUSED = 16
STATUS = REFUSED + REASONS  # of all other responses; 0: the connection ended before one

# Words of Scoreboard.pool, behind TIMES classes of handlers' times:
TOTAL_NS = TIMES
POOL_REFUSED = TIMES + 1

WORD = 2**64 - 1
"""The largest number that a word holds."""

REFUSALS: tuple[str, ...] = (
    "other",
    # settings
    "allow", "client_rate", "client_connections", "queue_limit", "queue_timeout", "handler_timeout",
    "head_timeout", "body_timeout", "min_rate", "limit_request_body", "limit_request_line",
    "limit_request_head", "spool_limit", "descriptors",
    # what was wrong with the request, or here
    "malformed", "not_found", "method", "not_implemented", "misdirected", "https_only", "worker_died",
    "no_response", "overload",
    "queue_target",
)  # fmt: skip
"""Why requests are refused. The order counts: new ones come last."""

_INDICES = {reason: index for index, reason in enumerate(REFUSALS)}
_BY_STATUS = {
    400: "malformed", 403: "allow", 404: "not_found", 405: "method", 408: "body_timeout",
    413: "limit_request_body", 414: "limit_request_line", 417: "not_implemented", 421: "misdirected",
    429: "client_rate", 431: "limit_request_head", 501: "not_implemented", 502: "worker_died",
    503: "overload", 504: "handler_timeout", 505: "not_implemented", 507: "spool_limit",
}  # fmt: skip

Key = TypeVar("Key")


class Counts:
    def __init__(self, words: memoryview) -> None:
        """`words`: Scoreboard.counts."""
        self.words = words

    def refused(self, status: int, reason: str) -> None:
        """`reason`: one of REFUSALS; "": what the status says."""
        self.words[REFUSED + _INDICES.get(reason or _BY_STATUS.get(status, ""), 0)] += 1

    @property
    def requests(self) -> int:
        return self.words[LEASE_HITS] + sum(self.words[STATUS : STATUS + STATUSES])

    @property
    def statuses(self) -> dict[int, int]:
        return _found(range(STATUSES), self.words[STATUS : STATUS + STATUSES])

    @property
    def refusals(self) -> dict[str, int]:
        return _found(REFUSALS, self.words[REFUSED : REFUSED + len(REFUSALS)])


class PoolCounts:
    def __init__(self, words: memoryview) -> None:
        """`words`: Scoreboard.pool."""
        self.words = words

    def refuse(self, reason: str) -> None:
        self.words[POOL_REFUSED + _INDICES.get(reason, 0)] += 1

    @property
    def refused(self) -> dict[str, int]:
        return _found(REFUSALS, self.words[POOL_REFUSED : POOL_REFUSED + len(REFUSALS)])

    @property
    def times(self) -> list[int]:
        return self.words[:TIMES].tolist()


def _found(keys: Iterable[Key], counts: Iterable[int]) -> dict[Key, int]:
    return {key: count for key, count in zip(keys, counts, strict=True) if count}


class Sample(NamedTuple):
    """How far the counts were at a moment."""

    at: float  # monotonic
    requests: int
    bytes_sent: int
    times: tuple[int, ...]  # of handlers, by class


class Point(NamedTuple):
    """What happened between two samples."""

    at: float  # monotonic: of the later one
    seconds: float  # between them
    requests: float  # a second
    bytes_sent: float  # a second
    median: float  # of handlers' times, in seconds
    p90: float
    p99: float


class History:
    """The last quarter of an hour: a ring of samples, and before it how many there have been."""

    def __init__(self, words: memoryview) -> None:
        """`words`: Scoreboard.history."""
        self._words = words
        self._sweeps = 0

    def sweep(self, counts: Counts, pools: list[PoolCounts], now: float) -> None:
        """`now`: monotonic."""
        if self._sweeps % EVERY == 0:
            times = [sum(column) for column in zip(*(pool.times for pool in pools), strict=True)]
            self._add([int(now * 1e9), counts.requests, counts.words[BYTES_SENT], *times])
        self._sweeps += 1

    def _add(self, sample: list[int]) -> None:
        """It is there when the number of samples says so."""
        count = self._words[0]
        first = 1 + SAMPLE_WORDS * (count % SAMPLES)
        for place, number in enumerate(sample):
            self._words[first + place] = number
        self._words[0] = count + 1

    @property
    def samples(self) -> list[Sample]:
        """The oldest first."""
        count = self._words[0]
        return [self._sample(number % SAMPLES) for number in range(max(0, count - SAMPLES), count)]

    def _sample(self, place: int) -> Sample:
        first = 1 + SAMPLE_WORDS * place
        at_ns, requests, sent, *times = self._words[first : first + SAMPLE_WORDS]
        return Sample(at_ns / 1e9, requests, sent, tuple(times))

    def points(self) -> list[Point]:
        return [_between(before, after) for before, after in pairwise(self.samples)]


def _between(before: Sample, after: Sample) -> Point:
    seconds = max(after.at - before.at, 0.001)
    times = [new - old for old, new in zip(before.times, after.times, strict=True)]
    requests, sent = after.requests - before.requests, after.bytes_sent - before.bytes_sent
    median, p90, p99 = (quantile(times, part) for part in (0.5, 0.9, 0.99))
    return Point(after.at, seconds, requests / seconds, sent / seconds, median, p90, p99)


def quantile(times: list[int], part: float) -> float:
    """Seconds, as exactly as the classes allow: the middle of the class where that part of all is reached."""
    total, seen = sum(times), 0
    for bits, count in enumerate(times):
        seen += count
        if count and seen >= part * total:
            return 0.75 * 2.0**bits / 1e9
    return 0.0
