"""The fast path of a handler, on routes that have rules for headers or error pages. It costs other routes
nothing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from halfsync.http.error_pages import ErrorPages
from halfsync.http.header_rules import HeaderRules
from halfsync.http.response import Head, SmallReply
from halfsync.worker.bodies import TaskReplier, TaskResponder
from halfsync.worker.outbox import Outbox

MAX_HEADS = 512
"""Heads that are remembered with what the rules make of them: an application's are mostly the same few."""


class RuledReplies:
    """See SmallReplies."""

    def __init__(self, outbox: Outbox, rules: HeaderRules) -> None:
        self._outbox = outbox
        self._rules = rules
        self._heads: dict[int, tuple[Head, Head]] = {}  # by identity, which costs less than by content

    def whole(self, number: int, head: Head, body: bytes, began: int) -> int:
        return self._outbox.whole(number, self._ruled(head), body, began)

    def put_small(self, reply: SmallReply) -> None:
        head, number, body, handler_ns = reply
        self._outbox.put_small((self._ruled(head), number, body, handler_ns))

    def _ruled(self, head: Head) -> Head:
        found = self._heads.get(id(head))
        if found is None or found[0] is not head:
            found = head, msgspec.structs.replace(head, fields=self._rules.apply(head.fields))
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[id(head)] = found
        return found[1]


class RuledResponder:
    """See Responder. Made for each request."""

    __slots__ = ("_pages", "_responder", "_rules", "outbox", "put_small", "sent")

    def __init__(
        self,
        responder: TaskResponder,
        outbox: Outbox | RuledReplies,
        rules: HeaderRules | None,
        pages: ErrorPages | None,
    ) -> None:
        self._responder = responder
        self._rules = rules
        self._pages = pages
        self.outbox = outbox
        self.sent = 0
        self.put_small = outbox.put_small

    def replier(self, number: int, began: int) -> TaskReplier:
        return self._responder.replier(number, began, self._rules, self._pages)


def ruled(
    quick: Callable[..., int], outbox: Outbox, rules: HeaderRules | None, pages: ErrorPages | None
) -> Callable[..., int]:
    """`quick` (see worker.threads.Quick), such that what it responds is as the route wants it."""
    replies = outbox if rules is None else RuledReplies(outbox, rules)

    def quick_by_rules(task: object, began: int, responder: TaskResponder) -> int:
        its_own = RuledResponder(responder, replies, rules, pages)
        ended = quick(task, began, its_own)
        responder.sent += its_own.sent
        return ended

    return quick_by_rules
