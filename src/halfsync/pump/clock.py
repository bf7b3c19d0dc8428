"""The pump's times, taken once a turn of the loop, and what is derived from them once a second."""

from __future__ import annotations

import time

from halfsync.wire.dates import http_date


class Clock:
    """`tick` once a turn. `now` is monotonic and measures (`now_ns` is the same in nanoseconds);
    `wall` is what the log shows: where the system's clock was at the beginning of this second, and what has
    passed since (so a clock that is set is noticed within a second)."""

    __slots__ = ("_ahead", "date_end", "date_line", "newest_ns", "next_second", "now", "now_ns", "wall")

    def __init__(self) -> None:
        self.newest_ns = 0  # what `next_ns` gave last
        self._ahead = 0.0  # of the monotonic clock, the other
        self.next_second = 0.0  # monotonic: when `date_line` is out of date
        self.tick()

    def tick(self) -> bool:
        """Take the time; whether a new second of the day began (and `date_line` is another)."""
        self.now_ns = now_ns = time.monotonic_ns()
        self.now = now = now_ns / 1e9
        if self.newest_ns < now_ns:
            self.newest_ns = now_ns - 1
        if now < self.next_second:
            self.wall = now + self._ahead
            return False
        self.wall = wall = time.time()
        self._ahead = wall - now
        self.next_second = now + 1.0 - wall % 1.0
        self.date_line = b"Date: " + http_date(wall).encode() + b"\r\n"
        self.date_end = self.date_line + b"\r\n"  # the last line of most heads
        return True

    def next_ns(self) -> int:
        """`now_ns`, for a request that is queued now; later by as much as makes it later than all that were
        given before, so it is the request's place in the queue too. (`Dispatcher.take_in` does it itself.)"""
        self.newest_ns += 1
        return self.newest_ns
