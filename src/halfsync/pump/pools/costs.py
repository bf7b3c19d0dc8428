"""Which paths take a thread for long: so that what is quick need not wait behind all of them.

A page that takes a millisecond, and a download of 30 MiB that takes a thread for 40 (it is written to a
temporary file), may be the same application's. So a path of whose requests a good part took long lately is
known here, with a class: less than 8 ms, less than 32, 128, and so on. The queue serves the classes in turn.

Paths that are requested once each (/export/17, /export/18, ...) are known by their kind: the path with `*`
for each segment that has a digit, or for its last segment if there is none. A path that has not been
requested lately counts as its kind does, if several paths of that kind took long, and they were a good part
of it. Its own record, which it has from then on, counts more; so a quick page beside slow ones is taken for
one of them once, and not again.

It is learnt from responses that are not on the fast path, which large ones never are, and from looks at the
scoreboard, which find what runs just now; so it costs quick requests nothing, as long as no path is known.
"""

from __future__ import annotations

import re

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
"""Paths that are known of one pool, and as many kinds. If there are more, the first ones are forgotten."""
ALIKE = 3
"""Paths of a kind that have to take long before others of it count as slow."""

_digit = re.compile(rb"[0-9]").search
"""No pattern for a whole segment: on a long one without a digit that would try each place with each end."""


class _Known:
    __slots__ = ("begun", "cost", "long", "until")

    def __init__(self, until: float = 0.0) -> None:
        self.cost = 0  # the class
        self.until = until
        self.begun = 0  # requests, lately; of a kind: paths that were new
        self.long = 0  # and how many of them took long

    @property
    def is_slow(self) -> bool:
        return self.long * PART >= self.begun

    def count(self) -> None:
        self.begun += 1
        if self.begun >= COUNTED:
            self.begun //= 2
            self.long //= 2

    def took(self, cost: int, now: float) -> None:
        if cost >= self.cost:
            self.cost = cost
            self.until = now + REMEMBERED


class Costs:
    def __init__(self) -> None:
        self._paths: dict[bytes, _Known] = {}
        self._kinds: dict[bytes, _Known] = {}
        self._has_slow_kinds = False  # if not, no path's kind is worth a look, which costs 1 µs

    def __bool__(self) -> bool:
        """Whether any path is known."""
        return bool(self._paths)

    def note(self, exchange: Exchange, handler_ns: int, now: float) -> None:
        """Its handler took so long, or takes it: LONG_NS at least."""
        path = _path(exchange)
        cost = class_of(handler_ns)
        known = self._paths.get(path)
        if known is None:
            known = _add(self._paths, path, _Known())
            known.begun = 1
            self._of_kind(path).count()
        if not exchange.cost:
            if not known.long:
                kind = self._of_kind(path)
                kind.long += 1
                self._has_slow_kinds = self._has_slow_kinds or kind.long >= ALIKE
            known.long += 1
        exchange.cost = cost
        known.took(cost, now)
        self._of_kind(path).took(cost, now)

    def of(self, exchange: Exchange) -> int:
        """The class of its path; 0: quick, as far as is known."""
        if not self._paths:
            return 0
        path = _path(exchange)
        known = self._paths.get(path)
        if known is None:
            known = self._kinds.get(kind_of(path)) if self._has_slow_kinds else None
            if known is None or known.long < ALIKE:
                return 0
        return known.cost if known.is_slow else 0

    def begins(self, exchange: Exchange) -> None:
        """It leaves the queue for a worker."""
        if not self._paths:
            return
        path = _path(exchange)
        known = self._paths.get(path)
        if known is None:
            kind = self._kinds.get(kind_of(path)) if self._has_slow_kinds else None
            if kind is None:
                return
            kind.count()
            known = _add(self._paths, path, _Known(kind.until))
        known.count()

    def sweep(self, now: float) -> None:
        """Forget what has not been so slow lately."""
        for table in (self._paths, self._kinds):
            for path in [path for path, known in table.items() if known.until <= now]:
                del table[path]
        self._has_slow_kinds = any(kind.long >= ALIKE for kind in self._kinds.values())

    def _of_kind(self, path: bytes) -> _Known:
        kind = kind_of(path)
        return self._kinds.get(kind) or _add(self._kinds, kind, _Known())


def _add(table: dict[bytes, _Known], path: bytes, known: _Known) -> _Known:
    table[path] = known
    if len(table) > MOST:
        del table[next(iter(table))]
    return known


def class_of(handler_ns: int) -> int:
    """0 for less than 8 ms, 1 for less than 32, 2 for less than 128, ..."""
    return ((handler_ns // LONG_NS).bit_length() + 1) // 2


def kind_of(path: bytes) -> bytes:
    """/export/17/all as /export/*/all, and /export/all as /export/*."""
    if not _digit(path):
        return path[: path.rfind(b"/") + 1] + b"*"
    return b"/".join([b"*" if _digit(segment) else segment for segment in path.split(b"/")])


def _path(exchange: Exchange) -> bytes:
    return exchange.head.target.partition(b"?")[0]
