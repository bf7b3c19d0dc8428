"""A folder of files, served by URL.

Theory of operation
-------------------
A handler resolves the path, decides, and hands over bytes (small files) or a descriptor. The reply carries a
lease, so for a hot file all this is done once per second, and may be thorough:

 - The path is decoded once and refused if any part of it is a dot file, `.` or `..`, or has a NUL or a
   backslash. That alone keeps a path inside, but for symbolic links. So:
 - The file is opened with O_PATH, which follows links but touches nothing (no device wakes, no FIFO
   waits), and then the kernel is asked where the descriptor really is (/proc/self/fd). Only what is beneath
   the folder's real path, with no dot part in between, is opened for reading, and through the very same
   descriptor: what was checked is what is sent, even if names change meanwhile.
 - Only regular files are sent.

What may not be served and what does not exist get the same 404.
"""

from __future__ import annotations

import errno
import os
import stat
from urllib.parse import quote, unquote_to_bytes

from halfsync.folders import absolute
from halfsync.handlers.conditions import UNSATISFIABLE, Span, Validators, Verdict, judge, span
from halfsync.handlers.types import content_type
from halfsync.plan import Mount
from halfsync.request import SpooledBody, fields_of, lines_of, path_and_query
from halfsync.response import Head, Replier, head_of, plain
from halfsync.settings import Settings
from halfsync.wire.messages import Lease, Task

_NAMES = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
"""The request fields on which an answer depends."""
_SHORT = 1.0
"""Seconds, at most, of a lease on what is not there. (It may be there the next moment.)"""
_MAX_BODY = 64 * 1024
"""Bytes that fit a Reply beside its head."""

_OUR_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
"""Errors that say nothing of whether the file is there."""

_NOT_FOUND = plain(404, "Not Found", "There is nothing here.\n")
_NOT_ALLOWED = plain(405, "Method Not Allowed", "Files can be read only.\n", [("Allow", "GET, HEAD")])
_PRECONDITION_FAILED = plain(412, "Precondition Failed", "The file is not as you expected it.\n")


class FilesHandler:
    """The handler of one mount."""

    def __init__(self, mount: Mount, settings: Settings) -> None:
        self._prefix = mount.prefix.encode()
        self._root = os.fsencode(absolute(mount.target))
        self._real_root = os.path.realpath(self._root)
        self._small = min(settings.lease_file_memory, _MAX_BODY)
        self._lease = Lease(mount.lease, _NAMES) if mount.lease > 0 else None
        self._short_lease = Lease(min(mount.lease, _SHORT), ()) if mount.lease > 0 else None

    def __call__(self, task: Task, spool: SpooledBody | None, replier: Replier) -> None:
        request_line, *field_lines = lines_of(task.head)
        method, target, _ = request_line.split(" ")
        if method not in ("GET", "HEAD"):
            head, body = _NOT_ALLOWED
            replier.whole(head, len(body), body)
            return
        raw_path, query = path_and_query(target)
        parts = _parts(self._below(unquote_to_bytes(raw_path.encode("latin-1"))))
        descriptor = -1 if parts is None else self._resolve(parts)
        if descriptor < 0 or parts is None:
            self._not_found(method, replier)
            return
        try:
            if not parts[-1]:
                self._send(method, fields_of(field_lines), b"index.html", descriptor, replier)
            elif stat.S_ISDIR(os.fstat(descriptor).st_mode):
                self._redirect(method, raw_path, query, replier)
            else:
                self._send(method, fields_of(field_lines), parts[-1], descriptor, replier)
        finally:
            os.close(descriptor)

    # --- which file ----------------------------------------------------------------------------------

    def _below(self, path: bytes) -> bytes:
        return path[len(self._prefix) :]

    def _resolve(self, parts: list[bytes]) -> int:
        """An O_PATH descriptor of what the path means, when it may be served; else -1."""
        name = b"/".join(parts)
        wanted = name + b"index.html" if not parts[-1] else name
        try:
            descriptor = os.open(self._root + b"/" + wanted, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _OUR_FAULT:
                raise
            return -1
        if self._is_inside(descriptor):
            return descriptor
        os.close(descriptor)
        return -1

    def _is_inside(self, descriptor: int) -> bool:
        where = os.readlink(b"/proc/self/fd/%d" % descriptor)
        if _is_beneath(where, self._real_root):
            return True
        # The folder itself may be a link that was turned to a new release meanwhile.
        self._real_root = os.path.realpath(self._root)
        return _is_beneath(where, self._real_root)

    # --- what to answer --------------------------------------------------------------------------------

    def _not_found(self, method: str, replier: Replier) -> None:
        head, body = _NOT_FOUND
        replier.whole(head, len(body), body, self._short_lease)

    def _redirect(self, method: str, raw_path: str, query: str, replier: Replier) -> None:
        """To the same path with a slash at its end. One slash at the beginning: two would name a host."""
        location = "/" + quote(raw_path.lstrip("/"), safe="/%:@!$&'()*+,;=~", encoding="latin-1") + "/"
        location += "?" + quote(query, safe="/%:@!$&'()*+,;=~?", encoding="latin-1") if query else ""
        head, body = plain(301, "Moved Permanently", "It is a folder.\n", [("Location", location)])
        replier.whole(head, len(body), body, self._short_lease)

    def _send(self, method: str, fields: dict[str, str], name: bytes, at: int, replier: Replier) -> None:
        status = os.fstat(at)
        if not stat.S_ISREG(status.st_mode):
            self._not_found(method, replier)
            return
        try:
            descriptor = os.open(b"/proc/self/fd/%d" % at, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:  # not ours to read
            if error.errno in _OUR_FAULT:
                raise
            self._not_found(method, replier)
            return
        try:
            self._answer(method, fields, name, descriptor, replier)
        finally:
            os.close(descriptor)

    def _answer(
        self, method: str, fields: dict[str, str], name: bytes, descriptor: int, replier: Replier
    ) -> None:
        status = os.fstat(descriptor)
        validators = Validators(f'"{status.st_mtime_ns:x}-{status.st_size:x}"', int(status.st_mtime))
        lines = [("ETag", validators.etag), ("Last-Modified", validators.last_modified)]
        verdict = judge(fields, validators)
        if verdict is Verdict.NOT_MODIFIED:
            replier.whole(head_of("304 Not Modified", lines), -1, b"", self._lease)
            return
        if verdict is Verdict.FAILED:
            head, body = _PRECONDITION_FAILED
            replier.whole(head, len(body), body, self._lease)
            return
        size = status.st_size
        part = span(fields, validators, size) if method == "GET" else None
        lines += [("Accept-Ranges", "bytes"), ("Content-Type", content_type(os.fsdecode(name)))]
        if part is None:
            self._deliver(head_of("200 OK", lines), descriptor, Span(0, size), replier)
        elif part is UNSATISFIABLE:
            head, body = _unsatisfiable(size)
            replier.whole(head, len(body), body)
        else:
            last = part.offset + part.count - 1
            lines.append(("Content-Range", f"bytes {part.offset}-{last}/{size}"))
            self._deliver(head_of("206 Partial Content", lines), descriptor, part, replier)

    def _deliver(self, head: Head, descriptor: int, part: Span, replier: Replier) -> None:
        """(For HEAD too: the pump does not send the body, but a lease must know its length.)"""
        if part.count > self._small:
            replier.file(head, part.count, os.dup(descriptor), part.offset, part.count, self._lease)
            return
        body = os.pread(descriptor, part.count, part.offset)
        if len(body) == part.count:
            replier.whole(head, part.count, body, self._lease)
        else:  # it shrank under our hands
            replier.begin(head, part.count, body)
            replier.abort()


def _parts(path: bytes) -> list[bytes] | None:
    """The path's parts after the mount; the last is empty if the path ends in a slash. None if it must
    not be looked at.

    1. The mount itself without a slash is a folder without its slash: [b"."].
    2. Dot files and dot segments, however they were encoded.
    3. NUL ends a name in C; a backslash is a slash to some.
    4. Empty parts: `//` is not another name of `/`.
    """
    if not path:
        return [b"."]
    parts = path[1:].split(b"/")
    if path[:1] != b"/" or b"\0" in path or b"\\" in path:
        return None
    if any(part.startswith(b".") for part in parts) or b"" in parts[:-1]:
        return None
    return parts


def _is_beneath(where: bytes, root: bytes) -> bool:
    if where == root:
        return True
    folder = root.rstrip(b"/") + b"/"
    return where.startswith(folder) and b"/." not in where[len(folder) - 1 :]


def _unsatisfiable(size: int) -> tuple[Head, bytes]:
    fields = [("Content-Range", f"bytes */{size}")]
    return plain(416, "Range Not Satisfiable", "The file has no such part.\n", fields)
