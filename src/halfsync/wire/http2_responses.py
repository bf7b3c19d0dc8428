"""The header blocks of HTTP/2 responses (RFC 9113 8.3.2): what a reply says, in HPACK. No I/O.

A block depends on its response alone (see hpack.py), so it is made once for responses that are alike; the
Date is put behind it."""

from __future__ import annotations

from functools import lru_cache

from halfsync.wire.hpack import encode_field

CONTINUE = encode_field(b":status", b"100")
EARLY_HINTS = encode_field(b":status", b"103")

_OF_THE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""Fields that HTTP/2 forbids (8.2.2)."""


@lru_cache(maxsize=64)
def hints_block(fields: bytes) -> bytes:
    """Of a response of status 103 (RFC 8297). `fields` as for `response_block`."""
    return EARLY_HINTS + fields_block(fields)


@lru_cache(maxsize=512)
def response_block(status: int, fields: bytes, length: int) -> bytes:
    """`fields`: lines, each ended by CRLF; `length`: of the body, if content-length is to say it, else -1.
    Raises ValueError for a status that ends no response."""
    if not 200 <= status <= 999:
        raise ValueError(f"the status {status} is none that ends a response")
    block = encode_field(b":status", b"%d" % status) + fields_block(fields)
    return block + encode_field(b"content-length", b"%d" % length) if length >= 0 else block


def fields_block(fields: bytes) -> bytes:
    """Field lines, each ended by CRLF, without those that HTTP/2 forbids."""
    parts = []
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name and name not in _OF_THE_CONNECTION:
            parts.append(encode_field(name, value.strip(b" \t")))
    return b"".join(parts)


@lru_cache(maxsize=4)
def date_block(date_line: bytes) -> bytes:
    """`date_line`: as HTTP/1.1 has it."""
    return encode_field(b"date", date_line[6:-2])
