"""The PROXY header, both versions: what it says, however it comes, and what is no header."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfsync.wire.proxy_protocol import MAX_HEADER, ProxyHeader, ProxyHeaderError, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(
    client: str = "192.0.2.7",
    port: int = 4711,
    *,
    version_and_command: int = 0x21,
    transport: int = 1,
    fields: bytes = b"",
) -> bytes:
    """A version 2 header, with further fields (TLVs)."""
    address = ipaddress.ip_address(client)
    family = 1 if address.version == 4 else 2
    body = address.packed * 2 + struct.pack("!HH", port, 443) + fields
    return SIGNATURE + struct.pack("!BBH", version_and_command, family << 4 | transport, len(body)) + body


GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n", ("192.0.2.7", 4711)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 65535 0\r\n", ("2001:db8::7", 65535)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", ("192.0.2.7", 1)),
    (b"PROXY UNKNOWN\r\n", (None, 0)),
    (b"PROXY UNKNOWN ffff:f::f ffff:f::f 65535 65535\r\n", (None, 0)),
    (binary(), ("192.0.2.7", 4711)),
    (binary("2001:db8::7", 1), ("2001:db8::7", 1)),
    (binary(fields=b"\x04\x00\x03abc" * 100), ("192.0.2.7", 4711)),
    (binary(version_and_command=0x20), (None, 0)),  # LOCAL, a proxy's own check
    (binary(transport=2), (None, 0)),  # datagrams: not of this connection
    (SIGNATURE + b"\x21\x00\x00\x00", (None, 0)),  # of no family
    (SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216), (None, 0)),  # unix sockets
    (SIGNATURE + b"\x20\x00\x00\x00", (None, 0)),
]


@pytest.mark.parametrize(("data", "client"), GOOD)
@pytest.mark.parametrize(
    "behind", [b"", b"GET / HTTP/1.1\r\n", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n", SIGNATURE]
)
def test_it_says_who_the_client_is_and_where_it_ends(data, client, behind):
    assert parse(data + behind) == ProxyHeader(len(data), *client)


@pytest.mark.parametrize("data", [data for data, _ in GOOD])
def test_it_may_come_in_pieces(data):
    for end in range(len(data)):
        assert parse(data[:end]) is None


BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY\tTCP4 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
    b"PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
    b"PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n",
    b"PROXY TCP4 1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP4 ::1 ::1 1 1\r\n",
    b"PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
    b"PROXY TCP6 fe80::1%\x1b[2J ::1 1 1\r\n",
    b"PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWN" + b" " * 100 + b"\r\n",  # over 107 bytes
    b"PROXY UNKNOWN" + b"x" * 5000,
    binary(version_and_command=0x11),
    binary(version_and_command=0x22),
    binary(fields=bytes(MAX_HEADER)),
    SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),  # a byte short of its addresses
    SIGNATURE + b"\x21\x21\x00\x0c" + bytes(12),
    SIGNATURE[:-1] + b"\x21" + bytes(20),
]


@pytest.mark.parametrize("data", BAD)
def test_what_is_none_is_told_at_once(data):
    with pytest.raises(ProxyHeaderError):
        parse(data)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]),
)
def test_nothing_else_ever_comes_out(data, begin):
    """A header within what was given, None only if more could still come, or the error."""
    try:
        found = parse(begin + data)
    except ProxyHeaderError:
        return
    if found is not None:
        assert 0 < found.size <= len(begin + data)
        assert found.client is None or ipaddress.ip_address(found.client)
    else:
        assert len(begin + data) < MAX_HEADER
