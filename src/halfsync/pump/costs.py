"""Which paths take a thread for long: so that what is quick need not wait behind all of them.

A page that takes a millisecond, and a download of 30 MiB that takes a thread for 40 (it is written to a
temporary file), may be the same application's. So a path of whose requests a good part took long lately is
known here, with a class: less than 8 ms, less than 32, 128, and so on. The queue serves the classes in turn.

It is learnt from responses that are not on the fast path, which large ones never are, and from looks at the
scoreboard, which find what runs just now; so it costs quick requests nothing, as long as no path is known.
"""

from __future__ import annotations

from halfsync.pump.connection import Exchange

LONG_NS = 1 << 23
"""Nanoseconds (8 ms) from which on it counts."""
REMEMBERED = 60.0
"""Seconds for which a path keeps its class, after the last time that it took as long."""
PART = 4
"""One of so many of its requests has to take long: on a busy machine any request does now and then."""
COUNTED = 64
"""Requests for a path after which the counts are halved, so that the latest count most."""
MOST = 1024
"""Paths that are known of one pool. If there are more, what was known first is forgotten."""


class _Known:
    __slots__ = ("begun", "cost", "long", "until")

    def __init__(self) -> None:
        self.cost = 0  # the class
        self.until = 0.0
        self.begun = 1  # requests, lately
        self.long = 0  # and how many of them took long


class Costs:
    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}  # by path

    def __bool__(self) -> bool:
        """Whether any path is known."""
        return bool(self._known)

    def note(self, exchange: Exchange, handler_ns: int, now: float) -> None:
        """Its handler took so long, or takes it: LONG_NS at least."""
        path = _path(exchange)
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = _Known()
            if len(self._known) > MOST:
                del self._known[next(iter(self._known))]
        if not exchange.took_long:
            exchange.took_long = True
            known.long += 1
        if (cost := class_of(handler_ns)) >= known.cost:
            known.cost = cost
            known.until = now + REMEMBERED

    def of(self, exchange: Exchange) -> int:
        """The class of its path; 0: quick, as far as is known."""
        known = self._known.get(_path(exchange)) if self._known else None
        return known.cost if known is not None and known.long * PART >= known.begun else 0

    def begins(self, exchange: Exchange) -> None:
        """It leaves the queue for a worker."""
        known = self._known.get(_path(exchange)) if self._known else None
        if known is not None:
            known.begun += 1
            if known.begun >= COUNTED:
                known.begun //= 2
                known.long //= 2

    def sweep(self, now: float) -> None:
        """Forget what has not been so slow lately."""
        for path in [path for path, known in self._known.items() if known.until <= now]:
            del self._known[path]


def class_of(handler_ns: int) -> int:
    """0 for less than 8 ms, 1 for less than 32, 2 for less than 128, ..."""
    return ((handler_ns // LONG_NS).bit_length() + 1) // 2


def _path(exchange: Exchange) -> bytes:
    return exchange.head.target.partition(b"?")[0]
