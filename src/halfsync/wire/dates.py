"""HTTP dates (RFC 9110 5.6.7).

Python's `email.utils` can do both, but brings in all that e-mail has: 3 % of the time that a start takes.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NUMBER_OF = {name: number for number, name in enumerate(_MONTHS)}

_USUAL = re.compile(
    rf"(?:{'|'.join(_DAYS)}), ([0-9]{{2}}) ({'|'.join(_MONTHS[1:])}) ([0-9]{{4}}) "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
"""The one form that may be sent. Two older ones have to be understood."""


def http_date(seconds: float) -> str:
    """Seconds since 1970 as "Sun, 06 Nov 1994 08:49:37 GMT". Raises ValueError behind the year 9999."""
    at = datetime.fromtimestamp(seconds // 1, UTC)
    day = f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month]} {at.year:04}"
    return f"{day} {at.hour:02}:{at.minute:02}:{at.second:02} GMT"


def seconds_of(date: str) -> int | None:
    """An HTTP date as seconds since 1970; None if it is none."""
    if usual := _USUAL.fullmatch(date):
        day, month, year, hour, minute, second = usual.groups()
        parts = [int(year), _NUMBER_OF[month], int(day), int(hour), int(minute), int(second)]
    else:
        from email.utils import parsedate  # as good as never needed

        found = parsedate(date)
        if found is None:
            return None
        parts = list(found[:6])
    try:
        return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]
    except (ValueError, OverflowError):
        return None
