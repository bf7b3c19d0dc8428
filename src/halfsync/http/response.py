"""The head of a response, checked and encoded; and what a handler needs to hand a response over.

This module is near the bottom: of ours, it imports the vocabulary only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from halfsync.http.request_ids import named_in
from halfsync.system.stamps import Stamp
from halfsync.wire.messages import Ending, Lease
from halfsync.wire.phrases import PHRASES


class BadHead(Exception):
    """The application gave a status or header fields that must not be sent. `str()` says what is
    wrong with them."""


class ClientDisconnectedError(Exception):
    """Nobody will read the rest of this response."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """A response's head, except for the fields that the pump adds."""

    status: int
    reason: str
    fields: bytes  # validated lines, each ended by CRLF
    length: int = -1  # Content-Length as the handler gave it; -1: it did not
    dated: bool = False  # `fields` has a Date
    sets_cookie: bool = False
    dropped: str = ""  # a field that the application set and that is not its to set
    bodiless: bool = False  # by its status, whatever the request was
    close: bool = False  # the application wants the connection closed behind it


class Replier(Protocol):
    """How a handler responds to one request: `whole`, or `file`, or `begin` and then `write`, which
    ends with `finish`. `abort` may end it at any time.

    What is handed over is on its way, or soon will be; no call waits for the client, except for
    `write` and `whole` past the limit of what may wait in a file.
    """

    @property
    def begun(self) -> bool:
        """The head can't be changed any more."""

    @property
    def ended(self) -> bool:
        """All has been said."""

    def whole(self, head: Head, length: int, body: bytes, lease: Lease | None = None) -> None:
        """The complete response. `length` is what Content-Length shall say: it differs from the body's
        when the request's method is HEAD."""

    def own(self, head: Head, body: bytes, lease: Lease | None = None) -> None:
        """A whole response of the server's own; or the error page that the route has in place of it."""

    def file(
        self,
        head: Head,
        length: int,
        descriptor: int,
        offset: int,
        count: int,
        lease: Lease | None = None,
        ending: Ending = Ending.DONE,
        stamp: Stamp | None = None,
    ) -> None:
        """The complete response, whose body is `count` bytes of a regular file. The descriptor is closed
        when it is handed over. `stamp`: what the file was when the head was made, if somebody may write
        into it; a client that gets another version, or a mixture, will be able to tell."""

    def tunnel(self, head: Head, descriptor: int) -> None:
        """A complete response of status 101, behind which the client is connected to a stream socket. The
        descriptor is closed when it is handed over."""

    def begin(self, head: Head, length: int, piece: bytes) -> None:
        """The head of a response whose body follows piece by piece (`length` is -1 if it is not known),
        and the first piece. Both leave at once. Raises ClientDisconnectedError."""

    def write(self, piece: bytes, *, last: bool = False) -> None:
        """One piece of the body, which leaves at once. Raises ClientDisconnectedError."""

    def end_if_child(self) -> None:
        """To be called when the handler's code has raised: it may be a child process that it forked whose
        exception that is. In one, this does not return."""

    def check_client(self) -> None:
        """To be called where there is nothing to write yet. Raises ClientDisconnectedError if the client has
        disconnected, or has closed its side of the connection and now waits for long."""

    def finish(self) -> None:
        """The body is whole."""

    def abort(self) -> None:
        """The body will never be whole; the client will be able to tell."""

    def soon(self) -> None:
        """The handler has more to do after the response: see that it does not wait for that."""


SmallReply = tuple[Head, int, bytes, int]
"""The whole of a small response: its head, its task's number, the body, and the handler's time in
nanoseconds."""


class SmallReplies(Protocol):
    def whole(self, number: int, head: Head, body: bytes, began: int) -> int:
        """The whole response to the task of this number, with a body of at most `SMALL` bytes that its length
        does not differ from. Gives the time, in monotonic nanoseconds; `began` is when the handler did."""


class Responder(Protocol):
    """What a handler's fast path responds with, and how it leaves that path."""

    @property
    def outbox(self) -> SmallReplies: ...

    sent: int
    """Bytes of bodies that went without a Replier: to be added to."""

    @property
    def put_small(self) -> Callable[[SmallReply], None]:
        """The same as `outbox.whole` for a body of at most `SLIGHT` bytes, without its call."""

    def replier(self, number: int, began: int) -> Replier:
        """For anything but a small whole response: to be called once for a task."""


SMALL = 64 * 1024
"""Bytes of a body that goes in one message with its head."""

SLIGHT = 1024
"""Bytes of a body up to which it is not counted in what waits to be sent: no more than some 70 tasks are in a
worker at a time, and so many small ones fit a packet."""


# --- checking and encoding ------------------------------------------------------------------------

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Control characters, except for the tab (RFC 9110 5.5)."""

_STATUS = re.compile(r"([2-9][0-9][0-9])(?: (.*))?", re.DOTALL)

_DROPPED = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailers", "transfer-encoding", "upgrade")
)
"""Fields between server and client. PEP 3333 forbids them to applications ("Other HTTP Features"). But
recipes for event streams set them, an application that passes on another server's response has them in it,
and other servers drop them or let them pass. What they ask for is the pump's to decide: so they are dropped,
with one warning. (Upgrade stays in a 426, which must have it, as in ASGI, and gets its Connection from us.
Proxy-Authenticate, on the list of the PEP too, is what a 407 is for, and passes.)"""

_CODINGS = frozenset(("chunked", "identity"))
"""Of Transfer-Encoding, what can be dropped: with another one, the body would be something else."""

MAX_LINES = 4096
"""Encoded field lines that are remembered. An application's fields are mostly the same few."""
MAX_HEADS = 512
"""Encoded heads that are remembered."""
MAX_REMEMBERED = 1024
"""Bytes of a line or head; longer ones are encoded each time."""

MAX_FIELDS = 64 * 1024
"""Bytes of all field lines: with a body beside them they must fit one packet (MAX_PACKET). Clients and
proxies stop far below."""

_lines: dict[tuple[str, str], bytes] = {}
_heads: dict[tuple[Any, ...], Head] = {}


known_head = _heads.get
"""The head that (status, *fields) means, if `head_of` remembers it; else None. Raises TypeError for what has
no hash."""


def head_of(status: str, fields: list[tuple[str, str]]) -> Head:
    """The head that a WSGI application means. Raises BadHead.

    Remembered by its very strings: found again it costs 0.3 µs, made again 2 to 4.
    """
    try:
        key = (status, *fields)
        found = _heads.get(key)
    except TypeError:  # not a sequence, or of lists, which have no hash: `_make` says so
        return _make(status, fields)
    if found is not None:
        return found
    head = _make(status, fields)
    if len(head.fields) <= MAX_REMEMBERED and not head.sets_cookie:
        if len(_heads) >= MAX_HEADS:
            _heads.clear()
        _heads[key] = head
    return head


def _make(status: str, fields: list[tuple[str, str]]) -> Head:
    number, reason = _status(status)
    if not isinstance(fields, list):
        raise BadHead(f"The header fields must be a list, not {_kind(fields)}.")
    length = -1
    dated = sets_cookie = False
    upgrades = False
    dropped = ""
    lines = []
    for field in fields:
        name, value = _pair(field)
        lower = name.lower()
        if lower == "content-length":
            length = _length(value, length)
            continue
        if number == 426 and lower == "upgrade":
            upgrades = True
        elif lower in _DROPPED:
            _check_coding(lower, value)
            if not (number == 426 and lower == "connection"):
                dropped = name
            continue
        dated = dated or lower == "date"
        sets_cookie = sets_cookie or lower == "set-cookie"
        lines.append(_line(name, value))
    if upgrades:  # who sends Upgrade has to name it in Connection (RFC 9110 7.8)
        lines.append(b"Connection: Upgrade\r\n")
    encoded = b"".join(lines)
    if len(encoded) > MAX_FIELDS:
        raise BadHead(f"The header fields take {len(encoded)} bytes; no more than {MAX_FIELDS} can be sent.")
    return Head(number, reason, encoded, length, dated, sets_cookie, dropped, number in (204, 304))


def _status(status: str) -> tuple[int, str]:
    if not isinstance(status, str):
        raise BadHead(f"The status must be a str such as '200 OK', not {_kind(status)}.")
    match = _STATUS.fullmatch(status)
    if match is None:
        raise BadHead(f"The status {status!r} is not of the form '200 OK'.")
    number, reason = int(match[1]), (match[2] or "").strip(" \t")
    _check_text("status", status, reason)
    if len(reason) > 512:
        raise BadHead("The status has a reason of more than 512 characters.")
    return number, reason or usual_reason(number)


def usual_reason(number: int) -> str:
    """For a status such as "200". PEP 3333 asks for a reason; clients do not look at it."""
    return PHRASES.get(number, "Unknown")


def _pair(field: tuple[str, str]) -> tuple[str, str]:
    if not isinstance(field, tuple) or len(field) != 2:
        raise BadHead(f"A header field must be a tuple of name and value, not {field!r}.")
    name, value = field
    if not isinstance(name, str) or not isinstance(value, str):
        raise BadHead(f"The name and value of a header field must be str, not {field!r}.")
    return name, value


def _line(name: str, value: str) -> bytes:
    key = (name, value)
    line = _lines.get(key)
    if line is None:
        line = _checked_line(name, value)
        if len(line) <= MAX_REMEMBERED:
            if len(_lines) >= MAX_LINES:
                _lines.clear()
            _lines[key] = line
    return line


def _checked_line(name: str, value: str) -> bytes:
    if not _TOKEN.fullmatch(name):
        raise BadHead(f"{name!r} can't be the name of a header field.")
    _check_text(f"value of the header field {name!r}", value, value)
    return f"{name}: {value.strip(' 	')}\r\n".encode("latin-1")


def _check_coding(name: str, value: str) -> None:
    if name == "transfer-encoding" and value.strip(" \t").lower() not in _CODINGS:
        raise BadHead(f"The Transfer-Encoding {value!r} is between server and client, and can't be left out.")


def _check_text(what: str, whole: str, text: str) -> None:
    if _UNFIT.search(text):
        raise BadHead(f"The {what} has a control character in it: {whole!r}.")
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        raise BadHead(f"The {what} has a character that latin-1 has not: {whole!r}.") from None


def _length(value: str, before: int) -> int:
    text = value.strip(" \t")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadHead(f"The Content-Length {value!r} is not a number of bytes.")
    if before not in (-1, int(text)):
        raise BadHead(f"There are two Content-Length fields, {before} and {value!r}.")
    return int(text)


def _kind(thing: object) -> str:
    return type(thing).__name__


def plain(status: int, reason: str, text: str, fields: Iterable[tuple[str, str]] = ()) -> tuple[Head, bytes]:
    """A short response of the server's own, in plain text."""
    head = head_of(f"{status} {reason}", [*fields, ("Content-Type", "text/plain; charset=utf-8")])
    return head, text.encode()


INTERNAL_ERROR = plain(500, "Internal Server Error", "Internal server error.\n")
"""What a client sees when a handler raised. The traceback is in the error log."""


ENDED = plain(503, "Service Unavailable", "The server has ended this request: its code is being replaced.\n")
"""Where a worker that is replaced could not wait for a handler any longer."""


def internal_error(request_head: bytes) -> tuple[Head, bytes]:
    """The same for one request, with its id if it has one."""
    return of_one(INTERNAL_ERROR, request_head)


def of_one(response: tuple[Head, bytes], request_head: bytes) -> tuple[Head, bytes]:
    """With the id of the request, if it has one."""
    head, body = response
    return head, named_in(body, request_head)
