"""What has happened since the server's start, counted where it happens, in the scoreboard's memory.

What is shown is that and what the versions before an upgrade have counted (see parent/status/counted.py).

So it outlives the pump: the next one counts on. A request that a lease answers costs two additions of small
integers; all else is counted once a packet of responses, once an exchange that took the general road, or once
a connection. (To add to a word in shared memory takes about 90 ns, to an attribute 30.)
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, TypeVar

from halfsync.scoreboard.scoreboard import CLOSES, REASONS, SAMPLE_WORDS, SAMPLES, STATUSES, TIMES

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

CLOSED_FOR = STATUS + STATUSES  # connections by why they were closed: the number of a CloseReason

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
    """`words`: this version's own, to be added to."""

    def __init__(self, words: memoryview, before: memoryview | None = None) -> None:
        """Scoreboard.counts and counts_before."""
        self.words = words
        self._before = _nothing(words) if before is None else before

    def total(self, word: int) -> int:
        return int(self.words[word] + self._before[word])

    def _totals(self, first: int, count: int) -> list[int]:
        return _sums(self.words[first : first + count], self._before[first : first + count])

    def refused(self, status: int, reason: str) -> None:
        """`reason`: one of REFUSALS; "": what the status says."""
        self.words[REFUSED + _INDICES.get(reason or _BY_STATUS.get(status, ""), 0)] += 1

    @property
    def requests(self) -> int:
        return self.total(LEASE_HITS) + sum(self._totals(STATUS, STATUSES))

    @property
    def statuses(self) -> dict[int, int]:
        return _found(range(STATUSES), self._totals(STATUS, STATUSES))

    @property
    def closes(self) -> dict[int, int]:
        """Connections that were closed, by the number of the CloseReason."""
        return _found(range(CLOSES), self._totals(CLOSED_FOR, CLOSES))

    @property
    def refusals(self) -> dict[str, int]:
        return _found(REFUSALS, self._totals(REFUSED, len(REFUSALS)))


class PoolCounts:
    """`words`: this version's own, to be added to."""

    def __init__(self, words: memoryview, before: memoryview | None = None) -> None:
        """Scoreboard.pool and pool_before."""
        self.words = words
        self._before = _nothing(words) if before is None else before

    def refuse(self, reason: str) -> None:
        self.words[POOL_REFUSED + _INDICES.get(reason, 0)] += 1

    @property
    def refused(self) -> dict[str, int]:
        end = POOL_REFUSED + len(REFUSALS)
        return _found(REFUSALS, _sums(self.words[POOL_REFUSED:end], self._before[POOL_REFUSED:end]))

    @property
    def times(self) -> list[int]:
        """This version's own."""
        return self.words[:TIMES].tolist()

    @property
    def all_times(self) -> list[int]:
        return _sums(self.words[:TIMES], self._before[:TIMES])

    @property
    def total_ns(self) -> int:
        """Of all those times together."""
        return (self.words[TOTAL_NS] + self._before[TOTAL_NS]) & WORD


def _nothing(words: memoryview) -> memoryview:
    return memoryview(bytes(words.nbytes)).cast("Q")


def _sums(own: memoryview, before: memoryview) -> list[int]:
    return [one + other for one, other in zip(own, before, strict=True)]


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

    def __init__(self, words: memoryview, before: memoryview | None = None) -> None:
        """Scoreboard.history and history_before."""
        self._words = words
        self._before = _nothing(words) if before is None else before
        self._sweeps = 0

    def sweep(self, counts: Counts, pools: list[PoolCounts], now: float) -> None:
        """`now`: monotonic."""
        if self._sweeps % EVERY == 0:
            times = [sum(column) for column in zip(*(pool.all_times for pool in pools), strict=True)]
            self.add([int(now * 1e9), counts.requests, counts.total(BYTES_SENT), *times])
        self._sweeps += 1

    def add(self, sample: list[int]) -> None:
        """Monotonic nanoseconds, and as Sample has it. It is there when the number of samples says so."""
        count = self._words[0]
        first = 1 + SAMPLE_WORDS * (count % SAMPLES)
        for place, number in enumerate(sample):
            self._words[first + place] = number
        self._words[0] = count + 1

    @property
    def samples(self) -> list[Sample]:
        """The oldest first."""
        own = _samples_in(self._words)
        before = [one for one in _samples_in(self._before) if not own or one.at < own[0].at]
        return [*before, *own][-SAMPLES:]

    def points(self) -> list[Point]:
        return [_between(before, after) for before, after in pairwise(self.samples)]


def _samples_in(words: memoryview) -> list[Sample]:
    count = words[0]
    return [_sample(words, number % SAMPLES) for number in range(max(0, count - SAMPLES), count)]


def _sample(words: memoryview, place: int) -> Sample:
    first = 1 + SAMPLE_WORDS * place
    at_ns, requests, sent, *times = words[first : first + SAMPLE_WORDS]
    return Sample(at_ns / 1e9, requests, sent, tuple(times))


def _between(before: Sample, after: Sample) -> Point:
    seconds = max(after.at - before.at, 0.001)
    # Fewer than before: at an upgrade, to a configuration that does not have one of the pools any more.
    times = [max(0, new - old) for old, new in zip(before.times, after.times, strict=True)]
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
