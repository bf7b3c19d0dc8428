"""A TLS ClientHello (RFC 8446 4.1.2), as far as a server has to know it before it responds. No I/O.

Which certificate, which least version and whether a client certificate is asked for depends on the name
that the client asks for. OpenSSL can change the certificate when it has read that name, but not the
least version nor the client certificate's mode: those stay as they were in the context that the handshake
began with. So the name is read here first, and the handshake begins with the right context.

Whatever is wrong with a hello is left to OpenSSL, which sends the alert that belongs to it.
"""

from __future__ import annotations

import re
import struct
from enum import Enum
from functools import lru_cache

import msgspec

from halfsync.wire.hello_layouts import Layouts

MAX_HELLO = 16 * 1024
"""Bytes. Browsers' have up to 2 KiB, with post-quantum key shares."""
MAX_RECORDS = 64
"""Records that one hello may come in; usually it is one."""

MAX_KEPT = 256
"""Bytes of a name, or of protocols, whose meaning is remembered; of each as many."""

FRAMING = 9
"""Bytes before the hello's body, if it is in one record: of the record, and of the message."""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_TLS_1_3 = b"\x03\x04"
_extension = struct.Struct(">HH").unpack_from
"""Kind and size."""
_HTTP = re.compile(rb"[A-Z]{3,20} [!-~]")  # the beginning of a request line; of HTTP/2's preface, too
_PART_OF_HTTP = re.compile(rb"[A-Z]{1,20} ?")
_NAME = re.compile(rb"[A-Za-z0-9._-]{1,253}")


class Opening(Enum):
    """What has come so far."""

    PART = "the beginning of what may be a hello"
    HELLO = "a whole hello"
    HTTP = "a request, in clear"
    TOO_LONG = "a hello of more bytes or records than any client's"
    OTHER = "neither, or a hello that is malformed"


class ClientHello(msgspec.Struct, frozen=True):
    server_name: str = ""  # in lower case, with no dot at its end; "" if there is none, or it is no host name
    protocols: tuple[bytes, ...] | None = None  # of ALPN, the client's favourite first; None: it names none


NO_HELLO = ClientHello()


def look_at(data: bytes) -> tuple[Opening, ClientHello]:
    """What a connection begins with, of which `data` has come."""
    layout = _layouts.get(len(data))
    if layout is not None and layout.fits(data):
        try:
            return Opening.HELLO, _named(data[layout.name], data[layout.protocols])
        except IndexError:
            return Opening.OTHER, NO_HELLO
    if data[:1] != b"\x16":
        return _no_tls(data), NO_HELLO
    kind, body = _joined(data)
    if kind is not Opening.HELLO:
        return kind, NO_HELLO
    try:
        hello = _parsed(body)
    except (IndexError, struct.error):
        return Opening.OTHER, NO_HELLO
    if len(data) == FRAMING + len(body):
        _layouts.missed(data, _SERVER_NAME, _ALPN)
    return kind, hello


def _no_tls(data: bytes) -> Opening:
    if _HTTP.match(data):
        return Opening.HTTP
    return Opening.PART if not data or _PART_OF_HTTP.fullmatch(data) else Opening.OTHER


def _joined(data: bytes) -> tuple[Opening, bytes]:
    """The hello's body, out of the records it came in."""
    if data[5:6] == b"\x01" and data[1] == 3:  # as most are: in one record, and all of it is here
        size = int.from_bytes(data[3:5], "big")
        end = 9 + int.from_bytes(data[6:9], "big")
        if end <= 5 + size <= len(data) and size <= MAX_HELLO:
            return Opening.HELLO, data[9:end]
    message = bytearray()
    at = 0
    for _ in range(MAX_RECORDS):
        header = data[at : at + 5]
        if len(header) < 5:
            return (Opening.OTHER if header[:1] not in (b"", b"\x16") else Opening.PART), b""
        size = int.from_bytes(header[3:5], "big")
        if header[0] != _HANDSHAKE or header[1] != 3 or not 0 < size <= MAX_HELLO:
            return Opening.OTHER, b""
        message += data[at + 5 : at + 5 + size]
        if message and message[0] != _CLIENT_HELLO:
            return Opening.OTHER, b""
        if len(message) >= 4:
            end = 4 + int.from_bytes(message[1:4], "big")
            if end > MAX_HELLO:
                return Opening.TOO_LONG, b""
            if len(message) >= end:
                return Opening.HELLO, bytes(message[4:end])
        if len(data) < at + 5 + size:
            return Opening.PART, b""
        at += 5 + size
    return Opening.TOO_LONG, b""


def _parsed(body: bytes) -> ClientHello:
    """Raises IndexError, struct.error. (With an object that reads, a handshake took 3 % longer.)"""
    at = 2 + 32  # behind version and random
    at += 1 + body[at]  # session id
    at += 2 + (body[at] << 8 | body[at + 1])  # cipher suites
    at += 1 + body[at]  # compression methods
    if at == len(body):
        return NO_HELLO
    end = at + 2 + (body[at] << 8 | body[at + 1])
    if end > len(body):
        raise IndexError
    at += 2
    name, protocols = "", None
    while at < end:
        kind, size = _extension(body, at)
        begin = at + 4
        at = begin + size
        if at > end:
            raise IndexError
        if kind == _SERVER_NAME:
            name = (_server_name if size > MAX_KEPT else _known_name)(body[begin:at])
        elif kind == _ALPN:
            protocols = (_protocols if size > MAX_KEPT else _known_protocols)(body[begin:at])
    return ClientHello(name, protocols)


def offers_tls_1_3(data: bytes) -> bool:
    """Whether a client that began with this hello, and maybe more behind it, speaks TLS 1.3."""
    kind, body = _joined(data)
    if kind is not Opening.HELLO:
        return False
    try:
        versions = _extension_of(body, _SUPPORTED_VERSIONS)
    except (IndexError, struct.error):
        return False
    return _TLS_1_3 in (versions[at : at + 2] for at in range(1, len(versions), 2))


def _extension_of(body: bytes, wanted: int) -> bytes:
    """What it says; b"" if it is absent. Raises IndexError, struct.error."""
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + (body[at] << 8 | body[at + 1])
    at += 1 + body[at] + 2
    while at < len(body):
        kind, size = _extension(body, at)
        at += 4 + size
        if kind == wanted:
            return body[at - size : at]
    return b""


def _server_name(value: bytes) -> str:
    """RFC 6066 3: a list, of which nothing but one host name was ever defined."""
    at, end = _vector(value, 0, 2)
    while at < end:
        kind = value[at]
        begin, at = _vector(value, at + 1, 2)
        if at > end:
            raise IndexError
        if kind == 0:
            name = value[begin:at].removesuffix(b".")
            return name.decode("ascii").lower() if _NAME.fullmatch(name) else ""
    return ""


def _protocols(value: bytes) -> tuple[bytes, ...]:
    at, end = _vector(value, 0, 2)
    found = []
    while at < end:
        begin, at = _vector(value, at, 1)
        if at > end or at == begin:
            raise IndexError
        found.append(value[begin:at])
    if not found or end != len(value):
        raise IndexError  # RFC 7301 3.1: there is at least one, and none is empty
    return tuple(found)


def _vector(value: bytes, at: int, size: int) -> tuple[int, int]:
    """Where the bytes begin and end whose number is in the `size` bytes at `at`. Raises IndexError."""
    begin = at + size
    end = begin + int.from_bytes(value[at:begin], "big")
    if not begin <= end <= len(value):
        raise IndexError
    return begin, end


def _named(name: bytes, protocols: bytes) -> ClientHello:
    """What these extensions say; they are empty if they are absent. Raises IndexError."""
    if len(name) + len(protocols) <= MAX_KEPT:
        return _known_hello(name, protocols)
    return _hello_of(name, protocols)


def _hello_of(name: bytes, protocols: bytes) -> ClientHello:
    return ClientHello(_server_name(name) if name else "", _protocols(protocols) if protocols else None)


_layouts = Layouts()
_known_hello = lru_cache(MAX_KEPT)(_hello_of)
_known_name = lru_cache(MAX_KEPT)(_server_name)
_known_protocols = lru_cache(MAX_KEPT)(_protocols)
