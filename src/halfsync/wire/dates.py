"""HTTP dates (RFC 9110 5.6.7).

Python's `email.utils` can write them, but brings in all that e-mail has: 3 % of the time that a start takes;
and it reads much that is no such date.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NUMBER_OF = {name: number for number, name in enumerate(_MONTHS)}

_MONTH = f"({'|'.join(_MONTHS[1:])})"
_TIME = r"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_USUAL = re.compile(rf"(?:{'|'.join(_DAYS)}), ([0-9]{{2}}) {_MONTH} ([0-9]{{4}}) {_TIME} GMT")
"""The one form that may be sent. Two older ones have to be understood, and no other: in one with another zone
the time would mean another moment."""
_RFC_850 = re.compile(
    rf"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{{2}})-{_MONTH}-([0-9]{{2}}) {_TIME} GMT"
)
_ASCTIME = re.compile(rf"(?:{'|'.join(_DAYS)}) {_MONTH} ([ 0-3][0-9]) {_TIME} ([0-9]{{4}})")


def http_date(seconds: float) -> str:
    """Seconds since 1970 as "Sun, 06 Nov 1994 08:49:37 GMT". Raises ValueError behind the year 9999."""
    at = datetime.fromtimestamp(seconds // 1, UTC)
    day = f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month]} {at.year:04}"
    return f"{day} {at.hour:02}:{at.minute:02}:{at.second:02} GMT"


def seconds_of(date: str) -> int | None:
    """An HTTP date as seconds since 1970; None if it is none."""
    if found := _USUAL.fullmatch(date) or _RFC_850.fullmatch(date):
        day, month, year, *clock = found.groups()
    elif found := _ASCTIME.fullmatch(date):
        month, day, *clock, year = found.groups()
    else:
        return None
    parts = [int(year), _NUMBER_OF[month], int(day), *map(int, clock)]
    if len(year) == 2:
        parts[0] = _whole_year(parts)
    try:
        return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]
    except (ValueError, OverflowError):
        return None


def _whole_year(parts: list[int]) -> int:
    """Of a date whose year has two digits: the last such year that is no more than 50 years ahead."""
    now = datetime.now(UTC)
    limit = [now.year + 50, now.month, now.day, now.hour, now.minute, now.second]
    year = (now.year // 100 + 1) * 100 + parts[0]
    while [year, *parts[1:]] > limit:
        year -= 100
    return year
