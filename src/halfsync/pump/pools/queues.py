"""Queues of requests that wait for the workers of a pool.

Where one route leads to a pool, its queue is a `Queue`: first come, first served. Where several do, or where
some paths are known to take long (costs.py), six hundred requests for large files would delay the next
request for anything else by all of them. Such a pool has a `FairQueue`: for each route, and in it for paths
that take about as long, a line of requests in their order; and of the lines one request each in turn.

While a pool is overloaded (overload.py), a line gives the newest request first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from halfsync.pump.connection import Exchange
from halfsync.pump.pools.costs import Costs
from halfsync.pump.states import QUEUED

Line = tuple[int, int]
"""A route's index, and the class of a path's cost."""


class Queue(deque[Exchange]):
    """In the order of their `queued_ns`."""

    def oldest(self) -> Exchange | None:
        return self[0] if self else None

    def heads(self) -> list[Exchange]:
        """The one that waits longest, of those that have a client."""
        found = next((one for one in self if one.state is QUEUED), None)
        return [] if found is None else [found]

    def drop_oldest(self) -> None:
        del self[0]

    def take_surplus(self, most: int) -> list[Exchange]:
        """Take off the oldest, so that no more than `most` stay."""
        found = [*islice(self, max(0, len(self) - most))]
        for _ in found:
            del self[0]
        return found

    def put_back(self, exchange: Exchange) -> None:
        """To the place that it had, which is most likely the front."""
        at = 0
        while at < len(self) and self[at].queued_ns < exchange.queued_ns:
            at += 1
        self.insert(at, exchange)

    def put_in(self, exchange: Exchange) -> None:
        """To the place that its age gives it, which is most likely the end."""
        at = len(self)
        while at and self[at - 1].queued_ns > exchange.queued_ns:
            at -= 1
        self.insert(at, exchange)


class NewestFirst(Queue):
    """In the same order, and `popleft` gives the newest."""

    def popleft(self) -> Exchange:
        return self.pop()

    def appendleft(self, exchange: Exchange) -> None:
        """What was just taken."""
        self.append(exchange)


class FairQueue:
    """As much of a deque as is needed. `popleft` gives the request that is next in turn.

    `newest_first`: of the lines of those routes that have a `queue_target`."""

    def __init__(self, costs: Costs, *, newest_first: bool = False) -> None:
        self._costs = costs
        self._newest_first = newest_first
        self._lines: dict[Line, Queue] = {}  # none is empty, and the next in turn is the first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Exchange]:
        """In no order."""
        for queue in self._lines.values():
            yield from queue

    def append(self, exchange: Exchange) -> None:
        self._queue_of(exchange).append(exchange)
        self._size += 1

    def popleft(self) -> Exchange:
        while True:
            line = next(iter(self._lines))
            queue = self._lines.pop(line)
            exchange = self._take_from(queue, line)
            if queue:
                self._lines[line] = queue  # its next turn comes after all others'
            if exchange is not None:
                self._size -= 1
                self._costs.begins(exchange)
                return exchange

    def _take_from(self, queue: Queue, line: Line) -> Exchange | None:
        """The first of a line. Those of whose paths it is known by now that they take longer go over to the
        line that they should have been in."""
        route, cost = line
        while queue:
            exchange = queue.popleft()
            if (known := self._costs.of(exchange)) <= cost:
                return exchange
            exchange.line = (route, known)
            self._queue_of(exchange).put_in(exchange)
        return None

    def appendleft(self, exchange: Exchange) -> None:
        """What was just taken is the next in turn again."""
        queue = self._queue_of(exchange)
        queue.appendleft(exchange)
        line = self._line_of(exchange)
        del self._lines[line]
        self._lines = {line: queue, **self._lines}
        self._size += 1

    def put_back(self, exchange: Exchange) -> None:
        """To the place that it had among its line's."""
        self._queue_of(exchange).put_back(exchange)
        self._size += 1

    def oldest(self) -> Exchange | None:
        """The one that waits longest, whoever is next in turn."""
        heads = (queue[0] for queue in self._lines.values())
        return min(heads, key=lambda one: one.queued_ns, default=None)

    def heads(self) -> list[Exchange]:
        """Of each line the one that waits longest, of those that have a client."""
        return [one for queue in self._lines.values() for one in queue.heads()]

    def drop_oldest(self) -> None:
        if (oldest := self.oldest()) is not None:
            self.remove(oldest)

    def take_surplus(self, most: int) -> list[Exchange]:
        """Take off the oldest of the longest line, until no more than `most` stay in the lines that give the
        newest first."""
        lines = [queue for queue in self._lines.values() if isinstance(queue, NewestFirst)]
        found: list[Exchange] = []
        for _ in range(sum(map(len, lines)) - most):
            longest = max(lines, key=len)
            found += longest.take_surplus(len(longest) - 1)
        self._lines = {line: queue for line, queue in self._lines.items() if queue}
        self._size -= len(found)
        return found

    def remove(self, exchange: Exchange) -> None:
        """Raises ValueError if it is not in the queue."""
        line = self._line_of(exchange)
        queue = self._lines.get(line, Queue())
        queue.remove(exchange)
        if not queue:
            del self._lines[line]
        self._size -= 1

    def clear(self) -> None:
        self._lines.clear()
        self._size = 0

    def extend(self, exchanges: Iterable[Exchange]) -> None:
        for exchange in exchanges:
            self.append(exchange)

    def _line_of(self, exchange: Exchange) -> Line:
        """The one that it is in, or belongs to as far as is known."""
        line = exchange.line
        if line is None:
            assert exchange.route is not None
            exchange.line = line = (exchange.route.index, self._costs.of(exchange))
        return line

    def _queue_of(self, exchange: Exchange) -> Queue:
        line = self._line_of(exchange)
        queue = self._lines.get(line)
        if queue is None:
            queue = self._lines[line] = self._new_line(exchange)
        return queue

    def _new_line(self, exchange: Exchange) -> Queue:
        assert exchange.route is not None
        return NewestFirst() if self._newest_first and exchange.route.limits.queue_target else Queue()
