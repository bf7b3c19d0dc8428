"""`max_requests`: a worker that has served so many tells the parent, which replaces it without loss.

Only with that setting is a handler wrapped, so that it costs nothing without. The worker goes on until its
successor is ready, so it may well serve some more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

from halfsync.request import SpooledBody
from halfsync.response import Replier
from halfsync.wire.messages import Task

Handler = Callable[[Task, SpooledBody | None, Replier], None]


class RequestCount:
    """Of one worker process. `tell` is called, with the number, when it is reached; it says whether that
    was sent, and is called again at the next request if not."""

    def __init__(self, max_requests: int, jitter: int, tell: Callable[[int], bool]) -> None:
        # Not the application's generator: that may have been seeded, and forked workers share its state.
        self._limit = max_requests + random.SystemRandom().randint(0, jitter)
        self._tell = tell
        self._told = False
        self._served = count(1)  # its `next` is one step, also for several threads

    def one_more(self) -> None:
        served = next(self._served)
        if served >= self._limit and not self._told:
            self._told = self._tell(served)

    def counted(self, handler: Handler) -> Handler:
        """The same handler; each call counts, however it ends."""

        def handle(task: Task, spool: SpooledBody | None, replier: Replier) -> None:
            try:
                handler(task, spool, replier)
            finally:
                self.one_more()

        return handle
