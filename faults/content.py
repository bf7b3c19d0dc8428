"""What is in a body: bytes that its number alone determines, of which no two lines are alike.

So a piece of another response, a piece that is missing and two pieces in the wrong order are all seen.
"""

from __future__ import annotations

MOST = 1024 * 1024
_LINE = 20
_ENDS = [b" %08d\n" % line for line in range(MOST // _LINE + 1)]


def content(number: int, size: int) -> bytes:
    """`size` bytes, MOST at most."""
    start = b"%010d" % number
    return (start + start.join(_ENDS[: -(-size // _LINE)]))[:size]


EVENTS = 8
"""In a response of them."""
BETWEEN_EVENTS = 0.01
"""Seconds."""


def events(number: int) -> list[bytes]:
    """Server-sent ones of the request with this number."""
    return [b"id: %d\ndata: %d of request %d\n\n" % (one, one, number) for one in range(EVENTS)]
