"""gunicorn's access log formats, against what gunicorn's own logger would have said."""

from __future__ import annotations

import os
import re

import pytest

from halfsync.logs.formats import compile_format, needs_cookie, needs_times
from halfsync.settings.table import Settings
from halfsync.wire.messages import LogRecord

HEAD = (
    b'POST /a/b?c=d HTTP/1.1\r\nHost: here:81\r\nReferer: http://r/\r\nUser-Agent: "me"\r\n'
    b"X-Forwarded-For: 10.1.2.3\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\nCookie: k=v\r\n\r\n"
)
RECORD = LogRecord(0.0, "127.0.0.9", HEAD, 201, 12, 99, 5, 6, 1234567, 0, 0)


def line(access_logformat: str, record: LogRecord = RECORD) -> str:
    return compile_format(access_logformat)([record]).decode().removesuffix("\n")


@pytest.mark.parametrize(
    ("atom", "said"),
    [
        ("h", "127.0.0.9"),
        ("l", "-"),
        ("u", "ann"),
        ("r", "POST /a/b?c=d HTTP/1.1"),
        ("s", "201"),
        ("m", "POST"),
        ("U", "/a/b"),
        ("q", "c=d"),
        ("H", "HTTP/1.1"),
        ("b", "12"),
        ("B", "12"),
        ("f", "http://r/"),
        ("a", r"\"me\""),
        ("T", "1"),
        ("D", "1234567"),
        ("M", "1234"),
        ("L", "1.234567"),
        pytest.param("p", f"<{os.getpid()}>", id="p"),
        ("{x-forwarded-for}i", "10.1.2.3"),
        ("{X-Missing}i", "-"),
        ("{RAW_URI}e", "/a/b?c=d"),
        ("{REMOTE_ADDR}e", "127.0.0.9"),
        ("{HTTP_X_FORWARDED_FOR}e", "10.1.2.3"),
    ],
)
def test_each_atom(atom, said):
    assert line(f"<%({atom})s>") == f"<{said}>"


def test_the_time_is_in_brackets():
    assert re.fullmatch(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]", line("%(t)s"))


def test_gunicorns_default_is_combined():
    default = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
    assert line(default) == line("combined")
    assert line(default) == line(Settings().access_logformat)


def test_a_doubled_percent_sign_is_one():
    assert line("100%% %(m)s") == "100% POST"


def test_a_forged_field_ends_no_line():
    assert "\n" not in line(
        "%(h)s %({a}i)s", LogRecord(0.0, "", b"G\n / x\r\na: \x0b\r\n\r\n", 0, 0, 0, 0, 0, 0, 0, 0)
    )


@pytest.mark.parametrize(
    ("access_logformat", "said"),
    [
        ("%(h)s %({server}o)s", "'%({server}o)s': fields of the response are not logged here."),
        ("%(h)s %({wsgi.errors}e)s", "the application's environ is not known to the log."),
        ("%(z)s", "has '%(z)s', which is not known."),
        ("%(h)d", "a directive of this kind ends with )s."),
        ("%(h)s %h", "has a '%' that begins no directive such as %(h)s."),
    ],
)
def test_what_is_not_known_is_reported(access_logformat, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        compile_format(access_logformat)


def test_times_and_cookies_are_asked_for_only_where_they_are_shown():
    assert needs_times("%(h)s %(L)s")
    assert not needs_times("%(h)s")
    assert needs_cookie("%({cookie}i)s")
    assert not needs_cookie("%(h)s %(r)s")
