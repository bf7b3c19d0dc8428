"""HTTP dates, held against what Python's `email.utils` makes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

import pytest

from halfsync.wire.dates import http_date, seconds_of

EXAMPLE = 784111777  # RFC 9110 5.6.7


def test_a_date_is_written_as_it_must_be():
    assert http_date(EXAMPLE) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(EXAMPLE + 0.999) == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_every_day_of_some_years_is_written_as_python_does():
    for seconds in range(-86400 * 400, 2_000_000_000, 86400 * 29 + 12_345):
        assert http_date(seconds) == formatdate(seconds, usegmt=True)
        assert seconds_of(http_date(seconds)) == seconds


def test_a_year_of_five_digits_can_not_be_written():
    behind = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() + 1
    assert http_date(behind - 1) == "Fri, 31 Dec 9999 23:59:59 GMT"
    with pytest.raises(ValueError):
        http_date(behind)


@pytest.mark.parametrize(
    "date",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_all_three_forms_are_read(date):
    assert seconds_of(date) == EXAMPLE


@pytest.mark.parametrize(
    "date",
    [
        "",
        "yesterday",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 99999999999 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +0200",
        "Sun, 06 Nov 1994 08:49:37 EST",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "06 Nov 1994 08:49:37 GMT",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 CET",
        "Sun Nov  6 08:49:37 1994 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date_is_none(date):
    assert seconds_of(date) is None


def test_a_year_of_two_digits_is_at_most_50_years_ahead():
    """RFC 9110 5.6.7."""
    this = datetime.now(UTC).year
    for years in range(-49, 50):
        at = datetime(this + years, 1, 1, tzinfo=UTC)
        assert seconds_of(f"Sunday, 01-Jan-{at.year % 100:02} 00:00:00 GMT") == at.timestamp()
