"""WSGI applications (PEP 3333).

The road of a trivial request is short on purpose: what can be known once for a mount and listener is in a
dictionary that is copied; names of fields are translated once; heads of replies are remembered
(`response.head_of`); and a response of one small piece needs no Replier (`WSGIHandler.quick`). What else an
application yields goes to the Replier at once. It alone decides whether bytes travel in memory, in a file,
or through a pipe.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from types import TracebackType
from typing import IO, Any, ClassVar

from halfsync.forwarded import Trust
from halfsync.handlers.errors import ErrorStream
from halfsync.logs.error import failure, log
from halfsync.plan import Listener, Mount, PoolPlan
from halfsync.primitives import os
from halfsync.request import SpooledBody, authority_of, decoded, path_and_query, without_cookie
from halfsync.response import (
    INTERNAL_ERROR,
    SMALL,
    ClientDisconnectedError,
    Head,
    Replier,
    Responder,
    head_of,
    known_head,
)
from halfsync.stamps import is_at_rest, stamp_of
from halfsync.temporary_files import out_of_reach
from halfsync.wire.messages import Ending, Lease, Task

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


MAX_SEEN = 512
MAX_SEEN_HEAD = 1024
"""Heads, and bytes of each, that are kept with what they say."""


class BadApplication(Exception):
    """The application broke PEP 3333; `str()` says how."""


class WSGIHandler:
    """The handler of one mount."""

    def __init__(
        self,
        application: Application,
        mount: Mount,
        pool: PoolPlan,
        listeners: Sequence[Listener],
        trust: Trust | None = None,
    ) -> None:
        """`trust`: whose X-Forwarded fields are believed; None: nobody's."""
        self._application = application
        self._trust = trust if trust is not None and trust.fields else None
        _Invocation.shaping = trust.shaping if trust is not None else ()
        self._prefix = mount.prefix.encode().decode("latin-1")
        self._bases = [self._base(pool, listener) for listener in listeners]
        # By listener: heads that were read before. Programs that call an interface send the same head
        # again and again; to copy what it said costs 0.3 µs, to read it again 2 and more.
        self._seen: list[dict[bytes, Environ]] = [{} for _ in listeners]

    def _base(self, pool: PoolPlan, listener: Listener) -> Environ:
        """What is the same in every request of this mount and listener."""
        return {
            "SCRIPT_NAME": self._prefix,
            "SERVER_SOFTWARE": "halfsync",
            # Never empty (PEP 3333); on a unix socket nobody knows, and HTTP_HOST is what counts.
            "SERVER_NAME": listener.host or "localhost",
            "SERVER_PORT": str(listener.port or 80),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": _errors,
            "wsgi.multithread": pool.threads > 1,
            "wsgi.multiprocess": pool.processes > 1,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,  # reading to the end is safe, whatever CONTENT_LENGTH says
            "wsgi.file_wrapper": FileWrapper,
        }

    def quick(self, task: Task, began: int, responder: Responder) -> int:
        """The fast path: a request without a spooled body, whose response is one small piece as it is. What
        turns out to be anything else goes on as in `__call__`; nothing has been sent of it by then.

        Gives the time when it ended, or 0 if a Replier was used (see `worker.threads.Quick`).
        """
        exchange = _Invocation(None, responder, task.number, began)
        try:
            result = self._application(self._environ(task, None, exchange), exchange.start_response)
            if type(result) is list and len(result) == 1:
                piece = result[0]
                if type(piece) is bytes and exchange.is_all(len(piece)):
                    exchange.replier_made = _OVER
                    assert exchange.head is not None
                    return responder.outbox.whole(task.number, exchange.head, piece, began)
            _send(exchange, result)
        except ClientDisconnectedError:
            _abort(exchange.replier)
        except BaseException:  # noqa: BLE001
            _fail(task, exchange.replier)
        return 0

    def __call__(self, task: Task, spool: SpooledBody | None, replier: Replier) -> None:
        exchange = _Invocation(replier)
        try:
            environ = self._environ(task, spool, exchange)
            _send(exchange, self._application(environ, exchange.start_response))
        except ClientDisconnectedError:
            _abort(replier)
        except BaseException:  # noqa: BLE001
            _fail(task, replier)

    def _environ(self, task: Task, spool: SpooledBody | None, exchange: _Invocation) -> Environ:
        seen = self._seen[task.listener]
        head, cookie = task.head, None
        found = seen.get(head)
        if found is None:
            head, cookie = without_cookie(head)
            if cookie is not None:
                found = seen.get(head)
        if found is not None:
            environ = found.copy()
            if cookie is not None:
                environ["HTTP_COOKIE"] = cookie
            environ["REMOTE_ADDR"] = task.client
            environ["REMOTE_PORT"] = _PORTS[task.client_port]
            environ["halfsync.lease"] = exchange.ask_lease
        else:
            environ = self._first_environ(task, head, exchange)
        exchange.method = environ["REQUEST_METHOD"]
        if spool is not None:
            environ["wsgi.input"] = io.BufferedReader(spool)
        else:
            environ["wsgi.input"] = BytesIO(task.body) if task.body else BytesIO()
        return environ

    def _first_environ(self, task: Task, head: bytes, exchange: _Invocation) -> Environ:
        """Of a head that was not read before. It is kept if it may come again and says all there is."""
        environ = self._read(task)
        by_proxy = self._trust is not None and self._trust.concerns(environ)
        # Kept without any cookie: it is each client's own.
        if (
            not task.body_size
            and len(head) <= MAX_SEEN_HEAD
            and b"cookie" not in head.lower()
            and not by_proxy
        ):
            seen = self._seen[task.listener]
            if len(seen) >= MAX_SEEN:
                seen.clear()
            seen[head] = kept = environ.copy()
            kept.pop("HTTP_COOKIE", None)
            kept.update(_EACH)
        environ["REMOTE_ADDR"] = task.client
        environ["REMOTE_PORT"] = str(task.client_port)
        environ["halfsync.lease"] = exchange.ask_lease
        if by_proxy:
            self._believe(environ, task, exchange)
        return environ

    def _believe(self, environ: Environ, task: Task, exchange: _Invocation) -> None:
        """The request has X-Forwarded fields."""
        assert self._trust is not None
        if self._trust.believes_peer(task.client):
            self._trust.apply(environ, task.client)
        else:
            # A lease would be the same for requests of a trusted peer with the same fields.
            environ["halfsync.lease"] = exchange.refuse_lease

    def _read(self, task: Task) -> Environ:
        """What the head says, and the size of the body."""
        environ = self._bases[task.listener].copy()
        lines = str(task.head, "latin-1").split("\r\n")
        method, target, protocol = lines[0].split(" ")
        path, query = path_and_query(target)
        if "%" in path:
            path = decoded(path)
        if self._prefix:
            path = self._below(environ, path)
        environ["REQUEST_METHOD"] = method
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = query
        environ["REQUEST_URI"] = environ["RAW_URI"] = target
        environ["SERVER_PROTOCOL"] = protocol
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            key = _KEYS[name]
            if key in environ:
                environ[key] += ("; " if key == "HTTP_COOKIE" else ", ") + value.strip(" \t")
            elif key:
                environ[key] = value.strip(" \t")
        if target[:1] != "/" and (authority := authority_of(target)):
            environ["HTTP_HOST"] = authority
        if task.body_size or "CONTENT_LENGTH" in environ:
            environ["CONTENT_LENGTH"] = str(task.body_size)
        return environ

    def _below(self, environ: Environ, path: str) -> str:
        """The path without the mount's prefix."""
        if path.startswith(self._prefix):
            return path[len(self._prefix) :]
        environ["SCRIPT_NAME"] = ""
        return path


_errors = ErrorStream()


class _Keys(dict[str, str]):
    """Field name as received -> key in the environ; "" for a field that the application does not
    see: one with an underscore (it would be taken for the one with a hyphen), and
    Transfer-Encoding (the body is decoded, CONTENT_LENGTH says its size)."""

    MAX = 1024

    def __missing__(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        if "_" in name or key == "TRANSFER_ENCODING":
            key = ""
        elif key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        if len(self) < self.MAX and len(name) <= 64:
            self[name] = key
        return key


_KEYS = _Keys()


class _Ports(dict[int, str]):
    """A client's port as the environ has it."""

    MAX = 1024

    def __missing__(self, port: int) -> str:
        if len(self) >= self.MAX:
            self.clear()
        self[port] = text = str(port)
        return text


_PORTS = _Ports()

_EACH = dict.fromkeys(("REMOTE_ADDR", "REMOTE_PORT", "halfsync.lease", "wsgi.input"))
"""What differs with each request has its place in what is kept: to put it in does not enlarge the copy, which
would cost as much as the copy."""


@lru_cache(maxsize=8)  # once for each
def _warn_of_dropped(name: str) -> None:
    log("warning", f"The application sets the header field {name!r}, which is the server's: it is left out.")


@lru_cache(maxsize=8)  # once for each
def _warn_of_lease(why: str) -> None:
    log("warning", f"The application asked for a lease of a reply that can't have one: {why}. (Said once.)")


class FileWrapper:
    """`wsgi.file_wrapper`: an iterable over a file. With a true file, it is never iterated."""

    def __init__(self, filelike: IO[bytes], block_size: int = 64 * 1024) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if data := self.filelike.read(self.block_size):
            return data
        raise StopIteration


class _Invocation:
    """One request's start_response, and what the application has said of its reply so far."""

    __slots__ = (
        "_began", "_dropped", "_lease", "_length", "_number", "_responder", "_sent",
        "head", "method", "replier_made",
    )  # fmt: skip

    shaping: ClassVar[tuple[str, ...]] = ()
    """X-Forwarded fields on which every response may depend, so that every lease does."""

    def __init__(
        self, replier: Replier | None, responder: Responder | None = None, number: int = 0, began: int = 0
    ) -> None:
        """Without a `replier`, one is got from `responder` when it is needed."""
        self.replier_made = replier
        self._responder = responder
        self._number = number
        self._began = began
        self._length = -1  # of the whole body, once it is known
        self._sent = 0
        self._dropped = False
        self._lease: Lease | None = None
        self.head: Head | None = None
        self.method = ""

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
        try:
            head = known_head((status, *fields)) or head_of(status, fields)
        except TypeError:  # not a sequence, or of lists: `head_of` says so
            head = head_of(status, fields)
        self.head = head
        self._length = head.length
        if head.dropped:
            _warn_of_dropped(head.dropped)
        return self.write

    def write(self, data: bytes) -> None:
        """What start_response returns."""
        self.send(data)

    def ask_lease(self, seconds: float, *names: str, public: bool = False) -> None:
        """`environ["halfsync.lease"]`: this reply may be repeated for `seconds` to requests with the
        same method, site, target and values of the fields `names`, without asking the application.
        Name every field on which the reply depends: Cookie and Authorization, if it is not for all.
        `public`: it is the same for all, also for those who send Authorization.

        For GET and HEAD. Ignored, with a warning in the log, if its body is not whole when it is handed
        over, or a rule is against it (see pump/lease_rules.py).
        """
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} can't be the name of a header field")
        if seconds > 0 and self.method in ("GET", "HEAD"):
            lower = (*[name.lower() for name in names], *self.shaping)
            self._lease = Lease(float(seconds), lower, bool(public))

    def refuse_lease(self, _seconds: float, *_names: str, public: bool = False) -> None:
        """In place of `ask_lease`."""
        _warn_of_lease("the request has X-Forwarded fields from a peer that is not in forwarded_allow_ips")

    # --- what it hands back -------------------------------------------------------------------------

    @property
    def replier(self) -> Replier:
        if self.replier_made is None:
            assert self._responder is not None
            self.replier_made = self._responder.replier(self._number, self._began)
        return self.replier_made

    def is_all(self, size: int) -> bool:
        """Whether one piece of this size is the whole response, as it is, and a small one."""
        head = self.head
        return (
            head is not None
            and self.replier_made is None
            and (head.length == size or head.length < 0)
            and size <= SMALL
            and self._lease is None
            and not head.bodiless
            and self.method != "HEAD"
        )

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
        length = len(body) if self._length < 0 else self._length
        if len(body) > length and not self._is_bodiless(head):
            self._warn_of_surplus()
            body = body[:length]
        if len(body) == length and (not self._is_bodiless(head) or self._lease is not None):
            self._whole(head, length, body, self._granted(head, length))
        elif self._is_bodiless(head):
            self._whole(head, self._length if head.status == 304 else length, b"", None)
        else:
            self._length = length
            self.send(body)
            self.finish()

    def send_file(self, descriptor: int, offset: int, count: int, status: os.stat_result) -> None:
        """What is in a regular file. Closes the descriptor."""
        head = self._head()
        length = count if self._length < 0 else self._length
        if self._is_bodiless(head) and self._lease is None:
            os.close(descriptor)
            self._whole(head, length, b"", None)
            return
        if count > length:
            self._warn_of_surplus()
        if count < length:
            self._length, self._sent = length, count
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
            self._dropped = True
            return
        if self._length >= 0:
            piece = self._within_length(piece)
            if not piece:
                return
        self._sent += len(piece)
        last = self._sent == self._length
        if self.replier.begun:
            self.replier.write(piece, last=last)
        elif last:
            self._whole(head, self._length, piece, self._granted(head, self._length))
        else:
            self._refuse_lease("its body comes in pieces")
            self.replier.begin(head, self._length, piece)

    def finish(self) -> None:
        """There will be no more pieces."""
        head = self._head()
        if self.replier.ended:
            return
        if self._is_bodiless(head):
            self._whole(head, self._length, b"", None)
        elif self._sent < self._length:
            self._complain_of_missing()
            if not self.replier.begun:
                self.replier.begin(head, self._length, b"")
            self.replier.abort()
        elif self.replier.begun:
            self.replier.finish()
        else:
            self._whole(head, 0, b"", self._granted(head, 0))

    @property
    def is_disconnected(self) -> bool:
        """There has been a piece that was not to be sent. (A body that is whole may still be iterated: it
        may have something to do at its end.)"""
        return self._dropped

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
        room = self._length - self._sent
        if len(piece) > room:
            self._warn_of_surplus()
        return piece[:room]

    def _warn_of_surplus(self) -> None:
        if not self._dropped:
            log(
                "warning",
                f"The application gave more than its Content-Length of {self._length}; the rest is dropped.",
            )
        self._dropped = True

    def _complain_of_missing(self) -> None:
        log(
            "error",
            f"The application gave {self._sent} of the {self._length} bytes that its Content-Length says; "
            "the connection is aborted.",
        )

    def _granted(self, head: Head, length: int) -> Lease | None:
        if self._lease is None:
            return None
        if head.sets_cookie:
            self._refuse_lease("it sets a cookie")
            return None
        return self._lease

    def _refuse_lease(self, why: str) -> None:
        if self._lease is not None:
            _warn_of_lease(why)


_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def _checked_piece(piece: object) -> bytes:
    """The piece, without what a subclass of bytes has beside them: that can't be encoded."""
    if type(piece) is bytes:
        return piece
    if not isinstance(piece, bytes):
        raise BadApplication(f"A body consists of bytes, not of {type(piece).__name__}.")
    return bytes(memoryview(piece))


class _Over:
    """The Replier of an exchange whose whole response was handed over without one."""

    begun = ended = True

    def write(self, piece: bytes, *, last: bool = False) -> None:
        raise BadApplication("The application writes after its response.")

    def check_client(self) -> None:
        pass


_OVER: Any = _Over()


# --- any iterable -----------------------------------------------------------------------------------


def _send(exchange: _Invocation, result: Iterable[bytes]) -> None:
    """Send what the application returned, and close it whatever happens."""
    try:
        if type(result) is list or type(result) is tuple:
            exchange.send_all(result)
        elif not (type(result) is FileWrapper and _send_file(exchange, result)):
            _iterate(exchange, result)
    finally:
        if hasattr(result, "close"):
            exchange.soon()  # close() may take its time: work for after the reply is done there
            result.close()


def _iterate(exchange: _Invocation, result: Iterable[bytes]) -> None:
    alone = _length_hint(result) == 1
    for piece in result:
        if alone and not exchange.begun:
            exchange.send_all([piece])
        else:
            exchange.send(piece)
        if exchange.is_disconnected:
            break
    exchange.finish()


def _length_hint(result: Iterable[bytes]) -> int:
    """`len(result)`, if it has one (PEP 3333, "Handling the Content-Length Header")."""
    try:
        return len(result)  # type: ignore[arg-type]
    except (TypeError, AttributeError, NotImplementedError):
        return -1


def _send_file(exchange: _Invocation, wrapper: FileWrapper) -> bool:
    """Send a true file's rest by its descriptor. False if it is none: then it must be iterated."""
    if exchange.begun:
        return False
    file = _true_file(wrapper.filelike)
    if file is None:
        return False
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        return False
    offset = file.tell()
    descriptor = out_of_reach(os.dup(file.fileno()))
    exchange.send_file(descriptor, offset, max(0, status.st_size - offset), status)
    return True


def _true_file(filelike: Any) -> IO[bytes] | None:
    """The file whose descriptor holds the very bytes that `filelike.read` would give.

    A `fileno` method alone says nothing of it: gzip.GzipFile has one, and gives other bytes.
    """
    if type(filelike).__name__ == "_TemporaryFileWrapper":  # tempfile.NamedTemporaryFile
        filelike = filelike.file
    raw = filelike.raw if type(filelike) in (io.BufferedReader, io.BufferedRandom) else filelike
    return filelike if type(raw) is io.FileIO and raw.readable() and not raw.closed else None


# --- when it goes wrong ---------------------------------------------------------------------------


def _abort(replier: Replier) -> None:
    if replier.begun and not replier.ended:
        replier.abort()


def _fail(task: Task, replier: Replier) -> None:
    """The application raised. The client gets 500 if nothing was sent, else a broken connection."""
    replier.end_if_child()
    line = str(task.head.partition(b"\r\n")[0], "latin-1").rpartition(" ")[0].partition("?")[0]
    when = "after" if replier.ended else "while sending" if replier.begun else "before"
    log("error", f"Exception {when} the response to {line}:\n{failure(skip=1)}")
    if replier.begun:
        _abort(replier)
    else:
        head, body = INTERNAL_ERROR
        replier.whole(head, len(body), body)
