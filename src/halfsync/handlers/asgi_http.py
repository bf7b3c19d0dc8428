"""One HTTP request of an ASGI application: what its `receive` gives, and what its `send` makes of messages.

Theory of operation
-------------------
The head is kept until the first event of the body, as the specification says. A response that is whole by
then, and small, is one message to the pump, and leaves with those of other requests. A longer one goes
piece by piece, and `send` waits while RESPONSE_WINDOW is on its way to a client that has not taken it. Files
that the application names (pathsend, zerocopysend) are handed over as descriptors.

When the client has left, messages are dropped, for a second; then `send` raises ClientLeftError.

A message that breaks a rule has no effect: it is logged, with the rule, and `send` raises BrokenRule. When
the application has returned, or raised, and its response is not whole, the client gets a 500 if nothing was
sent, and else a connection that is visibly cut.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from halfsync.handlers.asgi_bodies import ArrivingBody, Body
from halfsync.handlers.asgi_errors import BrokenRule, ClientLeftError, stems_from_leaving
from halfsync.handlers.asgi_files import OpenFile, opened_path
from halfsync.handlers.asgi_heads import checked_field, checked_trailer, head_of
from halfsync.handlers.asgi_response import (
    BODY,
    DROPPED,
    HELD,
    OVER,
    START,
    TRAILERS,
    Application,
    Line,
    Message,
    OutgoingResponse,
    warn_of_lease,
)
from halfsync.http.error_pages import ErrorPages
from halfsync.http.header_rules import HeaderRules
from halfsync.http.request import request_named
from halfsync.http.response import ENDED, INTERNAL_ERROR, MAX_FIELDS, SMALL, of_one
from halfsync.logs.error import failure, log
from halfsync.objects import File
from halfsync.system.primitives import os, time
from halfsync.wire.messages import ABORTED, DONE, EarlyHints, Lease, Part, Piece, Task

DROPPED_FOR = 1.0
"""Seconds for which messages are dropped when the client has left, since the first of them."""

_EXPECTED = (
    "'http.response.start' is to come first",
    "'http.response.body' is to follow 'http.response.start'",
    "'http.response.body' is to follow",
    "'http.response.body' is to follow",
    "'http.response.trailers' is to follow",
    "the response is complete",
)


class HTTPInvocation(OutgoingResponse):
    """One call of the application."""

    __slots__ = (
        "_application",
        "_body",
        "_broken",
        "_dropped_until",
        "_is_cancelled",
        "_pages",
        "_plain",
        "_request_ended",
        "_scope",
        "_shaping",
        "_task",
        "running",
    )

    def __init__(
        self,
        application: Application,
        scope: Message,
        task: Task,
        began: int,
        line: Line,
        rules: HeaderRules | None,
        pages: ErrorPages | None,
        shaping: tuple[str, ...],
    ) -> None:
        """`rules`: the route's, for its responses; `pages`: for those of our own. `shaping`: fields on which
        every lease depends."""
        super().__init__(task.number, began, line, rules, is_head=scope["method"] == "HEAD")
        self.running: Any = None  # the asyncio.Task
        self._application = application
        self._scope = scope
        self._task = task
        self._body: Body | None = None  # if it is not in the task
        self._pages = pages
        self._shaping = shaping
        self._plain = False  # it may be sent as one small message
        self._request_ended = False
        self._is_cancelled = False
        self._broken = False
        self._dropped_until = 0.0

    def take_body(self, body: Body) -> None:
        """The body is here, and not in the task."""
        self._body = body

    # --- what happens to it ------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole call. Never raises."""
        try:
            await self._application(self._scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001
            self._raised(error)
        else:
            if self._phase != OVER:
                self._returned()
        if self._body is not None:
            self._body.close()
        self._line.ended(self)

    def application_ended(self, error: BaseException | None) -> None:
        """As `run` has it, for who calls the application in its place."""
        if error is not None:
            self._raised(error)
        elif self._phase != OVER:
            self._returned()

    def fail(self) -> None:
        """Respond with 500, if nothing was sent."""
        self._end_badly()

    def deliver(self, piece: Piece) -> None:
        if isinstance(self._body, ArrivingBody):
            self._body.deliver(piece)
            self._wake()

    def taken(self, size: int) -> None:
        """The client has taken so much more of the response."""
        self._unacknowledged -= size
        self._wake()

    def disconnected(self) -> None:
        """Nobody wants the response any more."""
        self._gone = True
        if isinstance(self._body, ArrivingBody):
            self._body.cut()
        self._wake()

    def cancel(self) -> None:
        """It is past its deadline, and the pump has responded."""
        self._is_cancelled = True
        self.disconnected()
        self.running.cancel()

    def end(self) -> None:
        """Its worker ends, and can't wait for it. The pump is told by what becomes of it."""
        self._is_cancelled = True
        self.running.cancel()

    # --- receive -----------------------------------------------------------------------------------

    async def receive(self) -> Message:
        if not (self._gone or self._request_ended or self._is_sent or self._phase == OVER):
            if self._body is None:
                self._request_ended = True
                return {"type": "http.request", "body": self._task.body, "more_body": False}
            event = await self._body.next()
            if event is not None and not self._gone:
                self._request_ended = not event["more_body"]
                return event
        while not (self._gone or self._is_sent or self._phase == OVER):
            await self.wait()
        return {"type": "http.disconnect"}

    # --- send --------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        if self._gone:
            await self._drop()
            return
        try:
            kind = message["type"]
            if kind == "http.response.start" and self._phase == START:
                self._start(message)
            elif kind == "http.response.body" and HELD <= self._phase <= DROPPED:
                piece = message.get("body", b"")
                if type(piece) is not bytes:
                    piece = _as_bytes(piece)
                if message.get("more_body", False):
                    if not self._keeps(piece):
                        await self._send_piece(piece, last=False)
                elif self._plain and self._phase == HELD and self._fits(len(piece)):
                    self._phase = OVER
                    self._line.whole(self.number, self._head, piece, self._began)
                    self._wake()
                else:
                    await self._send_piece(piece, last=True)
            else:
                await self._send_other(kind, message)
        except BrokenRule as error:
            self._tell(str(error))
            raise
        except (TypeError, KeyError, AttributeError) as error:
            if isinstance(message, dict) and "type" in message:
                raise
            self._tell(f"a message must be a dict with a 'type', not {message!r:.100}")
            raise BrokenRule("a message must be a dict with a 'type'") from error

    async def _drop(self) -> None:
        """The client has left, and a message is dropped, as the specification has it ("a no-op"): for an
        application that has computed a response that is no error, and it may have more to do behind it. One
        that streams for ever, and does not listen for the client's leaving, has to hear of it in the end."""
        self._line.end_if_child()
        now = time.monotonic()
        self._dropped_until = self._dropped_until or now + DROPPED_FOR
        if now > self._dropped_until:
            raise ClientLeftError
        await asyncio.sleep(0)  # whoever listens has a turn, and cancels this

    def _fits(self, size: int) -> bool:
        return size <= SMALL and (self._left < 0 or self._left == size)

    def _start(self, message: Message) -> None:
        head = head_of(message.get("status"), message.get("headers", ()))
        self._head = head
        self._left = -1 if self._is_head or head.bodiless else head.length
        self._trailers = b"" if message.get("trailers", False) else None
        self._plain = not (
            self._is_head
            or head.bodiless
            or head.close
            or self._trailers is not None
            or self._rules is not None
            or self._lease is not None
        )
        self._phase = HELD

    async def _send_other(self, kind: str, message: Message) -> None:
        phase = self._phase
        if kind == "http.response.pathsend" and phase == HELD:
            self._send_path(message)
        elif kind == "http.response.zerocopysend" and HELD <= phase <= DROPPED:
            await self._send_file(message)
        elif kind == "http.response.early_hint" and phase <= DROPPED:
            self._hint(message)
        elif kind == "http.response.trailers" and phase == TRAILERS:
            self._end_with_trailers(message)
        elif kind == "halfsync.lease" and phase <= HELD:
            self._ask_lease(message)
        else:
            raise BrokenRule(f"it sent {kind!r:.60}, but {_EXPECTED[phase]}")

    def _send_path(self, message: Message) -> None:
        descriptor, size, stamp, is_at_rest = opened_path(message.get("path"))
        if self._is_head or self._head.bodiless:
            os.close(descriptor)
            self._send_bodiless(size, last=True)
            return
        try:
            self._check_length(size, last=True)
        except BrokenRule:
            os.close(descriptor)
            raise
        if not is_at_rest or self._trailers is not None:
            self._refuse_lease("the file has just been written")
        length = size if self._trailers is None else self._head.length
        self._reply(length, b"", [File(descriptor, 0, size, stamp)], self._ending(last=True))
        self._body_ended()

    async def _send_file(self, message: Message) -> None:
        """A span of an open file, which stays the application's."""
        last = not message.get("more_body", False)
        if not await self._room():
            return
        source = OpenFile.of(message)
        if self._is_head or self._head.bodiless:
            self._send_bodiless(source.count, last=last)
            return
        self._check_length(source.count, last=last)
        file = File(source.duplicate(), source.offset, source.count)
        if self._phase == HELD:
            length = self._head.length
            if last and length < 0 and self._trailers is None:
                length = source.count
            if not last:
                self._refuse_lease()
            self._reply(length, b"", [file], self._ending(last=last))
            self._phase = BODY
        else:
            self._part([file], self._ending(last=last))
        if last:
            self._body_ended()

    # --- extensions --------------------------------------------------------------------------------

    def _hint(self, message: Message) -> None:
        """The specification has hints behind the start, other servers before it: they leave before the
        response in both cases. Behind the beginning of the body it is too late for them."""
        links = message.get("links", ())
        fields = [checked_field((b"Link", link)) for link in links]
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        if lines and self._phase <= HELD:
            self._line.put(EarlyHints(self.number, lines), 0)

    def _end_with_trailers(self, message: Message) -> None:
        lines = [b"%b: %b\r\n" % checked_trailer(field) for field in message.get("headers", ())]
        self._trailers = trailers = (self._trailers or b"") + b"".join(lines)
        if len(trailers) > MAX_FIELDS:
            raise BrokenRule(f"the trailers take more than {MAX_FIELDS} bytes")
        if not message.get("more_trailers", False):
            if not self._is_sent:
                self._line.put(Part(self.number, [], DONE, self._handler_ns(DONE), trailers), 0)
            self._phase = OVER
            self._wake()

    def _ask_lease(self, message: Message) -> None:
        """This response may be repeated for so many seconds (see `Invocation.ask_lease` of WSGI)."""
        names = []
        for name in message.get("names", ()):
            text = str(name, "latin-1") if isinstance(name, bytes) else str(name)
            names.append(checked_field((text.encode("latin-1", "replace"), b""))[0].decode().lower())
        seconds = message.get("seconds", 0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise BrokenRule(f"the 'seconds' of 'halfsync.lease' must be a number, not {seconds!r:.60}")
        if "halfsync.lease" not in self._scope["extensions"]:
            warn_of_lease("the request has X-Forwarded fields from a peer that is not in forwarded_allow_ips")
        elif seconds > 0 and self._scope["method"] in ("GET", "HEAD"):
            self._lease = Lease(float(seconds), (*names, *self._shaping), bool(message.get("public", False)))
            self._plain = False

    # --- when it goes wrong ------------------------------------------------------------------------

    def _tell(self, rule: str) -> None:
        self._line.end_if_child()
        self._broken = True
        log("error", f"{self.named}: the application broke a rule of ASGI: {rule}.")

    @property
    def named(self) -> str:
        return request_named(self._task.head, self._task.client)

    def _returned(self) -> None:
        """The application has returned without a whole response."""
        self._line.end_if_child()
        if not (self._gone or self._broken):
            how = "without a response" if self._phase <= HELD else "before its response was complete"
            self._tell(f"it returned {how}")
        self._end_badly()

    def _raised(self, error: BaseException) -> None:
        self._line.end_if_child()
        if self._is_cancelled:
            pass  # by the server, which has logged it
        elif self._gone or stems_from_leaving(error):
            if not stems_from_leaving(error):
                log("info", f"{self.named}: its client had left, and the application raised {error!r:.200}")
        elif not isinstance(error, BrokenRule):
            sending = "while sending"
            when = ("before", "before", sending, sending, sending, "after")[self._phase]
            log("error", f"Exception {when} the response to {self.named}:\n{failure(skip=1)}")
        self._end_badly()

    def _end_badly(self) -> None:
        """The client sees it, if there is one."""
        if self._phase == OVER:
            return
        begun = self._phase > HELD
        self._phase = OVER
        if self._is_sent:
            pass
        elif begun or self._gone:
            self._part([], ABORTED)
        else:
            response = ENDED if self._is_cancelled else INTERNAL_ERROR
            self._head, body = of_one(response, self._task.head)
            if self._pages is not None:
                fields, body = self._pages.instead(self._head.status, self._head.fields, body)
                self._head = msgspec.structs.replace(self._head, fields=fields)
            self._lease = None
            self._reply(len(body), body, [], DONE)
        self._wake()


def _as_bytes(piece: Any) -> bytes:
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise BrokenRule(f"the 'body' of 'http.response.body' must be bytes, not {type(piece).__name__}")
