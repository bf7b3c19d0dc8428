"""The backend of routes whose response is known without a worker: redirects, fixed texts, errors."""

from __future__ import annotations

import re
from http import HTTPStatus
from urllib.parse import quote_from_bytes

from halfsync.http.hosts import name_of
from halfsync.plan.plan import Fixed
from halfsync.pump.connection import Exchange
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.routes import SAFE, below_prefix, target_parts
from halfsync.pump.task_messages import MessageQueue
from halfsync.wire.messages import Ending, Message, Reply
from halfsync.wire.refusals import Refusal

SENTENCES = {
    403: "This is for nobody.",
    404: "Nothing is served under this path.",
    410: "What was here is gone, and will not come back.",
}
"""What our own errors say."""


class FixedBackend:
    """See Backend. A response is on its connection when `submit` returns; so it needs no bodies streamed, and
    of one that comes to it by a reload it reads nothing more."""

    __slots__ = ("_allow", "_fields", "_fixed", "_needs_host", "_prefix")
    streams = takes_websockets = False

    def __init__(self, prefix: bytes, fixed: Fixed) -> None:
        self._prefix = prefix
        self._fixed = fixed
        self._fields = f"Content-Type: {fixed.content_type}\r\n".encode() if fixed.content_type else b""
        # A 405 has to say which methods there are (RFC 9110 15.5.6): none, unless `headers` say others.
        self._allow = "" if fixed.status == 405 else None
        if self._allow is not None:
            self._fields += b"Allow: \r\n"
        self._needs_host = "$host" in fixed.location

    def submit(self, exchange: Exchange) -> None:
        conn = exchange.conn
        assert conn is not None
        fixed = self._fixed
        if fixed.is_error:
            sentence = SENTENCES.get(fixed.status) or f"{HTTPStatus(fixed.status).description}."
            refusal = Refusal(fixed.status, sentence, close=False, allow=self._allow)
            refusal.is_counted = False  # it is what the route is for
            conn.protocol.refuse(exchange, refusal)
            return
        fields, body = self._fields, fixed.body
        if self._needs_host and not exchange.head.host:
            conn.protocol.refuse(exchange, Refusal(400, "This redirect needs the Host.", close=False))
            return
        if fixed.location:
            location = self._location(exchange)
            fields = b"Location: %s\r\nContent-Type: text/plain; charset=utf-8\r\n" % location
            body = b"See %s\n" % location
        if exchange.route is not None and exchange.route.headers is not None:
            fields = exchange.route.headers.apply(fields)
        conn.protocol.begin(exchange, Reply(0, fixed.status, "", fields, len(body)))
        conn.protocol.add(exchange, (body,))
        conn.protocol.end(exchange)

    def cancel(self, exchange: Exchange) -> None:
        """There is nothing under way."""

    def pass_on(self, exchange: Exchange, offset: int, data: bytes, ending: Ending) -> None:
        """Nobody reads it."""

    def taken(self, exchange: Exchange) -> None:
        """Nothing more comes."""

    def is_told(self, exchange: Exchange) -> bool:
        return False

    def pass_message(self, exchange: Exchange, message: Message, file: Descriptor | None) -> None:
        """There are none."""

    def message_queue(self, exchange: Exchange) -> MessageQueue:
        raise AssertionError("there are none")

    def websocket_closed(self, exchange: Exchange, code: int, reason: bytes) -> None:
        """There are none."""

    def give_up(self, exchange: Exchange) -> None:
        """There is nothing under way."""

    def _location(self, exchange: Exchange) -> bytes:
        text = self._fixed.location.encode()
        if b"$" not in text:
            return text
        path, query = target_parts(exchange.head.target)
        below = below_prefix(path, self._prefix)
        if text.startswith(b"$path"):  # two slashes would name a host
            below = b"/" + below.lstrip(b"/")
        said = {
            b"$host": name_of(exchange.head.host),
            b"$path": quote_from_bytes(below, SAFE).encode(),
            b"$query": quote_from_bytes(query, SAFE + "?").encode(),
        }
        return _VARIABLE.sub(lambda found: said[found[0]], text)


_VARIABLE = re.compile(rb"\$(?:host|path|query)")
