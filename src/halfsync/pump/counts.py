"""What has happened since the pump's start, counted where it happens.

A request that a lease answers costs two additions of small integers (25 ns); all else is counted once a
packet, once an exchange that took the general road, or once a connection.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from typing import NamedTuple

TIMES = 65
"""Classes of a handler's time: the class n has those of less than 2**n nanoseconds, and at least half."""
EVERY = 10
"""Sweeps from one sample to the next: 5 seconds."""
KEPT = 181
"""Samples: a quarter of an hour."""


class Counts:
    def __init__(self) -> None:
        # On the hot path; what a lease answers on the general road has a status below.
        self.lease_hits = 0
        self.statuses: Counter[int] = Counter()  # of all other responses; 0: the connection ended before one
        self.bytes_sent = 0  # to clients, without what TLS adds
        self.connections_closed = 0

    @property
    def requests(self) -> int:
        return self.lease_hits + self.statuses.total()


class Sample(NamedTuple):
    """How far the counts were at a moment."""

    at: float  # monotonic
    requests: int
    bytes_sent: int
    times: tuple[int, ...]  # of handlers, by class


class Point(NamedTuple):
    """What happened between two samples."""

    requests: float  # a second
    bytes_sent: float  # a second
    median: float  # of handlers' times, in seconds
    p99: float


class History:
    """The last quarter of an hour."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._sweeps = 0

    def sweep(self, counts: Counts, times: list[list[int]], now: float) -> None:
        """`times` are those of each pool."""
        if self._sweeps % EVERY == 0:
            summed = tuple(map(sum, zip(*times, strict=True)))
            self.samples.append(Sample(now, counts.requests, counts.bytes_sent, summed))
        self._sweeps += 1

    def points(self) -> list[Point]:
        return [_between(before, after) for before, after in pairwise(self.samples)]


def _between(before: Sample, after: Sample) -> Point:
    seconds = max(after.at - before.at, 0.001)
    times = [new - old for old, new in zip(before.times, after.times, strict=True)]
    requests, sent = after.requests - before.requests, after.bytes_sent - before.bytes_sent
    return Point(requests / seconds, sent / seconds, quantile(times, 0.5), quantile(times, 0.99))


def quantile(times: list[int], part: float) -> float:
    """Seconds, as exactly as the classes allow: the middle of the class where that part of all is reached."""
    total, seen = sum(times), 0
    for bits, count in enumerate(times):
        seen += count
        if count and seen >= part * total:
            return 0.75 * 2.0**bits / 1e9
    return 0.0
