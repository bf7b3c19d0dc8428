"""What an ASGI application sends as one response, made into messages to the pump.

Pieces of a body wait until the end of a turn of the loop, and are one message if there are several of them:
what is sent at once by an application that has many small pieces costs little more than one large piece.
`send` waits while RESPONSE_WINDOW of them is on its way to a client that has not taken it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Protocol

from halfsync.handlers.asgi_errors import BrokenRule, ClientLeftError
from halfsync.handlers.asgi_files import shared_file
from halfsync.http.header_rules import HeaderRules
from halfsync.http.response import INTERNAL_ERROR, SMALL, Head
from halfsync.logs.error import log
from halfsync.objects import File, Memory, SimpleObject
from halfsync.system.primitives import time
from halfsync.wire.messages import (
    DONE,
    MEMORY_TAG,
    PART_TAG,
    PIECE_COST,
    RESPONSE_WINDOW,
    UNFINISHED,
    EarlyHints,
    Ending,
    Lease,
    Part,
    PartColumns,
    Piece,
    Reply,
    cost_of,
)
from halfsync.wire.packets import BEHIND_FROM

Message = dict[str, Any]
Application = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

MAX_PIECE = 128 * 1024
"""Bytes of a Memory object: with its message it must fit a packet."""

START, HELD, BODY, DROPPED, TRAILERS, OVER = range(6)
"""What `send` expects: the start; the first event of the body; more of it; more of one that is dropped, since
the response has none; trailers; nothing."""


class ASGIInvocation(Protocol):
    """One call of an application, for a request or a WebSocket."""

    number: int
    running: Any

    async def run(self) -> None: ...

    def deliver(self, piece: Piece) -> None: ...

    def taken(self, size: int) -> None: ...

    def disconnected(self) -> None: ...

    def cancel(self) -> None: ...

    def end(self) -> None: ...

    @property
    def named(self) -> str: ...


class Line(Protocol):
    """What an invocation has of the worker: the way to the pump, and to wait."""

    def put(self, message: Reply | Part | EarlyHints, size: int) -> None:
        """Send it soon. The descriptors of its objects are closed then."""

    def put_pieces(self, part: Part, pieces: list[bytes], size: int) -> None:
        """Send a part whose one object is these pieces, together."""

    def say(self, message: PartColumns) -> None:
        """Send a part that is a small piece."""

    def whole(self, number: int, head: Head, body: bytes, began: int) -> None:
        """Send the whole of a small response."""

    def soon(self, response: OutgoingResponse) -> None:
        """Call its `send_kept` at the end of this turn of the loop."""

    def wait(self) -> Any:
        """A future, which somebody is to resolve."""

    def ended(self, invocation: ASGIInvocation) -> None:
        """Its application has returned, or raised."""

    def end_if_child(self) -> None:
        """As in Replier."""


class OutgoingResponse:
    """One of them."""

    __slots__ = (
        "_began",
        "_gone",
        "_head",
        "_is_head",
        "_is_sent",
        "_kept",
        "_kept_size",
        "_lease",
        "_left",
        "_line",
        "_phase",
        "_rules",
        "_torn",
        "_trailers",
        "_unacknowledged",
        "_waiters",
        "number",
    )

    def __init__(
        self, number: int, began: int, line: Line, rules: HeaderRules | None, *, is_head: bool
    ) -> None:
        """`rules`: the route's. `is_head`: the request's method is HEAD."""
        self.number = number
        self._began = began
        self._line = line
        self._rules = rules
        self._is_head = is_head
        self._phase = START
        self._head: Head = INTERNAL_ERROR[0]
        self._left = -1  # bytes of the body that the content-length has left; -1: it does not say
        self._lease: Lease | None = None
        self._trailers: bytes | None = None  # what has come of them, if some follow the body
        self._is_sent = False  # all of it, though more is to come: it has no body
        self._torn = False  # a piece was sent in part, and the rest never will be
        self._kept: list[bytes] = []
        self._kept_size = 0
        self._unacknowledged = 0  # of what was sent, by `cost_of`
        self._gone = False  # the client has left; or it has another response
        self._waiters: list[Any] = []

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Until something happens."""
        waiter = self._line.wait()
        self._waiters.append(waiter)
        await waiter

    # --- bodies ------------------------------------------------------------------------------------

    async def _send_piece(self, piece: bytes, *, last: bool) -> None:
        if self._is_head or self._head.bodiless:
            self._send_bodiless(len(piece), last=last)
            return
        self._check_length(len(piece), last=last)
        begun = self._phase == HELD
        if begun:
            piece = self._begin(piece, last=last)
            if self._phase == OVER:
                return
        size = len(piece)
        for start in range(0, size, MAX_PIECE):
            if self._unacknowledged + self._kept_size >= RESPONSE_WINDOW:
                try:
                    if not await self._room():
                        return
                except asyncio.CancelledError:
                    if start or begun:
                        self._torn, self._left = True, 0
                    raise
            self._keep(piece if size <= MAX_PIECE else piece[start : start + MAX_PIECE])
        if last:
            self.send_kept(self._ending(last=True))
            self._body_ended()

    def _keep(self, piece: bytes) -> None:
        """Send it when this turn of the loop is over, together with what follows until then."""
        if self._kept_size + len(piece) > MAX_PIECE:
            self.send_kept()
        if not self._kept:
            self._line.soon(self)
        self._kept.append(piece)
        self._kept_size += len(piece)

    def _keeps(self, piece: bytes) -> bool:
        """The short road of a piece that is not the body's first or last, and need not wait. False: it is
        another one, or does not fit behind those of this turn."""
        size = self._kept_size + len(piece)
        if (
            self._phase != BODY
            or not piece
            or size > MAX_PIECE
            or self._left >= 0
            or self._unacknowledged + self._kept_size >= RESPONSE_WINDOW
        ):
            return False
        if not self._kept:
            self._line.soon(self)
        self._kept.append(piece)
        self._kept_size = size
        return True

    def send_kept(self, ending: Ending = UNFINISHED) -> None:
        kept, size, self._kept, self._kept_size = self._kept, self._kept_size, [], 0
        if size >= BEHIND_FROM:
            cost = size + PIECE_COST
            self._unacknowledged += cost
            part = Part(self.number, [Memory(b"", size)], ending, self._handler_ns(ending))
            self._line.put_pieces(part, kept, cost)
        elif kept:
            data = kept[0] if len(kept) == 1 else b"".join(kept)
            if ending is UNFINISHED:
                self._unacknowledged += size + PIECE_COST
                self._line.say((PART_TAG, self.number, ((MEMORY_TAG, data),)))
            else:
                self._part([Memory(data)], ending)
        elif ending is not UNFINISHED:
            self._part([], ending)

    def _send_bodiless(self, size: int, *, last: bool) -> None:
        """A body that is not sent: HEAD, or a status that has none. With the head the client has all of it,
        however much is to come: whoever listens for its leaving is told so, and who does not, when it has
        given as much as may wait for a client. (Nothing else makes an endless stream wait, or end.)"""
        if not self._is_sent:
            length = self._head.length
            # Of an empty one it is not known how long that of a GET would be (RFC 9110 8.6).
            is_get_body = size > 0 and last and self._is_head and not self._head.bodiless
            if length < 0 and is_get_body and self._trailers is None:
                length = size
            self._reply(length, b"", [], DONE)
            self._is_sent = True
            self._phase = DROPPED
            self._wake()
        if last:
            self._body_ended()
            return
        self._unacknowledged += size + PIECE_COST
        if self._unacknowledged >= RESPONSE_WINDOW:
            self._gone = True
            raise ClientLeftError

    def _check_length(self, size: int, *, last: bool) -> None:
        """Raises BrokenRule."""
        if self._left < 0:
            return
        if self._torn:
            raise BrokenRule("a 'send' was cancelled amid its piece, so this response can't become whole")
        length = self._head.length
        if size > self._left:
            raise BrokenRule(f"the body is longer than the content-length of {length}")
        if last and size < self._left:
            given = length - self._left + size
            raise BrokenRule(f"the body ends after {given} of the {length} bytes of its content-length")
        self._left -= size

    def _begin(self, piece: bytes, *, last: bool) -> bytes:
        """Send the head, with the first bytes of the body; gives the others."""
        length = self._head.length
        whole = last and self._trailers is None
        if whole and length < 0:
            length = len(piece)
        if whole and len(piece) > SMALL and self._lease is not None:
            # A response that is leased has to be whole in one message.
            self._reply(length, b"", [File(shared_file(piece), 0, len(piece))], DONE)
        elif whole and len(piece) <= SMALL:
            self._reply(length, piece, [], DONE)
        else:
            self._refuse_lease()
            self._reply(length, piece[:SMALL], [], UNFINISHED)
            self._phase = BODY
            return piece[SMALL:]
        self._phase = OVER
        self._wake()
        return b""

    def _ending(self, *, last: bool) -> Ending:
        return DONE if last and self._trailers is None else UNFINISHED

    def _body_ended(self) -> None:
        self._phase = OVER if self._trailers is None else TRAILERS
        self._wake()

    async def _room(self) -> bool:
        """Wait while the client has to take so much yet. False: it has left."""
        self.send_kept()
        while self._unacknowledged >= RESPONSE_WINDOW and not self._gone:
            await self.wait()
        return not self._gone

    # --- messages to the pump ----------------------------------------------------------------------

    def _reply(self, length: int, body: bytes, objects: list[SimpleObject], ending: Ending) -> None:
        head = self._head
        self._unacknowledged += sum(map(cost_of, objects))
        reply = Reply(
            self.number,
            head.status,
            head.reason,
            head.fields if self._rules is None else self._rules.apply(head.fields),
            length,
            body,
            objects,
            ending,
            head.dated,
            head.close,
            self._lease if ending is DONE else None,
            self._handler_ns(ending),
        )
        self._line.put(reply, len(body))

    def _part(self, objects: list[SimpleObject], ending: Ending) -> None:
        if self._kept:  # before what is behind it
            self.send_kept()
        cost = sum(map(cost_of, objects))
        self._unacknowledged += cost
        self._line.put(Part(self.number, objects, ending, self._handler_ns(ending)), cost)

    def _handler_ns(self, ending: Ending) -> int:
        return time.monotonic_ns() - self._began if ending is not UNFINISHED else 0

    def _refuse_lease(self, why: str = "its body comes in pieces") -> None:
        if self._lease is not None:
            warn_of_lease(why)
            self._lease = None


@lru_cache(maxsize=8)  # once for each
def warn_of_lease(why: str) -> None:
    log("warning", f"The application asked for a lease where none can be given: {why}. (Said once.)")
