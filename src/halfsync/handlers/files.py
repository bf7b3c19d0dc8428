"""A folder of files, or one file, served by URL.

Theory of operation
-------------------
A handler resolves the path, decides, and hands over bytes (small files) or a descriptor. The response carries
a lease, so for a hot file all this is done once per second, and may be thorough:

 - The path is decoded once and refused if any part of it is a dot file, `.` or `..`, or has a NUL or a
   backslash. That alone keeps a path inside, except for symbolic links. So:
 - The folder is opened, each time (it may be a link that is turned to a new release), and the file within
   it with O_PATH, which follows links but touches nothing (no device wakes, no FIFO waits). Then the kernel
   is asked where both descriptors really are (/proc/self/fd). Only what is beneath the folder, with no
   dot part in between, is opened for reading, and through the very same descriptor: what was checked is
   what is sent, even if names change meanwhile.
 - Only regular files are sent.
 - A file may be written into while it is looked at (see stamps.py). One that was changed just now is given
   time to come to rest; a small one is read between two looks; with a large one goes what it was, and
   the pump looks again.

What may not be served and what does not exist get the same 404, or, with `fallback`, that file. A path that
must not be looked at gets 404 in any case. A folder without an index is as if it did not exist, or, with
`listing`, a page of what is in it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from urllib.parse import quote, unquote_to_bytes

import msgspec

from halfsync.handlers.caching import Caching
from halfsync.handlers.conditions import UNSATISFIABLE, Span, Validators, Verdict, judge, span
from halfsync.handlers.encodings import SUFFIXES, preferred
from halfsync.handlers.listings import (
    CONTENT_SECURITY_POLICY,
    OLDEST,
    BusyError,
    Listings,
    entries_of,
    page,
    turns_of,
)
from halfsync.http.content_types import content_type
from halfsync.http.request import RequestBody, fields_of, lines_of, path_and_query
from halfsync.http.response import Head, Replier, head_of, plain
from halfsync.plan.plan import RoutePlan
from halfsync.settings.table import Settings
from halfsync.system.folders import absolute
from halfsync.system.stamps import REST, age, is_at_rest, is_same_content, stamp_of
from halfsync.wire.messages import Ending, Lease, Task

_MAX_BODY = 64 * 1024
"""Bytes that fit a Reply beside its head."""

_TRIES = 3
"""How often a file is read that changes while it is read; and how often one is waited for."""
_MOMENT = 0.005
"""Seconds in which a write(2) into a small file ends."""
_WELL_KNOWN = b".well-known"
"""The one dot folder that is meant for the public (RFC 8615), at a site's root."""

_WITH_TAGS = ("if-match", "if-none-match")

LISTED = 1.0
"""Seconds, at most, for which a listing is sent again."""

_OUR_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""Errors that say nothing of whether the file is there."""

_NOT_FOUND = plain(404, "Not Found", "There is nothing here.\n")
_NOT_ALLOWED = plain(405, "Method Not Allowed", "Files can be read only.\n", [("Allow", "GET, HEAD")])
_BUSY = plain(503, "Service Unavailable", "The file is being written.\n", [("Retry-After", "1")])
_TOO_MANY_LISTINGS = plain(
    503, "Service Unavailable", "Too many requests wait for listings of folders.\n", [("Retry-After", "1")]
)
_PRECONDITION_FAILED = plain(412, "Precondition Failed", "The file is not as you expected it.\n")


class _Asked(msgspec.Struct, frozen=True):
    """A request, and what of its response is known before the file is looked at."""

    method: str
    fields: dict[str, str]
    replier: Replier
    name: bytes  # of the file, within the folder
    is_fallback: bool = False
    coding: str = ""  # of the neighbour that is sent in the file's place

    @property
    def text_name(self) -> str:
        return os.fsdecode(self.name.rpartition(b"/")[2])

    @property
    def path(self) -> str:
        """The same within the folder."""
        return os.fsdecode(self.name)


class FilesHandler:
    """The handler of one route."""

    def __init__(self, route: RoutePlan, settings: Settings) -> None:
        self._prefix = route.prefix.encode()
        self._root = os.fsencode(absolute(route.target))
        self._file = b""  # the name, if one file is mounted
        if route.files.is_file:
            self._root, _, self._file = self._root.rpartition(b"/")
        self._fallback = os.fsencode(route.files.fallback)
        self._lists = route.files.listing
        self._of_others = frozenset(one.encode() for one in route.files.of_others)
        self._precompressed = route.files.precompressed
        self._caching = Caching(route.files)
        self._listings = Listings(min(route.files.lease, LISTED), turns_of(settings.builtin_threads))
        # Threads that may wait for files to come to rest; one has other files to send (and waits for REST at
        # most, if such a file is large).
        self._waiting = threading.Semaphore(max(1, settings.builtin_threads - 1))
        self._small = min(settings.lease_file_memory, _MAX_BODY)

    def __call__(self, task: Task, spool: RequestBody | None, replier: Replier) -> None:
        request_line, *field_lines = lines_of(task.head)
        method, target, _ = request_line.split(" ")
        if method not in ("GET", "HEAD"):
            replier.own(*_NOT_ALLOWED)
            return
        raw_path, query = path_and_query(target)
        path = unquote_to_bytes(raw_path.encode("latin-1"))
        parts = self._parts(path)
        if parts is None:
            self._not_found(replier)
            return
        wanted = b"/".join(parts) + (b"" if parts[-1] else b"index.html")
        asked = _Asked(method, fields_of(field_lines), replier, wanted)
        at = self._resolve(wanted)
        try:
            if at >= 0 and parts[-1] and stat.S_ISDIR(os.fstat(at).st_mode):
                if not self._fallback or self._lists or self._is_there(wanted + b"/index.html"):
                    self._redirect(raw_path, query, replier)
                    return
            elif at >= 0 and self._send(asked, at):
                return
        finally:
            if at >= 0:
                os.close(at)
        if self._lists and not parts[-1] and self._list(asked, b"/".join(parts[:-1]), path):
            return
        if not self._fallback or not self._send_fallback(asked):
            self._not_found(replier)

    # --- which file ----------------------------------------------------------------------------------

    def _parts(self, path: bytes) -> list[bytes] | None:
        """What is asked for, within the folder; None if nothing of that kind is served."""
        below = path[len(self._prefix) :]
        if self._file:
            return [self._file] if below == (b"" if self._prefix else b"/") else None
        return _parts(below, at_root=not self._prefix)

    def _resolve(self, wanted: bytes) -> int:
        """An O_PATH descriptor of that, when it may be served; else -1."""
        try:
            root = os.open(self._root or b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if self._file:  # it was named, so it is meant, wherever it leads
                    return os.open(wanted, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
                return _open_beneath(root, wanted)
            finally:
                os.close(root)
        except OSError as error:
            if error.errno in _OUR_FAULT:
                raise
            return -1

    def _is_there(self, wanted: bytes) -> bool:
        at = self._resolve(wanted)
        if at >= 0:
            os.close(at)
        return at >= 0

    # --- what to respond -------------------------------------------------------------------------------

    def _not_found(self, replier: Replier) -> None:
        replier.own(*_NOT_FOUND, self._caching.lease_of_nothing)

    def _redirect(self, raw_path: str, query: str, replier: Replier) -> None:
        """To the same path with a slash at its end. One slash at the beginning: two would name a host."""
        location = "/" + quote(raw_path.lstrip("/"), safe="/%:@!$&'()*+,;=~", encoding="latin-1") + "/"
        location += "?" + quote(query, safe="/%:@!$&'()*+,;=~?", encoding="latin-1") if query else ""
        head, body = plain(301, "Moved Permanently", "It is a folder.\n", [("Location", location)])
        replier.whole(head, len(body), body, self._caching.lease_of_nothing)

    def _send_fallback(self, asked: _Asked) -> bool:
        """False if it is not there either."""
        at = self._resolve(self._fallback)
        if at < 0:
            return False
        try:
            return self._send(msgspec.structs.replace(asked, name=self._fallback, is_fallback=True), at)
        finally:
            os.close(at)

    def _list(self, asked: _Asked, folder: bytes, path: bytes) -> bool:
        """Respond with what is in this folder, of the route's. False if it may not be read, or has an index,
        which may not."""
        try:
            found = self._listings.get(folder, lambda: self._page(folder, path))
        except BusyError:
            asked.replier.own(*_TOO_MANY_LISTINGS)
            return True
        if found is None:
            return False
        body, etag = found.body, found.etag
        lines = [("ETag", etag), *self._caching.fields(asked.path, is_fallback=True)]
        lease = self._caching.lease(asked.path, is_fallback=True)
        if lease is not None:
            left = max(0.0, found.until - time.monotonic())
            lease = msgspec.structs.replace(lease, seconds=min(lease.seconds, left))
        # (Dates mean nothing of it: RFC 9110 13.1.3 and 13.1.4. It has none.)
        conditions = {name: value for name, value in asked.fields.items() if name in _WITH_TAGS}
        verdict = judge(conditions, Validators(etag, 0))
        if verdict is Verdict.NOT_MODIFIED:
            asked.replier.whole(head_of("304 Not Modified", lines), -1, b"", lease)
        elif verdict is Verdict.FAILED:
            asked.replier.own(*_PRECONDITION_FAILED, lease)
        else:
            lines.append(("Content-Type", "text/html; charset=utf-8"))
            lines.append(("Content-Security-Policy", CONTENT_SECURITY_POLICY))
            asked.replier.whole(head_of("200 OK", lines), len(body), body, lease)
        return True

    def _page(self, folder: bytes, path: bytes) -> bytes | None:
        at = self._resolve(folder or b".")
        if at < 0:
            return None
        try:
            opened = _reopened(at, os.O_DIRECTORY)
        finally:
            os.close(at)
        if opened < 0:
            return None
        try:
            if not os.access(f"/proc/self/fd/{opened}", os.X_OK) or _has(opened, "index.html"):
                return None
            entries = entries_of(opened, lambda name: self._resolve(folder + b"/" + name if folder else name))
        finally:
            os.close(opened)
        of_others = self._of_others
        shown = [one for one in entries if path + one.name not in of_others] if of_others else entries
        return page(path, shown, has_parent=bool(folder))

    def _send(self, asked: _Asked, at: int) -> bool:
        """Respond with this file, or a neighbour of it. False if there is nothing that may be sent."""
        descriptor = _open_to_read(at)
        if descriptor < 0:
            return False
        try:
            if self._precompressed and (found := self._neighbour(asked, os.fstat(descriptor))) is not None:
                os.close(descriptor)
                descriptor, coding = found
                asked = msgspec.structs.replace(asked, coding=coding)
            self._answer(asked, descriptor)
        finally:
            os.close(descriptor)
        return True

    def _neighbour(self, asked: _Asked, status: os.stat_result) -> tuple[int, str] | None:
        """The file beside it that has the same content in a coding that the client prefers, open, if there is
        one and it is not older: that would be of a former content. Never for a range: a client that asks
        for one has, or wants, parts of the file as it is."""
        if asked.method == "GET" and "range" in asked.fields:  # of HEAD it means nothing (RFC 9110 14.2)
            return None
        for coding in preferred(asked.fields.get("accept-encoding")):
            at = self._resolve(asked.name + SUFFIXES[coding])
            if at < 0:
                continue
            try:
                descriptor = _open_to_read(at)
            finally:
                os.close(at)
            if descriptor >= 0 and os.fstat(descriptor).st_mtime_ns >= status.st_mtime_ns:
                return descriptor, coding
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def _answer(self, asked: _Asked, descriptor: int) -> None:
        for _ in range(_TRIES):
            status = self._at_rest(descriptor)
            if status is None:
                break
            if self._answer_as_it_is(asked, descriptor, status):
                return
        asked.replier.own(*_BUSY)

    def _at_rest(self, descriptor: int) -> os.stat_result | None:
        """What the file is when nobody is writing into it. Of one that does not come to rest: what it is now,
        if it is small (a write into it is over before it is read) or grows; None of a large one that is
        rewritten, for two of its versions would be read as one."""
        status = before = os.fstat(descriptor)
        if is_at_rest(status):
            return status
        may_wait = self._waiting.acquire(blocking=False)
        if not may_wait and status.st_size <= self._small:
            time.sleep(_MOMENT)
            return os.fstat(descriptor)
        try:
            for _ in range(_TRIES if may_wait else 1):
                before = status
                time.sleep(max(0.001, REST - age(status)))
                status = os.fstat(descriptor)
                if is_at_rest(status):
                    return status
        finally:
            if may_wait:
                self._waiting.release()
        return status if status.st_size <= self._small or status.st_size > before.st_size else None

    def _answer_as_it_is(self, asked: _Asked, descriptor: int, status: os.stat_result) -> bool:
        """False if it is so no more, and nothing was said."""
        size, replier = status.st_size, asked.replier
        tag = f"{status.st_mtime_ns:x}-{size:x}"
        if asked.coding:  # its times are usually those of the file
            tag += f"-{asked.coding}"
        lease = self._caching.lease(asked.path, is_fallback=asked.is_fallback)
        if not is_at_rest(status):  # it may change, and its times stay the same
            tag += f"-{time.time_ns():x}"
            lease = None
        # A date to come means nothing to a client (RFC 9110 8.8.2.1).
        validators = Validators(f'"{tag}"', int(min(max(status.st_mtime, OLDEST), time.time())))
        lines = [("ETag", validators.etag), ("Last-Modified", validators.last_modified)]
        lines += self._caching.fields(asked.path, is_fallback=asked.is_fallback)
        verdict = judge(asked.fields, validators)
        if verdict is Verdict.NOT_MODIFIED:
            replier.whole(head_of("304 Not Modified", lines), -1, b"", lease)
            return True
        if verdict is Verdict.FAILED:
            replier.own(*_PRECONDITION_FAILED, lease)
            return True
        part = span(asked.fields, validators, size) if asked.method == "GET" else None
        lines += [("Accept-Ranges", "bytes"), ("Content-Type", content_type(asked.text_name))]
        if asked.coding:
            lines.append(("Content-Encoding", asked.coding))
        if part is None:
            return self._deliver(head_of("200 OK", lines), descriptor, Span(0, size), status, lease, replier)
        if part is UNSATISFIABLE:
            replier.own(*_unsatisfiable(size))
            return True
        last = part.offset + part.count - 1
        lines.append(("Content-Range", f"bytes {part.offset}-{last}/{size}"))
        return self._deliver(head_of("206 Partial Content", lines), descriptor, part, status, lease, replier)

    def _deliver(
        self,
        head: Head,
        descriptor: int,
        part: Span,
        status: os.stat_result,
        lease: Lease | None,
        replier: Replier,
    ) -> bool:
        """(For HEAD too: the pump does not send the body, but a lease must know its length.)"""
        stamp = stamp_of(status)
        if part.count > self._small:
            replier.file(
                head, part.count, os.dup(descriptor), part.offset, part.count, lease, Ending.DONE, stamp
            )
            return True
        body = os.pread(descriptor, part.count, part.offset)
        if len(body) != part.count or not is_same_content(stamp, stamp_of(os.fstat(descriptor))):
            return False
        replier.whole(head, part.count, body, lease)
        return True


def _open_to_read(at: int) -> int:
    """What an O_PATH descriptor is of; -1 if it is no regular file, or not ours to read."""
    return _reopened(at, os.O_NONBLOCK) if stat.S_ISREG(os.fstat(at).st_mode) else -1


def _reopened(at: int, flags: int) -> int:
    """The same, to be read; -1 if it is not ours to read."""
    try:
        return os.open(b"/proc/self/fd/%d" % at, os.O_RDONLY | os.O_CLOEXEC | flags)
    except OSError as error:
        if error.errno in _OUR_FAULT:
            raise
        return -1


def _has(folder: int, name: str) -> bool:
    """Whatever it is, and whether it may be read or not."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_beneath(root: int, wanted: bytes) -> int:
    """An O_PATH descriptor; -1 if it is not beneath `root`, or hidden there. Raises OSError."""
    descriptor = os.open(wanted, os.O_PATH | os.O_CLOEXEC, dir_fd=root)
    try:
        where, folder = (os.readlink(b"/proc/self/fd/%d" % one) for one in (descriptor, root))
        if _is_beneath(where, folder):
            kept, descriptor = descriptor, -1
            return kept
        return -1
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _parts(path: bytes, *, at_root: bool) -> list[bytes] | None:
    """The path's parts after the route; the last is empty if the path ends in a slash. None if it must
    not be looked at. `at_root`: the route is at the site's root.

    1. The route itself without a slash is a folder without its slash: [b"."].
    2. Dot files and dot segments, however they were encoded; but not /.well-known.
    3. NUL ends a name in C; a backslash is a slash to some.
    4. Empty parts: `//` is not another name of `/`.
    """
    if not path:
        return [b"."]
    parts = path[1:].split(b"/")
    if path[:1] != b"/" or b"\0" in path or b"\\" in path:
        return None
    hidden = parts[1:] if at_root and parts[0] == _WELL_KNOWN else parts
    if any(map(_is_hidden, hidden)) or b"" in parts[:-1]:
        return None
    return parts


def _is_hidden(part: bytes) -> bool:
    """`.`, `..`, and names that begin with one dot. With two dots and more begin names that `ls` hides too,
    but nobody means to: volumes of containers have them, where links lead through `..data`."""
    return part[:1] == b"." and (part[1:2] != b"." or part == b"..")


def _is_beneath(where: bytes, root: bytes) -> bool:
    if where == root:
        return True
    folder = root.rstrip(b"/") + b"/"
    if not where.startswith(folder):
        return False
    parts = where[len(folder) :].split(b"/")
    return not any(map(_is_hidden, parts[1:] if parts[0] == _WELL_KNOWN else parts))


def _unsatisfiable(size: int) -> tuple[Head, bytes]:
    fields = [("Content-Range", f"bytes */{size}")]
    return plain(416, "Range Not Satisfiable", "The file has no such part.\n", fields)
