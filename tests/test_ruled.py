"""Rules for headers on the fast path of a handler."""

from __future__ import annotations

import socket
from typing import Any

from halfsync.http.header_rules import HeaderRule, HeaderRules
from halfsync.http.response import Head, head_of
from halfsync.wire.messages import Reply, decode_replies, one_by_one
from halfsync.worker.bodies import ResponseLimits
from halfsync.worker.outbox import Outbox
from halfsync.worker.ruled import MAX_HEADS, RuledReplies
from halfsync.worker.threads import Threads

RULES = HeaderRules([HeaderRule("X-Rule", ("yes",))])


class QuickHandler:
    def __call__(self, *_: Any) -> None:
        raise AssertionError("this is the slow way")

    def quick(self, *_: Any) -> int:
        raise AssertionError("not in this test")


def test_a_route_with_rules_has_the_fast_path():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        handlers = [QuickHandler(), QuickHandler()]
        threads = Threads(
            theirs, memoryview(b""), handlers, None, ResponseLimits(0, 0, "/tmp"), [None, RULES]
        )
        assert all(threads._quick)


def test_rules_are_applied_to_each_head_also_when_many_are_forgotten():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        outbox = Outbox(theirs)
        replies = RuledReplies(outbox, RULES)

        def respond(head: Head, how: int) -> bytes:
            if how:
                replies.whole(1, head, b"", 0)
            else:
                replies.put_small((head, 1, b"", 0))
            outbox.flush()
            [reply] = one_by_one(decode_replies(ours.recv(65536)))
            assert isinstance(reply, Reply)
            return reply.fields

        kept = head_of("200 OK", [("A", "kept")])
        for number in range(MAX_HEADS + 10):
            other = Head(200, "OK", b"A: %d\r\n" % number)
            assert respond(other, number % 3) == b"A: %d\r\nX-Rule: yes\r\n" % number
            assert respond(kept, number % 2) == b"A: kept\r\nX-Rule: yes\r\n"
