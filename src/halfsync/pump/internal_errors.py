"""What should not be: logged with its traceback, and survived."""

from __future__ import annotations

import time

from halfsync.logs.error import log

REPEAT_AFTER = 1.0
"""Seconds until the same text is logged again: what fails in every turn would fill the disk."""
MAX_TEXTS = 100


class InternalErrors:
    def __init__(self) -> None:
        self._logged: dict[str, tuple[float, int]] = {}  # text -> when it was logged, how often since

    def report(self, text: str) -> None:
        """Log it; the same text once a second at most, then with how often it was left out."""
        now = time.monotonic()
        logged, omitted = self._logged.get(text, (-REPEAT_AFTER, 0))
        if now - logged < REPEAT_AFTER:
            self._logged[text] = (logged, omitted + 1)
            return
        if len(self._logged) > MAX_TEXTS:
            self._logged.clear()
        self._logged[text] = (now, 0)
        log("error", f"(the following, {omitted} times more)\n{text}" if omitted else text)
