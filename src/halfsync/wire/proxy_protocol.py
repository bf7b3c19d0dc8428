"""The PROXY protocol, versions 1 and 2: what a proxy says of its client, before that client's first byte.
No I/O. (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)

Version 1 is a line of text, version 2 a block of binary fields; the first bytes say which of the two it is.
Either may say that it speaks for no client: version 1 by UNKNOWN, version 2 by LOCAL (a proxy's own health
check) or by an unspecified family. Then the connection counts as the proxy's own.
"""

from __future__ import annotations

import ipaddress
import struct

import msgspec

MAX_HEADER = 4096
"""Bytes. A version 1 line has 107 at most, version 2 with addresses of any kind 232, and the rest is for its
further fields (TLVs), of which AWS, HAProxy and their like send some hundred bytes."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = 16  # bytes of version 2 before its addresses: signature, version and command, family, length
_MAX_LINE = 107
_BEGIN = b"PROXY "
_FAMILIES = {b"TCP4": 4, b"TCP6": 6}
_ADDRESSES = {1: (4, 12), 2: (16, 36)}  # family -> bytes of an address, and of both with their ports


class ProxyHeaderError(ValueError):
    """It is no PROXY header; `str()` says why, as the end of a sentence."""


class ProxyHeader(msgspec.Struct, frozen=True):
    """A whole header."""

    size: int  # bytes
    client: str | None  # address; None: the proxy speaks for itself, or does not say
    client_port: int = 0


def parse(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`; None if it is not whole yet. Raises ProxyHeaderError."""
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return _parse_binary(data)
    if data[: len(_BEGIN)] == _BEGIN[: len(data)]:
        return _parse_line(data)
    raise ProxyHeaderError("it does not begin with a PROXY header")


def _parse_line(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_LINE)
    line = data[:end] if end >= 0 else data
    if b"\n" in line or len(line) >= _MAX_LINE:
        raise ProxyHeaderError("its PROXY line has no end")
    if end < 0:
        return None
    size = end + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(size, None)
    version = _FAMILIES.get(words[1])
    if version is None or len(words) != 6:
        raise ProxyHeaderError(
            "its PROXY line is neither TCP4, TCP6 nor UNKNOWN with two addresses and ports"
        )
    client, _ = (_address(word, version) for word in words[2:4])
    port, _ = (_port(word) for word in words[4:])
    return ProxyHeader(size, client, port)


def _address(word: bytes, version: int) -> str:
    try:
        found = ipaddress.ip_address(word.decode("ascii"))
    except ValueError:
        raise ProxyHeaderError(f"its PROXY line has a bad address, {word[:40]!r}") from None
    if found.version != version or (isinstance(found, ipaddress.IPv6Address) and found.scope_id is not None):
        raise ProxyHeaderError(f"its PROXY line has an address of another kind, {word[:40]!r}")
    return _plain(found)


def _port(word: bytes) -> int:
    if not (word.isdigit() and len(word) <= 5 and int(word) <= 65535 and (word[:1] != b"0" or word == b"0")):
        raise ProxyHeaderError(f"its PROXY line has a bad port, {word[:10]!r}")
    return int(word)


def _parse_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED:
        return None
    version_and_command, family_and_transport, length = struct.unpack_from("!BBH", data, len(_SIGNATURE))
    version, command = version_and_command >> 4, version_and_command & 15
    if version != 2 or command > 1:
        raise ProxyHeaderError(f"its PROXY header has version {version} and command {command}")
    size = _FIXED + length
    if size > MAX_HEADER:
        raise ProxyHeaderError(f"its PROXY header is longer than {MAX_HEADER} bytes")
    family, transport = family_and_transport >> 4, family_and_transport & 15
    width, addresses = _ADDRESSES.get(family, (0, 0))
    speaks_for_client = command == 1 and transport == 1 and width > 0  # 1: a stream
    if speaks_for_client and length < addresses:
        raise ProxyHeaderError("its PROXY header has no room for its addresses")
    if len(data) < size:
        return None
    if not speaks_for_client:
        return ProxyHeader(size, None)
    client = ipaddress.ip_address(data[_FIXED : _FIXED + width])
    (port,) = struct.unpack_from("!H", data, _FIXED + 2 * width)
    return ProxyHeader(size, _plain(client), port)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)  # ::ffff:192.0.2.7 is 192.0.2.7
