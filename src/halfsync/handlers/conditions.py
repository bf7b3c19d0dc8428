"""Conditional and range requests for one representation (RFC 9110, 13 and 14). No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import msgspec

from halfsync.wire.dates import http_date, seconds_of

_NUMBER = re.compile(r"[0-9]{1,18}")


class Validators(msgspec.Struct, frozen=True):
    """What is known of the file as it is now."""

    etag: str  # strong, with its quotes
    modified: int  # seconds since 1970

    @property
    def last_modified(self) -> str:
        return http_date(self.modified)


class Verdict(Enum):
    SEND = "send"
    NOT_MODIFIED = "not modified"
    FAILED = "precondition failed"


class Span(msgspec.Struct, frozen=True):
    offset: int
    count: int


UNSATISFIABLE = Span(-1, 0)


def judge(fields: Mapping[str, str], validators: Validators) -> Verdict:
    """RFC 9110 13.2.2, steps 1 to 4, for GET and HEAD."""
    if "if-match" in fields:
        if not _lists(fields["if-match"], validators.etag, weakly=False):
            return Verdict.FAILED
    elif (since := seconds(fields.get("if-unmodified-since"))) is not None and validators.modified > since:
        return Verdict.FAILED
    if "if-none-match" in fields:
        if _lists(fields["if-none-match"], validators.etag, weakly=True):
            return Verdict.NOT_MODIFIED
    elif (since := seconds(fields.get("if-modified-since"))) is not None and validators.modified <= since:
        return Verdict.NOT_MODIFIED
    return Verdict.SEND


def _lists(value: str, etag: str, *, weakly: bool) -> bool:
    """Whether a list of entity tags has ours (RFC 9110 8.8.3.2)."""
    if value.strip() == "*":
        return True
    return any(tag == etag and (weakly or not weak) for weak, tag in _TAGS.findall(value))


_TAGS = re.compile(r'(W/)?("[^"]*")')


def span(fields: Mapping[str, str], validators: Validators, size: int) -> Span | None:
    """The one range that a GET asks for, UNSATISFIABLE, or None: then the whole file is to be sent.

    Several ranges, other units and what is not a range at all get the whole file, as 14.2 allows.
    """
    value = fields.get("range")
    if value is None or not _may_be_partial(fields.get("if-range"), validators):
        return None
    unit, equals, spec = value.partition("=")
    first, dash, last = spec.strip(" \t").partition("-")
    if unit.strip(" \t").lower() != "bytes" or not equals or not dash:
        return None
    if not first:
        return _suffix(last, size)
    if not _NUMBER.fullmatch(first) or not (last == "" or _NUMBER.fullmatch(last)):
        return None
    start, stop = int(first), int(last) + 1 if last else size
    if stop <= start and last:
        return None
    if start >= size:
        return UNSATISFIABLE
    return Span(start, min(stop, size) - start)


def _suffix(last: str, size: int) -> Span | None:
    if not _NUMBER.fullmatch(last):
        return None
    if not int(last):
        return UNSATISFIABLE
    count = min(int(last), size)
    return Span(size - count, count) if count else None  # of what is empty, the whole (14.1.2)


def _may_be_partial(if_range: str | None, validators: Validators) -> bool:
    """RFC 9110 13.1.5: the very same representation, by strong comparison."""
    if if_range is None:
        return True
    if if_range.startswith('"'):
        return if_range == validators.etag
    return seconds(if_range) == validators.modified


def seconds(date: str | None) -> int | None:
    """An HTTP date as seconds since 1970; None if there is none or it is none."""
    return None if date is None else seconds_of(date)
