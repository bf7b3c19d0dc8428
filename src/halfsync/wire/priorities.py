"""Priorities of responses (RFC 9218): the field `Priority`, and the same value in a PRIORITY_UPDATE frame."""

from __future__ import annotations

import re

DEFAULT_URGENCY = 3
LEAST_URGENT = 7
MAX_VALUE = 256
"""Bytes of a value that is looked at."""

_MEMBER = re.compile(rb"[ \t]*([a-z*][a-z0-9_\-.*]*)(?:=([^,;]*))?(?:;[^,]*)?")


def priority_of(value: bytes) -> tuple[int, bool]:
    """Urgency, 0 (the most urgent) to 7, and whether parts of the response are of use by themselves. What is
    malformed, out of range or unknown counts as if it were not there (RFC 9218 section 4)."""
    urgency, incremental = DEFAULT_URGENCY, False
    for member in value[:MAX_VALUE].split(b","):
        match = _MEMBER.fullmatch(member.rstrip(b" \t"))
        if match is None:
            continue
        key, said = match.groups()
        if key == b"u" and said is not None and len(said) == 1 and b"0" <= said <= b"7":
            urgency = int(said)
        elif key == b"i" and said in (None, b"?1", b"?0"):
            incremental = said != b"?0"
    return urgency, incremental
