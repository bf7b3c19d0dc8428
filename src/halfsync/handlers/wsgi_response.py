"""What a WSGI application says of its response: start_response, and from there to simple objects.

An `Invocation` is one call of the application. It holds what is known of the response so far, checks it
against PEP 3333, and hands it to the Replier, which alone decides whether bytes travel in memory, in a file,
or through a pipe. Heads of responses are remembered (`response.head_of`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, ClassVar

from halfsync.handlers.wsgi_socket import UpgradeSocket
from halfsync.http.response import Head, Replier, Responder, head_of, known_head
from halfsync.logs.error import log
from halfsync.system.primitives import os
from halfsync.system.stamps import is_at_rest, stamp_of
from halfsync.wire.messages import Ending, Lease, Task

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class BadApplication(Exception):
    """The application broke PEP 3333; `str()` says how."""


class Invocation:
    """One request's start_response, and what the application has said of its response so far."""

    # What most never touch stands in the class, and in the dictionary when it is set.
    __slots__ = (
        "__dict__",
        "began",
        "head",
        "length",
        "replier_made",
        "responder",
        "task",
    )  # fmt: skip

    sent = 0
    dropped = False
    lease: Lease | None = None
    socket: UpgradeSocket | None = None

    shaping: ClassVar[tuple[str, ...]] = ()
    """X-Forwarded fields on which every response may depend, so that every lease does."""

    # Set by whoever makes it. It has no __init__, which would cost the fast path 0.02 µs.
    task: Task
    replier_made: Replier | None
    responder: Responder | None  # without a Replier, from here it is got when it is needed
    began: int
    head: Head | None
    length: int  # of the whole body, or -1; set with `head`

    # --- what the application calls ---------------------------------------------------------------

    def start_response(
        self, status: str, fields: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info:
            try:
                if self.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it would be a cycle with this frame
        elif self.head is not None:
            raise BadApplication("start_response was called again without exc_info.")
        last_status, last_fields, last_head = _last.told
        head = last_head if status == last_status and fields == last_fields else _head_of(status, fields)
        self.head = head
        self.length = head.length
        return self

    def __call__(self, data: bytes) -> None:
        """The `write` that start_response returns, which is the object itself: to bind a method costs
        0.04 µs, and hardly any application writes."""
        self.send(data)

    def ask_lease(self, seconds: float, *names: str, public: bool = False) -> None:
        """`environ["halfsync.lease"]`: this response may be repeated for `seconds` to requests with the
        same method, site, target and values of the fields `names`, without asking the application.
        Name every field on which the response depends: Cookie and Authorization, if it is not for all.
        `public`: it is the same for all, also for those who send Authorization.

        For GET and HEAD. Ignored, with a warning in the log, if its body is not whole when it is handed
        over, or a rule is against it (see pump/leases/rules.py).
        """
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} can't be the name of a header field")
        if seconds > 0 and self.method in ("GET", "HEAD"):
            lower = (*[name.lower() for name in names], *self.shaping)
            self.lease = Lease(float(seconds), lower, bool(public))
            _ = self.replier  # so that it is not for the fast path

    def refuse_lease(self, _seconds: float, *_names: str, public: bool = False) -> None:
        """In place of `ask_lease`."""
        _warn_of_lease("the request has X-Forwarded fields from a peer that is not in forwarded_allow_ips")

    def give_socket(self) -> UpgradeSocket:
        """`environ["gunicorn.socket"]`."""
        self.socket = UpgradeSocket(lambda: self.replier)
        return self.socket

    # --- what it hands back -------------------------------------------------------------------------

    @property
    def replier(self) -> Replier:
        if self.replier_made is None:
            assert self.responder is not None
            self.replier_made = self.responder.replier(self.task.number, self.began)
        return self.replier_made

    @property
    def method(self) -> str:
        """The request's."""
        return self.task.head.partition(b" ")[0].decode("latin-1")

    def send_all(self, pieces: Sequence[bytes]) -> None:
        """All the pieces that remain, when it is known that these are all."""
        head = self._head()
        pieces = [_checked_piece(piece) for piece in pieces]
        if self.begun:
            for piece in pieces:
                self.send(piece)
            self.finish()
            return
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if not body and self.length < 0 and self.method == "HEAD":
            # How long that of a GET would be is not known: "Content-Length: 0" could be wrong (RFC 9110 8.6).
            self._whole(head, -1, b"", self._granted(head, -1))
            return
        length = len(body) if self.length < 0 else self.length
        if len(body) > length and not self._is_bodiless(head):
            self._warn_of_surplus()
            body = body[:length]
        if len(body) == length and (not self._is_bodiless(head) or self.lease is not None):
            self._whole(head, length, body, self._granted(head, length))
        elif self._is_bodiless(head):
            self._whole(head, self.length if head.status == 304 else length, b"", None)
        else:
            self.length = length
            self.send(body)
            self.finish()

    def send_file(self, descriptor: int, offset: int, count: int, status: os.stat_result) -> None:
        """What is in a regular file. Closes the descriptor."""
        head = self._head()
        length = count if self.length < 0 else self.length
        if self._is_bodiless(head) and self.lease is None:
            os.close(descriptor)
            self._whole(head, length, b"", None)
            return
        if count > length:
            self._warn_of_surplus()
        if count < length:
            self.length, self.sent = length, count
            self._complain_of_missing()
        ending = Ending.ABORTED if count < length else Ending.DONE
        lease = self._granted(head, length) if ending is Ending.DONE and is_at_rest(status) else None
        stamp = stamp_of(status) if status.st_nlink else None  # a file without a name is the application's
        self.replier.file(head, length, descriptor, offset, min(count, length), lease, ending, stamp)

    def send(self, piece: bytes) -> None:
        """One piece of perhaps many; it leaves at once."""
        head = self._head()
        piece = _checked_piece(piece)
        if not piece:
            self.replier.check_client()
            return
        if self._is_bodiless(head):
            self.dropped = True
            return
        if self.length >= 0:
            piece = self._within_length(piece)
            if not piece:
                return
        self.sent += len(piece)
        last = self.sent == self.length
        if self.replier.begun:
            self.replier.write(piece, last=last)
        elif last:
            self._whole(head, self.length, piece, self._granted(head, self.length))
        else:
            self._refuse_lease("its body comes in pieces")
            self.replier.begin(head, self.length, piece)

    def finish(self) -> None:
        """There will be no more pieces."""
        head = self._head()
        if self.replier.ended:
            return
        if self._is_bodiless(head):
            self._whole(head, self.length, b"", None)
        elif self.sent < self.length:
            self._complain_of_missing()
            if not self.replier.begun:
                self.replier.begin(head, self.length, b"")
            self.replier.abort()
        elif self.replier.begun:
            self.replier.finish()
        else:
            self._whole(head, 0, b"", self._granted(head, 0))

    @property
    def is_disconnected(self) -> bool:
        """There has been a piece that was not to be sent. (A body that is whole may still be iterated: it
        may have something to do at its end.)"""
        return self.dropped

    @property
    def begun(self) -> bool:
        return self.replier_made is not None and self.replier_made.begun

    def soon(self) -> None:
        self.replier.soon()

    def _head(self) -> Head:
        if self.head is None:
            raise BadApplication("The application did not call start_response.")
        return self.head

    def _whole(self, head: Head, length: int, body: bytes, lease: Lease | None) -> None:
        self.replier.whole(head, length, body, lease)

    def _is_bodiless(self, head: Head) -> bool:
        return self.method == "HEAD" or head.bodiless

    def _within_length(self, piece: bytes) -> bytes:
        room = self.length - self.sent
        if len(piece) > room:
            self._warn_of_surplus()
        return piece[:room]

    def _warn_of_surplus(self) -> None:
        if not self.dropped:
            log(
                "warning",
                f"The application gave more than its Content-Length of {self.length}; the rest is dropped.",
            )
        self.dropped = True

    def _complain_of_missing(self) -> None:
        log(
            "error",
            f"The application gave {self.sent} of the {self.length} bytes that its Content-Length says; "
            "the connection is aborted.",
        )

    def _granted(self, head: Head, length: int) -> Lease | None:
        if self.lease is None:
            return None
        if head.sets_cookie:
            self._refuse_lease("it sets a cookie")
            return None
        return self.lease

    def _refuse_lease(self, why: str) -> None:
        if self.lease is not None:
            _warn_of_lease(why)


class _LastHead:
    """What an application has said twice in a row it is likely to say again: to compare with that costs
    0.15 µs less than to look it up."""

    __slots__ = ("found", "told")

    def __init__(self) -> None:
        # Status, fields, and what they mean. (No fields are None.)
        self.told: tuple[str, list[tuple[str, str]] | None, Head] = ("", None, Head(0, "", b""))
        self.found: Head | None = None  # the one that was looked up last


_last = _LastHead()  # (of all threads: each reads and writes it at once)


def _head_of(status: str, fields: list[tuple[str, str]]) -> Head:
    """As `head_of`, for what was not said last."""
    try:
        head = known_head((status, *fields))
    except TypeError:  # not a sequence, or of lists: `head_of` says so
        head = None
    if head is None:
        head = head_of(status, fields)
    if head.dropped:  # such a head is never the last
        _warn_of_dropped(head.dropped)
        return head
    if head is _last.found:
        _last.told = (status, list(fields), head)
    _last.found = head
    return head


def invocation_of(task: Task, replier: Replier) -> Invocation:
    """One that responds with this Replier."""
    invocation = Invocation()
    invocation.task = task
    invocation.replier_made = replier
    invocation.responder = None
    invocation.began = 0
    invocation.head = None
    return invocation


_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def _checked_piece(piece: object) -> bytes:
    """The piece, without what a subclass of bytes has beside them: that can't be encoded."""
    if type(piece) is bytes:
        return piece
    if not isinstance(piece, bytes):
        raise BadApplication(f"A body consists of bytes, not of {type(piece).__name__}.")
    return bytes(memoryview(piece))


class _Over:
    """The Replier of an invocation whose whole response was handed over without one."""

    begun = ended = True

    def write(self, piece: bytes, *, last: bool = False) -> None:
        raise BadApplication("The application writes after its response.")

    def check_client(self) -> None:
        pass


OVER: Any = _Over()


@lru_cache(maxsize=8)  # once for each
def _warn_of_dropped(name: str) -> None:
    log("warning", f"The application sets the header field {name!r}, which is the server's: it is left out.")


@lru_cache(maxsize=8)  # once for each
def _warn_of_lease(why: str) -> None:
    log(
        "warning", f"The application asked for a lease of a response that can't have one: {why}. (Said once.)"
    )
