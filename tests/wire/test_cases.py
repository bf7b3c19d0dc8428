"""The framing cases, fed to the protocols alone: no socket, no pump."""

from __future__ import annotations

import pytest

from halfsync.wire.chunked import ChunkedBody
from halfsync.wire.http1 import CHUNKED, HEAD_END, HeadLimits, RequestHead, check_partial, parse_head
from halfsync.wire.refusals import Refusal
from tests.wire.case_files import CASES, FOLDER, Case, unescape

MOST = 100 * 1024 * 1024


def read_request(raw: bytes) -> tuple[RequestHead, bytes]:
    """What a connection does with the bytes of one request."""
    while raw.startswith(b"\r\n"):
        raw = raw[2:]
    end = raw.find(HEAD_END)
    if end < 0:
        check_partial(raw, HeadLimits(), 0)
        raise AssertionError("the case has no whole head, and nothing wrong in what there is")
    head = parse_head(raw[: end + 4], HeadLimits())
    rest = raw[end + 4 :]
    if head.body_size == CHUNKED:
        chunks = ChunkedBody()
        body = chunks.feed(rest)
        while chunks.rest and not chunks.done:
            body += chunks.feed(chunks.rest)
        assert chunks.done
        assert chunks.rest == b""
        return head, body
    if head.body_size > MOST:
        raise Refusal(413, "too large")
    assert len(rest) == head.body_size
    return head, rest


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.verdict != "refused"], ids=lambda case: case.name
)
def test_what_is_accepted_is_read_as_the_case_says(case: Case):
    head, body = read_request(case.raw)
    assert (head.method, head.target, head.host) == (case.method, case.target, case.host)
    assert head.keep_alive is case.keep_alive
    assert body == case.body


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.verdict == "refused"],
    ids=lambda case: case.name,
)
def test_what_is_refused_is_refused_with_the_right_status_and_a_close(case: Case):
    with pytest.raises(Refusal) as caught:
        read_request(case.raw)
    assert caught.value.status in case.statuses
    assert caught.value.close


def test_each_case_proves_something_else():
    """No two files hold the same request, and each says what for."""
    assert len(CASES) > 200
    assert len({case.raw for case in CASES}) == len(CASES)
    assert all(case.proves.endswith((".", "?")) or "." in case.proves for case in CASES)


def test_bytes_of_the_cases_are_kept():
    """Git was told to leave their line ends alone, and in no file a bare CR or LF hides unescaped."""
    for path in FOLDER.glob("*.http"):
        raw = path.read_bytes().partition(b"\n#\n")[2]
        assert raw.replace(b"\r\n", b"").count(b"\n") == 0, path.name
        assert raw.replace(b"\r\n", b"").count(b"\r") == 0, path.name


def test_escapes():
    assert unescape(rb"a\x00\r\n\t\\\{3*b\{2*c}}d}") == b"a\x00\r\n\t\\bccbccbccd}"
