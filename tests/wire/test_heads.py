"""parse_head and check_partial: for any bytes at all, a head or a Refusal."""

from __future__ import annotations

import re

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfsync.wire.http1 import CHUNKED, HeadLimits, RequestHead, check_partial, parse_head
from halfsync.wire.refusals import Refusal

quick = settings(max_examples=400, deadline=None, database=None)

GOOD = (
    b"POST /x?y HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 5\r\nConnection: keep-alive\r\nX: y\r\n\r\n"
)
STATUSES = {400, 414, 417, 431, 501, 505}

_LINES = [
    b"Host: a",
    b"Host:",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Connection: close",
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Range: bytes=0-1",
    b"Cookie: a=b",
    b"X_Y: z",
    b" folded",
    b"",
]


@st.composite
def likely_heads(draw: st.DrawFn) -> bytes:
    """Heads as a client might send, and some as none should."""
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"XX", b"get"]))
    target = draw(st.sampled_from([b"/", b"/a?b", b"*", b"http://b/c", b"http://", b"b:80", b"//", b"/\xff"]))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.", b"RTSP/1.0", b""]))
    lines = draw(st.lists(st.sampled_from(_LINES), max_size=6))
    return b"\r\n".join([b" ".join([method, target, version]), *lines, b"", b""])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Good heads, with some bytes changed, put in or taken out."""
    data = draw(st.one_of(st.just(GOOD), likely_heads()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 2))
        new = draw(
            st.one_of(
                st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\x00"]),
                st.binary(max_size=2),
            )
        )
        data = data[:at] + new + data[at + gone :]
    return data


heads = st.one_of(likely_heads(), mutated(), st.binary(max_size=80))


def whole(data: bytes) -> bytes:
    """`data` as the pump would cut it: through the first empty line."""
    return (data + b"\r\n\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def parse(raw: bytes, limits: HeadLimits | None = None) -> RequestHead | None:
    try:
        return parse_head(raw, limits or HeadLimits())
    except Refusal as refusal:
        if refusal.status not in STATUSES or not refusal.close:
            raise AssertionError("another refusal than was promised") from refusal
        return None


@quick
@given(heads)
def test_a_head_or_a_refusal_and_nothing_else(data: bytes):
    """No other exception, whatever the bytes are."""
    parse(whole(data))


@quick
@given(heads, st.integers(1, 200), st.integers(1, 200), st.integers(0, 4), st.integers(1, 400))
def test_the_same_with_narrow_limits(data: bytes, line: int, field: int, fields: int, size: int):
    """Nor with any limits."""
    parse(whole(data), HeadLimits(line, fields, field, size))


@quick
@given(heads)
def test_what_passed_is_what_a_worker_is_promised(data: bytes):
    """Exactly "METHOD SP target SP HTTP/1.x CRLF (name: value CRLF)* CRLF", one Host in 1.1, no
    folding, no NUL, at most one length, and never both ways of framing."""
    head = parse(whole(data))
    if head is None:
        return
    token = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    line = rb"[A-Z\-]+ [\x21-\x7e]+ HTTP/1\.[01]\r\n"
    field = token + rb":[\t\x20-\x7e\x80-\xff]*\r\n"
    assert re.fullmatch(line + b"(?:" + field + b")*\r\n", head.raw), head.raw
    names = [line.partition(b":")[0].lower() for line in head.raw.split(b"\r\n")[1:-2]]
    assert names.count(b"host") <= 1
    assert names.count(b"host") == 1 or not head.minor
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert (head.body_size == CHUNKED) == (b"transfer-encoding" in names)
    assert head.keep_alive is not (head.closes or (head.minor == 0 and not head.keep_alive))


class Fields:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.all: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.all.append((name.lower(), value.strip(b" \t")))


@quick
@given(heads)
def test_the_picked_fields_are_those_that_llhttp_sees(data: bytes):
    """The regular expression that picks fields, held against a parser of all."""
    head = parse(whole(data))
    if head is None:
        return
    fields = Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(head.raw)
    except httptools.HttpParserUpgrade:
        pass
    seen = dict(fields.all)
    if head.target[:1] == b"/":
        assert head.host == seen.get(b"host", b"")
    if head.body_size > 0:
        assert int(seen[b"content-length"]) == head.body_size
    assert (head.conditions or {}).keys() == {name for name in seen if name == b"range"}
    assert head.expects == (b"expect" in seen and head.minor == 1)


@quick
@given(heads, st.sets(st.integers(0, 200), max_size=5))
def test_what_is_refused_early_would_be_refused_whole(data: bytes, points: set[int]):
    """check_partial never refuses the beginning of a head that parse_head accepts."""
    raw = whole(data)
    scanned = 0
    try:
        for end in sorted(point % len(raw) for point in points):
            if end > scanned and raw[:end].find(b"\r\n\r\n") < 0:
                check_partial(raw[:end], HeadLimits(), scanned)
                scanned = end
    except Refusal:
        assert parse(raw) is None


@pytest.mark.parametrize("cut", range(1, len(GOOD)))
def test_any_beginning_of_a_good_head_passes(cut: int):
    """Byte by byte, nothing is refused on the way."""
    check_partial(GOOD[:cut], HeadLimits(), 0)
    for scanned in (1, cut - 1):
        if 0 < scanned < cut:
            check_partial(GOOD[:cut], HeadLimits(), scanned)


def test_limits_may_be_smaller_than_the_one_of_the_request_line():
    """Each is held to by itself, in a whole head and in any part of one."""
    limits = HeadLimits(line=300, field_size=60, head=400)
    good = b"GET /" + b"x" * 250 + b" HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 50 + b"\r\n\r\n"
    assert parse_head(good, limits).host == b"a"
    for end in range(1, len(good)):
        check_partial(good[:end], limits, max(0, end - 7))
    for bad, status in (
        (good.replace(b"y" * 50, b"y" * 60), 431),
        (good.replace(b"Host: a", b"Host: a\r\nZ: " + b"z" * 50 + b"\r\nW: " + b"w" * 50), 431),
        (good.replace(b"/x", b"/" + b"x" * 50), 414),
    ):
        with pytest.raises(Refusal) as refusal:
            parse_head(bad, limits)
        assert refusal.value.status == status


def test_a_head_with_other_fields_is_the_same_in_all_else():
    """Also what is added to RequestHead later has to be taken along."""
    raw = b"POST /a HTTP/1.1\r\nHost: b\r\nIf-Match: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    head = parse_head(raw, HeadLimits())
    head.closes = head.upgrades = head.plain = True
    head.keep_alive = False
    other = head.with_raw(b"other")
    for name in RequestHead.__slots__:
        wanted = {"raw": b"other", "plain": False}.get(name, getattr(head, name))
        assert getattr(other, name) == wanted, name
