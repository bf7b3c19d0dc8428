"""The opening handshake of WebSocket (RFC 6455 4): a request in, an `Offer` or a `Refusal` out. No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from halfsync.wire.http1 import RequestHead
from halfsync.wire.http2_requests import NOT_HTTP1
from halfsync.wire.refusals import Refusal
from halfsync.wire.websocket_deflate import Extension, Parameters

VERSION = b"13"

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LIST_OF_TOKENS = re.compile(rf"[ \t,]*{_TOKEN}(?:[ \t]*,[ \t,]*{_TOKEN})*[ \t,]*")
# 9.1; a value in quotes has to be a token all the same.
_PARAMETER = rf'[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|"({_TOKEN})"))?'
_PARAMETERS = re.compile(_PARAMETER)
_EXTENSION = re.compile(rf"[ \t,]*({_TOKEN})((?:{_PARAMETER})*)[ \t]*(?:,|$)")


class Offer:
    """What a client that asks for a WebSocket wants."""

    __slots__ = ("accept", "extensions", "subprotocols")

    def __init__(self, accept: bytes, subprotocols: list[str], extensions: list[Extension]) -> None:
        self.accept = accept  # for the field Sec-WebSocket-Accept; b"": it is for HTTP/1.1 alone
        self.subprotocols = subprotocols  # in the order of its preference
        self.extensions = extensions


class UpgradeRefusal(Refusal):
    """426 (Upgrade Required): it asks for a version of WebSocket that is none."""

    def __init__(self) -> None:
        sentence = "This server speaks version 13 of WebSocket (RFC 6455)."
        super().__init__(426, sentence, close=False)

    def fields(self) -> bytes:
        # RFC 9110 15.5.22: Upgrade must be there, and so must be its name in Connection (7.8).
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        return super().fields() + b"Sec-WebSocket-Version: " + VERSION + b"\r\n" + upgrade


def asks_for_websocket(head: RequestHead) -> bool:
    """Whether a request wants to upgrade to WebSocket, in whatever form (with HTTP/2, by RFC 8441). HTTP/1.0
    has no upgrade (RFC 9110 7.8)."""
    if head.minor == NOT_HTTP1:
        return head.upgrades
    if not head.minor or b"websocket" not in (lowered := head.raw.lower()):
        return False
    return any(b"websocket" in tokens_of(value) for value in values_of(lowered, b"upgrade"))


def check_handshake(head: RequestHead) -> Offer:
    """Of a request that asks for it. Raises Refusal."""
    if head.minor == NOT_HTTP1:
        return check_offer(head)
    raw = head.raw
    if head.method != b"GET":
        raise _refused("is a GET", head)
    if head.body_size:
        raise _refused("has no body", head)
    if b"upgrade" not in tokens_of(b",".join(values_of(raw, b"connection")).lower()):
        raise _refused("has Connection: Upgrade (does a proxy in front drop it?)", head)
    keys = values_of(raw, b"sec-websocket-key")
    offer = check_offer(head)
    if len(keys) != 1 or not _is_key(keys[0]):
        raise _refused("has one Sec-WebSocket-Key, of 16 bytes in Base64", head)
    digest = hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest()
    offer.accept = base64.b64encode(digest)
    return offer


def check_offer(head: RequestHead) -> Offer:
    """The part of it that every version of HTTP has. Raises Refusal."""
    raw = head.raw
    versions = values_of(raw, b"sec-websocket-version")
    if len(versions) > 1:
        raise _refused("has one Sec-WebSocket-Version", head)
    if not versions or versions[0] != VERSION:
        raise UpgradeRefusal
    protocols = b",".join(values_of(raw, b"sec-websocket-protocol")).decode("latin-1")
    if protocols and not _LIST_OF_TOKENS.fullmatch(protocols):
        raise _refused("has a Sec-WebSocket-Protocol that is a list of names", head)
    names = [name for part in protocols.split(",") if (name := part.strip(" \t"))]
    extensions = b",".join(values_of(raw, b"sec-websocket-extensions")).decode("latin-1")
    try:
        return Offer(b"", list(dict.fromkeys(names)), parse_extensions(extensions))
    except ValueError:
        raise _refused("has Sec-WebSocket-Extensions that are a list of extensions", head) from None


def _refused(what: str, head: RequestHead) -> Refusal:
    return Refusal(400, f"A request for a WebSocket {what}.", close=head.body_size != 0)


def values_of(raw: bytes, name: bytes) -> list[bytes]:
    """Of all fields of that name, in the header section of a request."""
    found = []
    for line in raw.split(b"\r\n")[1:]:
        before, _, value = line.partition(b":")
        if before.lower() == name:
            found.append(value.strip(b" \t"))
    return found


def tokens_of(value: bytes) -> list[bytes]:
    """Of a comma-separated list."""
    return [part.strip(b" \t") for part in value.split(b",")]


def _is_key(value: bytes) -> bool:
    """4.1: a nonce of 16 bytes."""
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def parse_extensions(value: str) -> list[Extension]:
    """9.1. A parameter that is named twice makes of an offer what can't be accepted. Raises ValueError."""
    found: list[Extension] = []
    value = value.strip(" \t,")
    at = 0
    while at < len(value):
        match = _EXTENSION.match(value, at)
        if match is None:
            raise ValueError(f"{value[at:]!r} is no list of extensions")
        parameters: Parameters = {}
        for one in _PARAMETERS.finditer(match[2]):
            twice = one[1] in parameters
            parameters["" if twice else one[1]] = one[2] or one[3]
        found.append((match[1], parameters))
        at = match.end()
    return found
