"""`max_requests`: a worker that has served so many tells the parent, which replaces it without loss.

Only with that setting is a handler wrapped, so that it costs nothing without. The worker goes on until its
successor is ready, so it may well serve some more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count

from halfsync.http.request import RequestBody
from halfsync.http.response import Replier, Responder
from halfsync.wire.messages import Task

Handler = Callable[[Task, RequestBody | None, Replier], None]
Quick = Callable[[Task, int, Responder], int]


class RequestCount:
    """Of one worker process. `tell` is called, with the number, when it is reached; it says whether that
    was sent, and is called again at the next request if not."""

    def __init__(self, max_requests: int, jitter: int, tell: Callable[[int], bool]) -> None:
        # Not the application's generator: that may have been seeded, and forked workers share its state.
        self._limit = max_requests + random.SystemRandom().randint(0, jitter)
        self._tell = tell
        self._told = False
        self._request_count = count(1)  # its `next` is one step, also for several threads

    def one_more(self) -> None:
        request_count = next(self._request_count)
        if request_count >= self._limit and not self._told:
            self._told = self._tell(request_count)

    def counted(self, handler: Handler) -> Handler:
        """The same handler; each call counts, however it ends."""
        return _Counted(handler, self.one_more)


class _Counted:
    def __init__(self, handler: Handler, one_more: Callable[[], None]) -> None:
        self._handler = handler
        self._one_more = one_more
        self._quick: Quick | None = getattr(handler, "quick", None)
        self.quick = self._count_quick if self._quick is not None else None

    def __call__(self, task: Task, spool: RequestBody | None, replier: Replier) -> None:
        try:
            self._handler(task, spool, replier)
        finally:
            self._one_more()

    def _count_quick(self, task: Task, began: int, responder: Responder) -> int:
        assert self._quick is not None
        try:
            return self._quick(task, began, responder)
        finally:
            self._one_more()
