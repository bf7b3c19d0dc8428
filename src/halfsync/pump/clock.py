"""The pump's times, taken once a turn of the loop, and what is derived from them once a second."""

from __future__ import annotations

import time
from email.utils import formatdate


class Clock:
    """`tick` once a turn. `now` is monotonic and measures; `wall` is what the log shows."""

    __slots__ = ("date_line", "next_second", "now", "wall")

    def __init__(self) -> None:
        self.next_second = 0.0  # monotonic: when `date_line` is out of date
        self.tick()

    def tick(self) -> bool:
        """Take the time; whether a new second of the day began (and `date_line` is another)."""
        self.now = now = time.monotonic()
        self.wall = wall = time.time()
        if now < self.next_second:
            return False
        self.next_second = now + 1.0 - wall % 1.0
        self.date_line = b"Date: " + formatdate(wall, usegmt=True).encode() + b"\r\n"
        return True
