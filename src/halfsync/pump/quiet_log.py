"""A line of the log about what anybody may bring about: at most one a second, and how many were left out.

Each kind of line has one of these, so that one kind does not silence another.
"""

from __future__ import annotations

from halfsync.logs.error import log

QUIET = 1.0
"""Seconds between two lines: whoever is refused may come again at once, and the log is to stay readable."""


class QuietLog:
    def __init__(self, verb: str = "") -> None:
        """`verb`: what happened to those that were left out, such as "were refused "."""
        self._verb = verb
        self._quiet_until = float("-inf")
        self._omitted = 0

    def say(self, level: str, text: str, now: float) -> None:
        """`text` is a sentence; `now` is monotonic."""
        if now < self._quiet_until:
            self._omitted += 1
            return
        more = f" ({self._omitted} more {self._verb}since the last such line.)" if self._omitted else ""
        log(level, text + more)
        self._quiet_until, self._omitted = now + QUIET, 0
