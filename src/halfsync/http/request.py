"""Reading a request: its head, taken apart, and its body, as a file to read.

A worker's heads are valid (the pump's promise): `METHOD SP target SP HTTP/1.x CRLF`, then
`name: value CRLF` lines, then an empty line; names are tokens, nothing is folded. So nothing is
checked again here. Text is latin-1 throughout, one character a byte.

This module is near the bottom: of ours, it imports the primitives only.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from halfsync.http.request_ids import said
from halfsync.system.primitives import os


def lines_of(head: bytes) -> list[str]:
    """The request line, then the field lines."""
    lines = str(head, "latin-1").split("\r\n")
    del lines[-2:]
    return lines


def request_named(head: bytes, client: str) -> str:
    """For the error log: the request line, without the query, which may hold secrets."""
    method, _, rest = lines_of(head)[0].partition(" ")
    target = rest.rpartition(" ")[0].partition("?")[0]
    return f"{method} {target} from {client or 'a local client'}{said(head)}"


def fields_of(lines: Iterable[str]) -> dict[str, str]:
    """Field values by lower-case name; those of a name that came repeatedly are joined."""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        found[name] = found[name] + ", " + value if name in found else value
    return found


def without_cookie(head: bytes) -> tuple[bytes, str | None]:
    """`head` with its first Cookie line cut out, and that cookie; None if it has none (or one in an
    unusual spelling)."""
    start = head.find(b"\r\nCookie: ")
    if start < 0:
        return head, None
    end = head.find(b"\r\n", start + 10)
    return head[:start] + head[end:], str(head[start + 10 : end], "latin-1").strip(" \t")


def path_and_query(target: str) -> tuple[str, str]:
    """Both as received (still percent-encoded). `*` means the root; the authority of an
    absolute form is left out; so is a fragment, which has no place in a request."""
    if target[:1] != "/":
        target = _origin_form(target)
    if "#" in target:
        target = target.partition("#")[0]
    path, _, query = target.partition("?")
    return path, query


def authority_of(target: str) -> str:
    """Host and port of an absolute form, which is what the request is for whatever its Host says (RFC 9112
    3.2.2); "" for any other target."""
    if target[:1] == "/" or target == "*":
        return ""
    return _AUTHORITY_END.split(target.partition("://")[2], maxsplit=1)[0]


_AUTHORITY_END = re.compile("[/?#]")


def _origin_form(target: str) -> str:
    """RFC 9112 3.2.2 and 3.2.4."""
    rest = target.partition("://")[2]
    for index, character in enumerate(rest):
        if character == "/":
            return rest[index:]
        if character in "?#":
            return "/" + rest[index:]
    return "/"


def decoded(path: str) -> str:
    """`path` with its percent-escapes taken back, once."""
    if "%" not in path:
        return path
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1")


RequestBody = io.RawIOBase
"""A body that is not in its task: kept aside in a file (SpooledBody), or still coming (worker.streamed)."""


class SpooledBody(io.RawIOBase):
    """A request's body of `size` bytes, in the file `descriptor`, which is closed with it.

    Reads by position, never by the descriptor's own offset: that is shared with whoever else has
    the descriptor, such as a worker that had the request before and died.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        left = max(0, self._size - self._position)
        count = os.preadv(self._descriptor, [room[:left]], self._position) if left else 0
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)
