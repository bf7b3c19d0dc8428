"""Queues of requests that wait for the workers of a pool.

Where one route leads to a pool, its queue is a `Queue`: first come, first served. Where several do, six
hundred requests for large files would delay the next request of every other route by all of them. Such a
pool has a `FairQueue`: each route's requests in their order, and of the routes one request each in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from halfsync.pump.connection import Exchange


class Queue(deque[Exchange]):
    """In the order of their `queued_ns`."""

    def oldest(self) -> Exchange | None:
        return self[0] if self else None

    def drop_oldest(self) -> None:
        self.popleft()

    def put_back(self, exchange: Exchange) -> None:
        """To the place that it had, which is most likely the front."""
        at = 0
        while at < len(self) and self[at].queued_ns < exchange.queued_ns:
            at += 1
        self.insert(at, exchange)


class FairQueue:
    """As much of a deque as is needed. `popleft` gives the request that is next in turn."""

    def __init__(self) -> None:
        self._lines: dict[int, Queue] = {}  # by route; none is empty, and the next in turn is the first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Exchange]:
        """In no order."""
        for line in self._lines.values():
            yield from line

    def append(self, exchange: Exchange) -> None:
        self._line_of(exchange).append(exchange)
        self._size += 1

    def popleft(self) -> Exchange:
        route = next(iter(self._lines))
        line = self._lines.pop(route)
        if len(line) > 1:
            self._lines[route] = line  # its next turn comes after all others'
        self._size -= 1
        return line.popleft()

    def appendleft(self, exchange: Exchange) -> None:
        """What was just taken is the next in turn again."""
        line = self._line_of(exchange)
        line.appendleft(exchange)
        route = _route(exchange)
        del self._lines[route]
        self._lines = {route: line, **self._lines}
        self._size += 1

    def put_back(self, exchange: Exchange) -> None:
        """To the place that it had among its route's."""
        self._line_of(exchange).put_back(exchange)
        self._size += 1

    def oldest(self) -> Exchange | None:
        """The one that waits longest, whoever is next in turn."""
        heads = (line[0] for line in self._lines.values())
        return min(heads, key=lambda one: one.queued_ns, default=None)

    def drop_oldest(self) -> None:
        if (oldest := self.oldest()) is not None:
            self.remove(oldest)

    def remove(self, exchange: Exchange) -> None:
        """Raises ValueError if it is not in the queue."""
        route = _route(exchange)
        line = self._lines.get(route, Queue())
        line.remove(exchange)
        if not line:
            del self._lines[route]
        self._size -= 1

    def clear(self) -> None:
        self._lines.clear()
        self._size = 0

    def extend(self, exchanges: Iterable[Exchange]) -> None:
        for exchange in exchanges:
            self.append(exchange)

    def _line_of(self, exchange: Exchange) -> Queue:
        route = _route(exchange)
        line = self._lines.get(route)
        if line is None:
            line = self._lines[route] = Queue()
        return line


def _route(exchange: Exchange) -> int:
    assert exchange.route is not None
    return exchange.route.index
