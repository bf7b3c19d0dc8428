"""How long to wait before a dead child is replaced.

At once, as a rule. Only what dies at the start, again and again, is tried more and more slowly;
what had been ready is tried at least every second, because while nothing runs nothing is served.
"""

from __future__ import annotations

import math

DELAYS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)

LONGEST_WHEN_READY = 1.0

SOON = 1.0
"""Seconds after its start within which an end is an early one."""


class Backoff:
    """The early ends of one kind of child."""

    def __init__(self) -> None:
        self.early_ends = 0
        self.until = 0.0

    def ended(self, now: float, lived: float, was_ready: bool) -> float:
        """A child ended without a request of ours. Gives the seconds until the next one may start."""
        if was_ready and lived > SOON:
            self.early_ends = 0
            self.until = now
            return 0.0
        delay = DELAYS[min(self.early_ends, len(DELAYS) - 1)]
        if was_ready:
            delay = min(delay, LONGEST_WHEN_READY)
        self.early_ends += 1
        self.until = now + delay
        return delay

    def stop(self) -> None:
        """No other start until `reset`."""
        self.until = math.inf

    @property
    def is_stopped(self) -> bool:
        return self.until == math.inf

    def reset(self) -> None:
        """Start over: the next may start now."""
        self.early_ends = 0
        self.until = 0.0


def in_seconds(delay: float) -> str:
    return f"in {delay:g} s" if delay else "at once"
