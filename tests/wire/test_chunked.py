"""ChunkedBody: any split gives the same, and llhttp reads whatever it reads in the same way."""

from __future__ import annotations

from typing import Any

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from halfsync.wire.chunked import (
    MAX_CHUNKS,
    MAX_EXTENSIONS,
    MAX_LINE,
    MAX_LINES,
    MAX_TRAILERS,
    ChunkedBody,
)
from halfsync.wire.refusals import Refusal

GOOD = b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX: y\r\n\r\n"


def read(pieces: list[bytes]) -> tuple[str, bytes, bytes]:
    """What comes of it: "done", "refused" or "more"; the body; and what is behind it."""
    chunks = ChunkedBody()
    body = b""
    for number, piece in enumerate(pieces):
        try:
            body += chunks.feed(piece)
            while chunks.rest and not chunks.done:
                body += chunks.feed(chunks.rest)
        except Refusal as refusal:
            if refusal.status != 400 or not refusal.close:
                raise AssertionError("another refusal than was promised") from refusal
            return "refused", b"", b""
        if chunks.done:
            return "done", body, chunks.rest + b"".join(pieces[number + 1 :])
    return "more", body, b""


def split(data: bytes, points: set[int]) -> list[bytes]:
    ends = sorted(point % (len(data) + 1) for point in points)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@st.composite
def good_bodies(draw: st.DrawFn) -> bytes:
    """Chunked bodies by the grammar."""
    extension = st.sampled_from([b"", b";a", b";a=b", b';a="b;c"', b';a="\\"";b;c=d'])
    out = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"000%x"])) % len(data)
        out += size + draw(extension) + b"\r\n" + data + b"\r\n"
    trailers = draw(
        st.lists(st.sampled_from([b"X: y\r\n", b"Y:\r\n", b"Content-Lengths: 5\r\n"]), max_size=3)
    )
    return out + b"0" + draw(extension) + b"\r\n" + b"".join(trailers) + b"\r\n"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Good bodies with a few bytes changed, put in or taken out, where it hurts."""
    data = draw(good_bodies())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 2))
        new = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"0", b"f", b";", b" ", b"+", b"\x00", b"G", b":"])
        )
        data = data[:at] + new + data[at + gone :]
    return data


bodies = st.one_of(good_bodies(), mutated(), st.binary(max_size=60))
points = st.sets(st.integers(0, 1000), max_size=6)
quick = settings(max_examples=300, deadline=None, database=None)


@quick
@given(good_bodies(), points, st.binary(max_size=20))
def test_good_bodies_are_accepted(body: bytes, points: set[int], behind: bytes):
    """Whatever the grammar allows, however it is split, and what is behind it is left alone."""
    verdict, _, rest = read(split(body + behind, points))
    assert verdict == "done"
    assert rest == behind


@st.composite
def many_chunks(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A body of many small chunks, of which some have what keeps them from being taken together with the
    others: line ends in their data, zeros before their size, an extension; and what it says."""
    kinds = st.sampled_from(
        [b"x", b"ab", b"\r", b"\n", b"y" * 40, b"\r\n", b"1\r\n1", b"2\r\nab\r\n", b"z" * 1100]
    )
    lines = st.sampled_from([b"%x", b"%x", b"%x", b"%x", b"%X", b"0%x", b"%x;a"])
    pattern = draw(st.lists(st.tuples(kinds, lines), min_size=1, max_size=6))
    times = draw(st.sampled_from([1, 7, 300]))
    chunks = pattern * times + draw(st.lists(st.tuples(kinds, lines), max_size=3))
    body = b"".join(line % len(data) + b"\r\n" + data + b"\r\n" for data, line in chunks)
    return body + b"0\r\n\r\n", b"".join(data for data, _ in chunks)


@settings(max_examples=150, deadline=None, database=None)
@given(many_chunks(), st.sets(st.integers(0, 100_000), max_size=6))
def test_many_small_chunks_are_what_they_say(made: tuple[bytes, bytes], points: set[int]):
    """Whether they are decoded one by one or many at once."""
    body, says = made
    assert read(split(body + b"GET", points)) == ("done", says, b"GET")


@quick
@given(bodies, points)
@example(b"5\r\nhello\r\n0\r\n\r\n", {1, 2, 3, 7, 8, 9, 10, 11, 12})
def test_any_split_gives_the_same(body: bytes, points: set[int]):
    """The borders of packets mean nothing."""
    whole = read([body])
    assert read(split(body, points)) == whole or (
        whole[0] == "more" and whole[1] == read(split(body, points))[1]
    )


@quick
@given(bodies)
def test_byte_by_byte_gives_the_same(body: bytes):
    """Nor do they if each packet is a byte."""
    assert read([body[at : at + 1] for at in range(len(body))]) == read([body])


class Collector:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.body = b""
        self.done = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


@quick
@given(bodies)
def test_llhttp_reads_the_same(body: bytes):
    """Whatever is accepted here, llhttp accepts too, with the same body, and the same end: it is not
    done a byte earlier."""
    verdict, data, rest = read([body])
    if verdict != "done":
        return
    used = body[: len(body) - len(rest)]
    collector: Any = Collector()
    parser = httptools.HttpRequestParser(collector)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.feed_data(used[:-1])
    assert not collector.done
    parser.feed_data(used[-1:])
    assert collector.done
    assert collector.body == data


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"f" * 16 + b"\r\nx", "more"),
        (b"f" * 17 + b"\r\n", "refused"),
        (b"1;" + b"e" * (MAX_LINE - 4) + b"\r\nx", "more"),
        (b"1;" + b"e" * (MAX_LINE - 1) + b"\r\nx", "refused"),
        (b"1;" + b"e" * MAX_LINE, "refused"),
        (b"0\r\nX: " + b"y" * MAX_LINE, "refused"),
        ((b"1;" + b"e" * 1000 + b"\r\nx\r\n") * (MAX_EXTENSIONS // 1001), "more"),
        ((b"1;" + b"e" * 1000 + b"\r\nx\r\n") * (MAX_EXTENSIONS // 1001 + 1), "refused"),
        (b"0\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * (MAX_TRAILERS // 1003), "more"),
        (b"0\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * (MAX_TRAILERS // 1003 + 1), "refused"),
    ],
)
def test_bounds(body: bytes, verdict: str):
    """Lines, extensions and trailers are bounded, and refused as soon as they can't be good any more."""
    assert read([body])[0] == verdict


@pytest.mark.parametrize(
    ("bodies", "most"),
    [
        ([b"1\r\na\r\n"], 6 * MAX_CHUNKS),
        ([b"1\r\na\r\n", b"2\r\naa\r\n", b"3\r\naaa\r\n"], 8 * MAX_CHUNKS),
        ([b"2\r\n\r\n\r\n"], 8 * (MAX_LINES + 1)),
        ([b"001\r\na\r\n"], 8 * (MAX_LINES + 1)),
        ([b"1;x\r\na\r\n"], 8 * (MAX_LINES + 1)),
        ([b"0\r\n" + b"a:\r\n" * 3000], 4 * (MAX_LINES + 1)),
        ([b"1\r\na\r\n", b"1;x\r\na\r\n"], 8 * (MAX_LINES + 1)),
    ],
    ids=["equal", "unequal", "line ends", "zeros", "extended", "trailers", "mixed"],
)
def test_a_call_does_a_bounded_amount_of_work(bodies: list[bytes], most: int):
    """However small the chunks, and whatever stands in their lines: what is beyond it is left for later."""
    data = b"".join(bodies) * (6000 // len(bodies[0]) // len(bodies) + 1)
    chunks = ChunkedBody()
    calls, left = 0, data
    while left:
        chunks.feed(left)
        assert 0 < len(left) - len(chunks.rest) <= most
        left, calls = chunks.rest, calls + 1
    assert calls > 1


def test_nothing_is_acted_on_after_the_end():
    """Bytes behind the last chunk are the next request's."""
    assert read([GOOD + b"GET / HTTP/1.1\r\n"]) == ("done", b"hello world", b"GET / HTTP/1.1\r\n")
