"""Heads of responses as ASGI applications give them: checked, encoded, and remembered.

An application's heads are mostly the same few: found again by its very bytes, one costs 0.3 µs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from halfsync.handlers.asgi_errors import BrokenRule
from halfsync.http.response import MAX_FIELDS, MAX_HEADS, MAX_REMEMBERED, Head, usual_reason
from halfsync.logs.error import log

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

_OURS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"))
"""Fields between server and client: left out, with one warning. (Transfer-Encoding is left out without one:
the specification says that an application may send it, and that it means nothing.)"""

_NOT_BEHIND = _OURS | {
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"host",
    b"set-cookie",
    b"trailer",
    b"transfer-encoding",
}
"""Fields that must be known before the body (RFC 9110 6.5.1)."""

_heads: dict[tuple[Any, ...], Head] = {}


def head_of(status: object, fields: Iterable[Any]) -> Head:
    """The head that `http.response.start` means. Raises BrokenRule."""
    try:
        key = (status, *fields)
        found = _heads.get(key)
    except TypeError:  # of lists, which have no hash; or no sequence
        try:
            fields = [tuple(field) for field in fields]
        except TypeError:
            raise BrokenRule(f"'headers' must be pairs of name and value, not {fields!r}") from None
        return head_of(status, fields) if _hashable(fields) else _make(status, fields)
    if found is not None:
        return found
    head = _make(status, key[1:])
    if len(head.fields) <= MAX_REMEMBERED and not head.sets_cookie:
        if len(_heads) >= MAX_HEADS:
            _heads.clear()
        _heads[key] = head
    return head


def _hashable(fields: object) -> bool:
    try:
        hash(tuple(fields))  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _make(status: object, fields: Iterable[Any]) -> Head:
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 999:
        raise BrokenRule(f"'status' must be an int from 200 to 999, not {status!r}")
    length = -1
    dated = sets_cookie = close = upgrades = False
    lines = []
    for field in fields:
        name, value = checked_field(field)
        lower = name.lower()
        if lower == b"content-length":
            length = _length(value, length)
            continue
        if lower == b"transfer-encoding":
            continue
        if status == 426 and lower == b"upgrade":
            upgrades = True
        elif lower in _OURS:
            close = close or (lower == b"connection" and value.lower() == b"close")
            if not close and not (status == 426 and lower == b"connection"):
                warn_of_dropped(lower.decode())
            continue
        dated = dated or lower == b"date"
        sets_cookie = sets_cookie or lower == b"set-cookie"
        lines.append(name + b": " + value + b"\r\n")
    if upgrades:  # who sends Upgrade has to name it in Connection (RFC 9110 7.8)
        lines.append(b"Connection: Upgrade\r\n")
    encoded = b"".join(lines)
    if len(encoded) > MAX_FIELDS:
        raise BrokenRule(f"'headers' take {len(encoded)} bytes; no more than {MAX_FIELDS} can be sent")
    return Head(
        int(status),
        usual_reason(status),
        encoded,
        length,
        dated,
        sets_cookie,
        bodiless=status in (204, 304),
        close=close,
    )


def checked_field(field: Any) -> tuple[bytes, bytes]:
    """Name and value, which may be sent. Raises BrokenRule."""
    try:
        name, value = field
    except (TypeError, ValueError):
        raise BrokenRule(f"a header must be a pair of name and value, not {field!r}") from None
    if not isinstance(name, (bytes, bytearray)) or not isinstance(value, (bytes, bytearray)):
        raise BrokenRule(f"the name and value of a header must be bytes, not {field!r}")
    name, value = bytes(name), bytes(value).strip(b" \t")
    if not _TOKEN.fullmatch(name):
        raise BrokenRule(f"{name!r} can't be the name of a header")
    if _UNFIT.search(value):
        raise BrokenRule(f"the header {name!r} has a control character in it: {value!r}")
    return name, value


def checked_trailer(field: Any) -> tuple[bytes, bytes]:
    """The same, of a field that is sent behind the body."""
    name, value = checked_field(field)
    if name.lower() in _NOT_BEHIND:
        raise BrokenRule(f"{name!r} can't be sent behind the body")
    return name, value


def _length(value: bytes, before: int) -> int:
    if not (value.isdigit() and len(value) <= 18):
        raise BrokenRule(f"the content-length {value!r} is not a number of bytes")
    if before not in (-1, int(value)):
        raise BrokenRule(f"there are two content-lengths, {before} and {int(value)}")
    return int(value)


@lru_cache(maxsize=8)  # once for each
def warn_of_dropped(name: str) -> None:
    log("warning", f"The application sets the header {name!r}, which is the server's: it is left out.")
