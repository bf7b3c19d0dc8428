"""The protocol of Redis: what is sent, and replies in any pieces."""

from __future__ import annotations

import pytest

from halfsync.wire.resp import MAX_LINE, Incomplete, Reply, ReplyReader, StoreError, command

REPLIES: list[tuple[bytes, Reply]] = [
    (b"+OK\r\n", b"OK"),
    (b":1000\r\n", 1000),
    (b":-3\r\n", -3),
    (b"$5\r\nhello\r\n", b"hello"),
    (b"$0\r\n\r\n", b""),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"$-1\r\n", None),
    (b"*2\r\n:1\r\n$1\r\na\r\n", [1, b"a"]),
    (b"*0\r\n", []),
    (b"*2\r\n*1\r\n:1\r\n+x\r\n", [[1], b"x"]),
]


@pytest.mark.parametrize(("data", "expected"), REPLIES)
def test_a_reply_whole_in_single_bytes_and_with_another_behind_it(data: bytes, expected: Reply):
    reader = ReplyReader()
    reader.feed(data)
    assert reader.next() == expected
    assert isinstance(reader.next(), Incomplete)
    for byte in data[:-1]:
        reader.feed(bytes([byte]))
        assert isinstance(reader.next(), Incomplete)
    reader.feed(data[-1:] + data + b":7\r\n")
    assert [reader.next() for _ in range(3)] == [expected, expected, 7]


def test_an_error_is_one_of_several_replies():
    reader = ReplyReader()
    reader.feed(b"-NOSCRIPT No matching script.\r\n:5\r\n")
    found = reader.next()
    assert isinstance(found, StoreError)
    assert str(found) == "NOSCRIPT No matching script."
    assert reader.next() == 5


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b":1x\r\n",
        b"$x\r\n",
        b"$%d\r\n" % (MAX_LINE + 1),
        b"+" + b"a" * (MAX_LINE + 2),
        b"*1\r\n-ERR\r\n",
    ],
)
def test_what_is_no_reply(data: bytes):
    reader = ReplyReader()
    reader.feed(data)
    with pytest.raises(StoreError):
        reader.next()


def test_a_command():
    assert command(b"SELECT", b"3") == b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"
    assert command(b"AUTH", b"a\r\nb") == b"*2\r\n$4\r\nAUTH\r\n$4\r\na\r\nb\r\n"
