"""One WebSocket of an ASGI application: what its `receive` gives, and what its `send` makes of messages.

Theory of operation
-------------------
The pump speaks the protocol; here are whole messages. What came and was not received waits here, and the
pump stops reading the client while that is MESSAGE_WINDOW. `send` waits while RESPONSE_WINDOW is on its way
to a client that has not taken it.

It begins with a request, which the application accepts, or rejects: with `websocket.close` (403), or with a
response of its own (`websocket.http.response`), for which everything holds that holds for responses: an
HTTPInvocation sends it.

A message that breaks a rule has no effect: it is logged, with the rule, and `send` raises BrokenRule. An
application that raises leaves its client with a 500, or with code 1011; one that returns closes with 1000.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from halfsync.handlers.asgi_errors import BrokenRule, ClientLeftError, stems_from_leaving
from halfsync.handlers.asgi_files import shared_file
from halfsync.handlers.asgi_heads import checked_field, warn_of_dropped
from halfsync.handlers.asgi_http import HTTPInvocation
from halfsync.handlers.asgi_response import Application, Line
from halfsync.handlers.asgi_response import Message as Event
from halfsync.http.error_pages import ErrorPages
from halfsync.http.header_rules import HeaderRules
from halfsync.http.request import request_named
from halfsync.logs.error import failure, log
from halfsync.objects import File
from halfsync.system.primitives import os, time
from halfsync.wire.messages import (
    ABORTED,
    DONE,
    MESSAGE_IN_PACKET,
    MESSAGE_TAG,
    MESSAGE_WINDOW,
    PIECE_COST,
    RESPONSE_WINDOW,
    Accept,
    Close,
    Ending,
    FromWorker,
    Message,
    MessageColumns,
    Part,
    PartColumns,
    Piece,
    Task,
    message_cost,
)
from halfsync.wire.websocket import BINARY, MAX_REASON, TEXT, CloseCode, may_be_sent

REQUESTED, OPEN, CLOSED, LEFT, RESPONDING = range(5)
"""Not accepted yet; accepted; closed by the application; closed by the client or the pump; rejected."""

ASK_AT = MESSAGE_WINDOW // 4
"""So much is given back at once. Before half of the window is used, the pump's fast path is open."""

_OURS = frozenset(
    (
        *(b"connection", b"upgrade", b"content-length", b"transfer-encoding"),
        *(b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-version"),
    )
)
"""Fields of the handshake's own: left out, with one warning."""

_FORBIDDEN: list[tuple[bytes, bytes]] = [(b"content-type", b"text/plain; charset=utf-8")]


class LineOfWebSocket(Line, Protocol):
    """See Line."""

    def put(self, message: FromWorker, size: int) -> None: ...

    said: Callable[[MessageColumns | PartColumns], None]
    """Send a message that is in no file. Call `flush_soon` then, unless it `flushes` in any case."""

    flushes: bool

    def flush_soon(self) -> None: ...

    def ask(self, number: int, size: int) -> None:
        """So much more of MESSAGE_WINDOW is free."""


class WebSocketInvocation:
    """One call of the application."""

    __slots__ = (
        "_application",
        "_began",
        "_broken",
        "_files",
        "_is_begun",
        "_is_cancelled",
        "_line",
        "_pages",
        "_phase",
        "_response",
        "_rules",
        "_scope",
        "_take_unread",
        "_taken",
        "_task",
        "_told",
        "_unacknowledged",
        "ending",
        "number",
        "receiver",
        "running",
        "unread",
        "waiters",
    )

    def __init__(
        self,
        application: Application,
        scope: Event,
        task: Task,
        began: int,
        line: LineOfWebSocket,
        rules: HeaderRules | None,
        pages: ErrorPages | None,
    ) -> None:
        """`rules`: the route's, for the response; `pages`: for those of our own."""
        self.number = task.number
        self.running: Any = None  # the asyncio.Task
        self._application = application
        self._scope = scope
        self._task = task
        self._began = began
        self._line = line
        self._rules = rules
        self._pages = pages
        self._phase = REQUESTED
        self._is_begun = False  # `websocket.connect` was received
        # For the loop's tasks, which put in what comes from the client (`LoopTasks._hand_out`):
        self.unread: deque[Message] = deque()  # came, and were not received
        self._take_unread = self.unread.popleft
        self._files: dict[int, int] = {}  # descriptors of those that are in one, by id()
        self._taken = 0  # of MESSAGE_WINDOW, and not given back
        self._unacknowledged = 0  # of RESPONSE_WINDOW
        self.ending: tuple[int, str] | None = None  # the code and reason of the end
        self._response: HTTPInvocation | None = None  # the one with which it was rejected
        self._is_cancelled = False
        self._broken = False
        self._told: BrokenRule | None = None  # it is logged
        self.receiver: Any = None  # the future for which its task waits that receives
        self.waiters: list[Any] = []  # of other tasks of its

    # --- what happens to it ------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole call. Never raises."""
        try:
            await self._application(self._scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001
            self._raised(error)
        else:
            self._returned()
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._line.ended(self)

    def in_file(self, message: Message, descriptor: int) -> None:
        """Before a message is appended to `unread` that is in a file. `descriptor`: of that, which is this
        object's now; or -1."""
        if descriptor >= 0 and self.ending is None:
            self._files[id(message)] = descriptor
        elif descriptor >= 0:
            os.close(descriptor)

    def closed(self, code: int, reason: bytes) -> None:
        """By the client or by the pump."""
        if self.ending is None:
            self.ending = (code, reason.decode(errors="replace"))
        if self._phase <= OPEN:
            self._phase = LEFT
        self.wake()

    def deliver(self, _piece: Piece) -> None:
        """It has no body."""

    def taken(self, size: int) -> None:
        """The client has taken so much more of what was sent."""
        if self._response is not None:
            self._response.taken(size)
        self._unacknowledged -= size
        self.wake()

    def disconnected(self) -> None:
        """The client has vanished; or the pump has."""
        if self._response is not None:
            self._response.disconnected()
        self.closed(CloseCode.ABNORMAL.value, b"")

    def cancel(self) -> None:
        """It is past its deadline, and the pump has responded."""
        self._is_cancelled = True
        self.disconnected()
        self.running.cancel()

    def end(self) -> None:
        """Its worker ends, and can't wait for it. The pump is told by what becomes of it."""
        self._is_cancelled = True
        self.running.cancel()

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        if self.receiver is not None:
            waiters.append(self.receiver)
            self.receiver = None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        """Until something happens."""
        waiter = self._line.wait()
        self.waiters.append(waiter)
        await waiter

    # --- receive -----------------------------------------------------------------------------------

    async def receive(self) -> Event:
        if not self._is_begun:
            self._is_begun = True
            return {"type": "websocket.connect"}
        while not self.unread:
            if self.ending is not None:
                code, reason = self.ending
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            if self.receiver is None or self.receiver.done():
                self.receiver = waiter = self._line.wait()
                await waiter
            else:  # two of its tasks receive
                await self._wait()
        message = self._take_unread()
        data = message.data
        if message.objects:
            data = self._data_of(message)
            self._taken += message_cost(message)
        else:
            self._taken += len(data) + PIECE_COST
        if self._taken >= ASK_AT:
            self._line.ask(self.number, self._taken)
            self._taken = 0
        if message.kind == TEXT:
            return {"type": "websocket.receive", "text": data.decode()}
        return {"type": "websocket.receive", "bytes": data}

    def _data_of(self, message: Message) -> bytes:
        [file] = message.objects
        assert isinstance(file, File)
        descriptor = self._files.pop(id(message))
        try:
            return os.pread(descriptor, file.count, file.offset)
        finally:
            os.close(descriptor)

    # --- send --------------------------------------------------------------------------------------

    async def send(self, message: Event) -> None:
        try:
            kind = message["type"]
            if kind == "websocket.send" and self._phase == OPEN:
                # What is common is written out here: it waits for nothing, and costs no other coroutine.
                if self._unacknowledged < RESPONSE_WINDOW:
                    opcode, data = BINARY, message.get("bytes")
                    if data is None:
                        text = message.get("text")
                        opcode = TEXT
                        data = text.encode() if type(text) is str and text.isascii() else _encoded(text)
                    elif "text" in message:
                        _check_alone(message)
                    if type(data) is bytes and len(data) <= MESSAGE_IN_PACKET:
                        self._unacknowledged += len(data) + PIECE_COST
                        line = self._line
                        line.said((MESSAGE_TAG, self.number, opcode, data))
                        if not line.flushes:
                            line.flush_soon()
                        return
                await self._send(message)
            else:
                await self._send_other(kind, message)
        except BrokenRule as error:
            if error is not self._told:
                self._tell(str(error))
            raise
        except (TypeError, KeyError, AttributeError) as error:
            if isinstance(message, dict) and "type" in message:
                raise
            self._tell(f"a message must be a dict with a 'type', not {message!r:.100}")
            raise BrokenRule("a message must be a dict with a 'type'") from error

    async def _send(self, message: Event) -> None:
        data = message.get("bytes")
        kind = BINARY
        if data is None:
            data = _encoded(message.get("text"))
            kind = TEXT
        else:
            _check_alone(message)
            data = _as_bytes(data)
        while self._unacknowledged >= RESPONSE_WINDOW and self._phase == OPEN:
            await self._wait()
        if self._phase != OPEN:
            raise ClientLeftError
        if len(data) <= MESSAGE_IN_PACKET:
            sent = Message(self.number, kind, data)
        else:
            sent = Message(self.number, kind, b"", [File(shared_file(data), 0, len(data))])
        self._unacknowledged += message_cost(sent)
        self._line.put(sent, len(sent.data))

    async def _send_other(self, kind: str, message: Event) -> None:
        phase = self._phase
        if phase == LEFT and kind in _KINDS:
            self._line.end_if_child()
            if kind == "websocket.close":  # as applications do in any case, and it is closed
                return
            raise ClientLeftError
        if kind == "websocket.accept" and phase == REQUESTED:
            self._accept(message)
        elif kind == "websocket.close" and phase <= OPEN:
            await self._close(message)
        elif kind.startswith("websocket.http.response.") and phase in (REQUESTED, RESPONDING):
            await self._respond(kind, message)
        else:
            raise BrokenRule(f"it sent {kind!r:.60}, but {_EXPECTED[phase]}")

    def _accept(self, message: Event) -> None:
        subprotocol = message.get("subprotocol")
        lines = []
        for field in message.get("headers", ()):
            name, value = checked_field(field)
            lower = name.lower()
            if lower == b"sec-websocket-protocol":
                subprotocol = subprotocol or value.decode("latin-1")
            elif lower in _OURS:
                warn_of_dropped(lower.decode())
            else:
                lines.append(name + b": " + value + b"\r\n")
        if subprotocol is not None and subprotocol not in self._scope["subprotocols"]:
            raise BrokenRule(f"the client has not named the subprotocol {subprotocol!r:.60}")
        fields = b"".join(lines)
        if self._rules is not None:
            fields = self._rules.apply(fields)
        self._phase = OPEN
        self._line.put(Accept(self.number, fields, subprotocol or ""), 0)

    async def _close(self, message: Event) -> None:
        code = message.get("code", CloseCode.NORMAL.value)
        reason = message.get("reason") or ""
        if self._phase == REQUESTED:
            await self._respond(_START, {"status": 403, "headers": list(_FORBIDDEN)})
            await self._respond(_BODY, {"body": b"403 Forbidden\n"})
            return
        if not isinstance(code, int) or isinstance(code, bool) or not may_be_sent(code):
            raise BrokenRule(f"the 'code' of 'websocket.close' can't be {code!r:.60}")
        encoded = _encoded(reason, "the 'reason' of 'websocket.close'")
        if len(encoded) > MAX_REASON:
            raise BrokenRule(
                f"the 'reason' of 'websocket.close' takes {len(encoded)} bytes; {MAX_REASON} may be sent"
            )
        self._phase = CLOSED
        self.ending = (int(code), reason)
        self._line.put(Close(self.number, int(code), encoded), 0)
        self.wake()

    async def _respond(self, kind: str, message: Event) -> None:
        """A response in place of a WebSocket."""
        if self._response is None:
            self._response = self._new_response()
            self._phase = RESPONDING
            self.ending = (CloseCode.ABNORMAL.value, "")
        try:
            await self._response.send({**message, "type": kind.removeprefix("websocket.")})
        except BrokenRule as error:
            self._told = error  # by that
            raise

    def _new_response(self) -> HTTPInvocation:
        return HTTPInvocation(
            self._application,
            {"method": "GET", "extensions": {}},
            self._task,
            self._began,
            self._line,
            self._rules,
            self._pages,
            (),
        )

    # --- the end -----------------------------------------------------------------------------------

    def _tell(self, rule: str) -> None:
        self._line.end_if_child()
        self._broken = True
        log("error", f"{self.named}: the application broke a rule of ASGI: {rule}.")

    @property
    def named(self) -> str:
        return request_named(self._task.head, self._task.client)

    def _returned(self) -> None:
        self._line.end_if_child()
        if self._response is not None:
            self._response.application_ended(None)
            return
        if self._phase == REQUESTED:
            if not self._broken:
                self._tell("it returned, and neither accepted nor rejected the WebSocket")
            self._fail()
            return
        if self._phase == OPEN:
            self._line.put(Close(self.number, CloseCode.NORMAL.value, b""), 0)
        self._last(DONE)

    def _raised(self, error: BaseException) -> None:
        self._line.end_if_child()
        if self._response is not None:
            self._response.application_ended(error)
            return
        if self._is_cancelled:
            pass  # by the server, which has logged it
        elif self._phase in (CLOSED, LEFT) or stems_from_leaving(error):
            if not stems_from_leaving(error):
                log("info", f"{self.named}: it was closed, and then the application raised {error!r:.200}")
        elif not isinstance(error, BrokenRule):
            log("error", f"Exception in the WebSocket {self.named}:\n{failure(skip=1)}")
        if self._phase == REQUESTED:
            self._fail()
        else:
            self._last(ABORTED)

    def _fail(self) -> None:
        """Not accepted, and never will be: 500."""
        self._phase = CLOSED
        self._new_response().fail()

    def _last(self, ending: Ending) -> None:
        self._phase = CLOSED
        self._line.put(Part(self.number, [], ending, time.monotonic_ns() - self._began), 0)


_START, _BODY = "websocket.http.response.start", "websocket.http.response.body"
_KINDS = frozenset(("websocket.accept", "websocket.send", "websocket.close", _START, _BODY))
_EXPECTED = (
    "'websocket.accept' is to come first, or 'websocket.close'",
    "it has accepted already",
    "it has closed already",
    "the WebSocket is closed",
    "it has rejected the WebSocket with a response",
)


def _encoded(text: object, what: str = "the 'text' of 'websocket.send'") -> bytes:
    if type(text) is not str and not isinstance(text, str):
        if text is None:
            raise BrokenRule("'websocket.send' must have 'bytes' or 'text'")
        raise BrokenRule(f"{what} must be a str, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BrokenRule(f"{what} has a surrogate in it, which UTF-8 can't encode") from None


def _check_alone(message: Event) -> None:
    if message.get("text") is not None:
        raise BrokenRule("'websocket.send' must have 'bytes' or 'text', not both")


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise BrokenRule(f"the 'bytes' of 'websocket.send' must be bytes, not {type(data).__name__}")
