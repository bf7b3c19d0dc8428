"""What OpenTelemetry says through Python's logging is said in the error log.

Imported only where there are traces: to import `logging` takes 3 % of the time of a start.
"""

from __future__ import annotations

import logging
import time

from halfsync.logs.error import log

SAY_EVERY = 30.0
"""Seconds between two lines of the error log that say the same of a collector."""


class _Teller(logging.Handler):
    """OpenTelemetry says what fails through Python's logging."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._said.get(record.msg, -SAY_EVERY) < SAY_EVERY:
            return
        self._said[record.msg] = now
        log("warning", f"Traces: {record.getMessage():.500}")


def tell_of(name: str) -> None:
    logger = logging.getLogger(name)
    logger.handlers = [_Teller()]
    logger.propagate = False
