"""The header section of an HTTP/2 request (RFC 9113 8.2, 8.3): fields in, a `RequestHead` out. No I/O.

Theory of operation
-------------------
A worker, the access log and leases know one form of a head: a request line and field lines. So the fields
are written as such lines, with `HTTP/2.0` as the version, and `wire.http1` checks them as it checks those of
HTTP/1.1: the same methods, targets, hosts, characters, limits and refusals. What only HTTP/2 can get wrong is
checked here, before: pseudo-header fields, upper case, fields of the connection, and line ends in a value,
which would make two lines of one.

Heads without a body are remembered, by their lines, for all connections together: clients send the same ones
again and again, and then nothing is checked a second time.
"""

from __future__ import annotations

import re

from halfsync.wire.hpack import Field
from halfsync.wire.http1 import CHUNKED, HeadLimits, RequestHead, parse_head
from halfsync.wire.refusals import Refusal

MAX_HELD = 4 * 1024 * 1024
MAX_KEPT_HEAD = 2048
"""Bytes of all heads that are remembered, and of each."""
OVERHEAD = 512
"""Bytes that a head takes beside its lines: objects, and places in dictionaries."""
MAX_NAMES = 1024
MAX_KEPT_NAME = 64
NOT_HTTP1 = 2
"""`RequestHead.minor` of these heads: nothing that only concerns HTTP/1.0 or 1.1 is to be done for them."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_EDGE = b" \t"

_PLAIN, _METHOD, _SCHEME, _AUTHORITY, _PATH, _PROTOCOL, _COOKIE, _HOST, _LENGTH, _TE, _FORBIDDEN = range(11)
_KINDS: dict[bytes, int] = {
    b":method": _METHOD,
    b":scheme": _SCHEME,
    b":authority": _AUTHORITY,
    b":path": _PATH,
    b":protocol": _PROTOCOL,  # RFC 8441
    b"cookie": _COOKIE,
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"te": _TE,
    # RFC 9113 8.2.2
    b"connection": _FORBIDDEN,
    b"keep-alive": _FORBIDDEN,
    b"proxy-connection": _FORBIDDEN,
    b"transfer-encoding": _FORBIDDEN,
    b"upgrade": _FORBIDDEN,
}
_LAST_PSEUDO = _PROTOCOL
_SPECIAL = len(_KINDS)


class Malformed(Exception):
    """RFC 9113 8.1.1: a stream error PROTOCOL_ERROR. `str()` says why."""


class Requests:
    """What is remembered, for the connections that share it."""

    def __init__(self, limits: HeadLimits) -> None:
        self._heads: dict[bytes, RequestHead] = {}
        self._groups: dict[bytes, dict[bytes, RequestHead]] = {}
        self.configure(limits)

    def configure(self, limits: HeadLimits) -> None:
        self.limits = limits
        self._forget()

    @property
    def max_fields(self) -> int:
        """Fields that may come: clients send each part of a cookie as one, and there are pseudo-header
        fields."""
        return 2 * self.limits.fields + 4

    def head_of(self, fields: list[Field], *, ended: bool) -> RequestHead:
        """`ended`: no body follows. Raises Malformed, and Refusal for what is answered with a response."""
        lines, length, is_websocket = _lines_of(fields)
        raw = b"\r\n".join(lines)
        if raw.count(b"\n") != len(lines) - 1 or raw.count(b"\r") != len(lines) - 1 or b"\0" in raw:
            raise Malformed("a line end or NUL in a field")
        if is_websocket and (ended or length >= 0):
            raise Malformed("a WebSocket that is over before it has begun, or has a length")
        if ended:
            if length > 0:
                raise Malformed("content-length says that there is a body, and there is none")
            head = self._heads.get(raw)
            if head is not None:
                return head
        for _, value, _ in fields:
            if value and (value[0] in _EDGE or value[-1] in _EDGE):
                raise Malformed("white space at an end of a value")
        head = _checked(raw + b"\r\n\r\n", self.limits)
        if ended:
            if len(raw) <= MAX_KEPT_HEAD:
                self._hold(len(raw))
                self._heads[raw] = head
        elif is_websocket:
            head.upgrades = True
        else:
            head.body_size = CHUNKED if length < 0 else length
        return head

    def remember(self, head: RequestHead, code: bytes) -> dict[bytes, RequestHead]:
        """That `code`, the value of :path in a header block, gave this head. What is returned are all such
        codes of heads that differ in their path alone; it is not to be changed."""
        start = len(head.method) + 1
        lines = head.raw[:start] + head.raw[start + len(head.target) :]
        if len(lines) > MAX_KEPT_HEAD:
            return {}
        self._hold(len(lines) + len(code))
        group = self._groups.setdefault(lines, {})
        group[code] = head
        return group

    def _hold(self, size: int) -> None:
        """Make room for so many bytes more."""
        if self.held + size + OVERHEAD > MAX_HELD:
            self._forget()
        self.held += size + OVERHEAD

    def _forget(self) -> None:
        self._heads.clear()
        for group in self._groups.values():
            group.clear()  # connections refer to it still
        self._groups.clear()
        self.held = 0  # bytes


def _checked(raw: bytes, limits: HeadLimits) -> RequestHead:
    """`raw` as HTTP/1.1 would say it."""
    head = parse_head(raw, limits)
    line_end = raw.index(b"\r\n")
    head.raw = raw[: line_end - 8] + b"HTTP/2.0" + raw[line_end:]
    head.minor = NOT_HTTP1
    head.plain = False
    return head


def check_trailers(fields: list[Field]) -> None:
    """RFC 9113 8.1: no pseudo-header fields. Raises Malformed."""
    for name, value, _ in fields:
        kind = _KINDS.get(name)
        if kind is None:
            kind = _kind_of(name)
        if kind == _FORBIDDEN or _METHOD <= kind <= _LAST_PSEUDO:
            raise Malformed(f"{name.decode('latin-1')} in trailers")
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise Malformed("a line end or NUL in a trailer")


def _lines_of(fields: list[Field]) -> tuple[list[bytes], int, bool]:  # noqa: C901 (one loop over what is hot)
    """The lines of a head; its content-length, or -1; and whether it asks for a WebSocket."""
    kinds = _KINDS
    pseudo: dict[int, bytes] = {}
    lines = [b"", b""]
    cookie: bytes | None = None
    host: bytes | None = None
    length = -1
    for name, value, _ in fields:
        kind = kinds.get(name)
        if kind is None:
            kind = _kind_of(name)
        if kind == _PLAIN:
            lines.append(name + b": " + value)
        elif kind <= _LAST_PSEUDO:
            if kind in pseudo:
                raise Malformed(f"{name.decode()} comes twice")
            if len(lines) > 2 or cookie is not None or host is not None:
                raise Malformed(f"{name.decode()} comes behind a field")
            pseudo[kind] = value
        elif kind == _COOKIE:
            cookie = value if cookie is None else cookie + b"; " + value  # 8.2.3
        elif kind == _HOST:
            if host is not None:
                raise Malformed("host comes twice")
            host = value
        elif kind == _LENGTH:
            if length >= 0 or not value.isdigit() or len(value) > 18:
                raise Malformed("content-length is no number, or comes twice")
            length = int(value)
            lines.append(b"Content-Length: " + value)
        elif kind == _TE and value.lower() == b"trailers":
            lines.append(b"te: trailers")
        else:
            raise Malformed(f"{name.decode()} is not for HTTP/2")
    is_websocket = _PROTOCOL in pseudo
    if is_websocket:
        _check_protocol(pseudo)
    _begin(lines, pseudo, host)
    if cookie is not None:
        lines.append(b"Cookie: " + cookie)
    return lines, length, is_websocket


def _check_protocol(pseudo: dict[int, bytes]) -> None:
    """RFC 8441 4 and 5: of an extended CONNECT, which is written as the GET that it would be with HTTP/1.1.
    Raises Malformed, Refusal."""
    if pseudo.get(_METHOD) != b"CONNECT":
        raise Malformed(":protocol is for CONNECT")
    if pseudo[_PROTOCOL].lower() != b"websocket":
        raise Refusal(501, "The only protocol known here for CONNECT is websocket.")
    pseudo[_METHOD] = b"GET"


def _begin(lines: list[bytes], pseudo: dict[int, bytes], host: bytes | None) -> None:
    """Write the request line, and Host. Raises Malformed, Refusal."""
    method = pseudo.get(_METHOD)
    path = pseudo.get(_PATH)
    authority = pseudo.get(_AUTHORITY)
    if not method:
        raise Malformed(":method is missing")
    if method == b"CONNECT":
        if path is not None or _SCHEME in pseudo or not authority:
            raise Malformed("CONNECT has an :authority and no more")  # 8.5
        raise Refusal(501, "This server is no proxy: it does not know CONNECT.")
    if not path or _SCHEME not in pseudo:
        raise Malformed(":path or :scheme is missing")
    if pseudo[_SCHEME].lower() not in (b"http", b"https"):
        raise Refusal(400, "The scheme is neither http nor https.")
    if path[0] != 47 and not (path == b"*" and method == b"OPTIONS"):
        raise Malformed(":path is no path")
    if authority is not None:
        if host is not None and host.lower() != authority.lower():
            raise Malformed("host is another one than :authority")  # 8.3.1
        host = authority
    lines[0] = b"%b %b HTTP/1.1" % (method, path)
    if host:
        lines[1] = b"Host: " + host
    else:
        raise Refusal(400, "Neither :authority nor host says for which site this is.")


def _kind_of(name: bytes) -> int:
    """Of a name that is not known yet. Raises Malformed."""
    if not _NAME.fullmatch(name):
        shown = name[:40].decode("latin-1")
        raise Malformed(f"{shown!r} is no pseudo-header field or name of a field in lower case")
    if len(name) <= MAX_KEPT_NAME:
        if len(_KINDS) >= MAX_NAMES:
            for known in list(_KINDS)[_SPECIAL:]:
                del _KINDS[known]
        _KINDS[name] = _PLAIN
    return _PLAIN
