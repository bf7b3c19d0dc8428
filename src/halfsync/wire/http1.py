"""HTTP/1.1 request heads (RFC 9110, 9112): bytes in, a `RequestHead` or a `Refusal` out. No I/O.

Theory of operation
-------------------
llhttp (through httptools) looks at every byte of a head, with a new parser for every head: 0.2 µs
to make, 0.5 µs for a browser's 500 bytes, and no state can leak from one request, let alone one
connection, into another. It gets the head only, never what is behind it.

It is strict: it refuses bare CR and LF, folded lines, white space before the colon, and
Content-Length that is repeated, conflicting, overflowing or no number. What it lets pass and we
refuse, because a server in front or behind may read it differently:

 - a request line with more than one space between its parts, or any version but 1.0 and 1.1;
 - bare CR and LF before the request line, which it skips, and which would pass for part of the method;
 - Transfer-Encoding in 1.0, and any coding but a sole `chunked`;
 - a missing or repeated Host in 1.1, and a Host that is no host.

A head that passed holds lines that end in CRLF and names that are tokens, so one regular
expression may pick the few fields that the pump needs (0.7 µs) with no parser of its own; a
dictionary of all fields (3.9 µs with a callback a field) is the worker's, if anyone's.
"""

from __future__ import annotations

import ipaddress
import re

import httptools

from halfsync.wire.refusals import Refusal

HEAD_END = b"\r\n\r\n"
CHUNKED = -1
"""`RequestHead.body_size` of a body whose end is told by its last chunk."""

# Fields whose names begin like one that the pump looks at. Two classes of letters first: an
# alternation of whole names, case folded, takes 1.8 µs for the same 500 bytes.
_PICK = re.compile(rb"\r\n([HhCcTtEeRrIi][OoEeRrXxAaFf][SsNnTtAaPp\-][^:\r]*):[ \t]*([^\r]*)")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (\S+) HTTP/(\d+)\.(\d+)")
# Host and port: what names of hosts consist of, or an IPv6 address in brackets. RFC 3986 lets percent-escapes
# and !$&'()*+,;= stand in a host, too: no name in use has them, and applications put the Host into URLs,
# fields and file names.
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_PADDED_CODING = re.compile(rb"(\r\nTransfer-Encoding:)[ \t]*([^\r]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
_EMPTY_LINES = re.compile(rb"(?:\r\n)+")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_KNOWN = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})

CONDITIONAL = frozenset(
    {b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"}
)
"""Fields that make a request for a file another request; `RequestHead.conditions` holds them."""


class HeadLimits:
    """What a head may take. All in bytes, but `fields` in lines."""

    __slots__ = ("field_size", "fields", "harmless", "head", "line")

    def __init__(
        self, line: int = 8190, fields: int = 100, field_size: int = 8190, head: int = 65536
    ) -> None:
        self.harmless = min(line, field_size, head)  # a head of this size keeps all limits of size
        self.line = line
        self.fields = fields
        self.field_size = field_size
        self.head = head


class _NoCallbacks:
    """httptools asks its protocol for callbacks by name; there are none to find."""


_no_callbacks = _NoCallbacks()


class RequestHead:
    """A head that passed all checks, and the few things that framing and routing need of it."""

    __slots__ = (
        "body_size",
        "closes",
        "conditions",
        "expects",
        "host",
        "keep_alive",
        "method",
        "minor",
        "plain",
        "raw",
        "target",
        "upgrades",
    )

    def __init__(self, raw: bytes, method: bytes, target: bytes, minor: int) -> None:
        self.raw = raw  # request line to empty line
        self.method = method
        self.target = target
        self.minor = minor  # HTTP/1.`minor`
        self.host = b""
        self.closes = False  # the client said so
        self.keep_alive = minor == 1
        self.body_size = 0  # bytes, or CHUNKED
        self.expects = False  # the client waits for 100 (Continue)
        self.upgrades = False  # the client would speak another protocol
        self.conditions: dict[bytes, bytes] | None = None
        self.plain = False  # 1.1, kept, no body, not HEAD: nothing about it needs special care

    def with_cookie(self, raw: bytes) -> RequestHead:
        """The same request with another cookie: for a `plain` head, and a `raw` that differs in the
        value of its Cookie and in nothing else."""
        head = RequestHead(raw, self.method, self.target, self.minor)
        head.host = self.host
        head.conditions = self.conditions
        head.plain = True
        return head

    def with_raw(self, raw: bytes) -> RequestHead:
        """The same request with other fields that mean nothing to us. It is not `plain`: no other request is
        like it. (copy() takes several times as long.)"""
        head = RequestHead(raw, self.method, self.target, self.minor)
        head.host = self.host
        head.closes = self.closes
        head.keep_alive = self.keep_alive
        head.body_size = self.body_size
        head.expects = self.expects
        head.upgrades = self.upgrades
        head.conditions = self.conditions
        return head


def is_unread_head_request(head: RequestHead) -> bool:
    """Of what is refused before its head is read, or is whole: whether it begins as a HEAD does. Its response
    has no body, as any other to HEAD (RFC 9110 9.3.2)."""
    return not head.method and head.raw.startswith(b"HEAD ")


def parse_head(raw: bytes, limits: HeadLimits) -> RequestHead:
    """A head, from its request line through its empty line and not a byte more.

    Raises Refusal, always with `close`, and nothing else whatever the bytes are.
    """
    if len(raw) > limits.harmless:
        _check_sizes(raw, limits)
    try:
        _feed(raw)
    except httptools.HttpParserError as error:
        _check_again(raw, error)
    parts = raw[: raw.index(b"\r\n")].split(b" ")
    if len(parts) != 3 or raw[0] < 33:
        raise Refusal(400, "The request line must be method, target and version, one space between.")
    method, target, version = parts
    if version == b"HTTP/1.1":
        head = RequestHead(raw, method, target, 1)
    elif version == b"HTTP/1.0":
        head = RequestHead(raw, method, target, 0)
    else:
        raise Refusal(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    if raw.count(b"\r\n") - 2 > limits.fields:
        raise Refusal(431, f"More than {limits.fields} header fields (limit_request_fields).")
    if method == b"CONNECT":
        raise Refusal(501, "This server is no proxy: it does not know CONNECT.")
    _pick_fields(head)
    if target[:1] != b"/":
        _check_target(head)
    head.plain = (
        head.minor == 1
        and head.keep_alive
        and head.body_size == 0
        and method != b"HEAD"
        and not head.upgrades
    )
    return head


def _feed(raw: bytes) -> None:
    try:
        httptools.HttpRequestParser(_no_callbacks).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # a request to upgrade, or CONNECT; the head is whole and right


def _check_again(raw: bytes, error: httptools.HttpParserError) -> None:
    """Refuse what llhttp refused; but a tab behind `chunked` is white space that is not of the value (RFC
    9110 5.5), and llhttp takes it for another coding."""
    refusal = _why_refused(raw, error)
    unpadded = _PADDED_CODING.sub(rb"\1 \2", raw)
    if refusal.status != 501 or unpadded == raw:
        raise refusal from None
    try:
        _feed(unpadded)
    except httptools.HttpParserError:
        raise refusal from None


def without_empty_lines(data: bytes) -> bytes:
    """`data` without the empty lines at its start, which RFC 9112 2.2 lets pass before a request."""
    begun = _EMPTY_LINES.match(data)
    return data if begun is None else data[begun.end() :]


def check_partial(buffer: bytes | bytearray, limits: HeadLimits, scanned: int) -> None:
    """What has come of a head that is not whole yet; `scanned` bytes of it were checked before.

    Raises Refusal as soon as it can't become a good one, so that nobody waits for a time limit:
    malformed bytes, a bare line feed, or too much of anything.
    """
    if scanned == 0 and not _TOKEN.match(buffer):
        raise Refusal(400, "This is not an HTTP request.")
    if _BARE_LF.search(buffer, max(0, scanned - 1)):
        raise Refusal(400, "A line ends in a bare line feed.")
    if len(buffer) > limits.harmless:
        if scanned > limits.harmless and buffer.find(b"\n", scanned) < 0:
            _check_last_line(buffer, limits)
        else:
            _check_sizes(buffer, limits)


def _check_last_line(head: bytes | bytearray, limits: HeadLimits) -> None:
    """As _check_sizes, for a head that was checked before and whose last line alone has grown since. A head
    that comes byte by byte costs 1 µs a byte so, where all the checks take 100."""
    begun = head.rfind(b"\n") + 1
    if not begun:
        _check_sizes(head, limits)
        return
    if len(head) > limits.head:
        raise Refusal(431, f"The headers are larger than {limits.head} bytes (limit_request_head).")
    if len(head) - begun > limits.field_size:
        raise Refusal(
            431, f"A header field is longer than {limits.field_size} bytes (limit_request_field_size)."
        )


def _check_sizes(head: bytes | bytearray, limits: HeadLimits) -> None:
    line_end = head.find(b"\r\n", 0, limits.line + 2)
    if line_end < 0 and len(head) < limits.line + 2:
        return  # a part of a head, whose first line may still end in time
    if line_end < 0 or line_end > limits.line:
        # 414 says that the target is too long; so it must have begun.
        if re.match(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} ", head):
            raise Refusal(414, f"The request line is longer than {limits.line} bytes (limit_request_line).")
        raise Refusal(400, "This is not an HTTP request.")
    if len(head) > limits.head:
        raise Refusal(431, f"The headers are larger than {limits.head} bytes (limit_request_head).")
    if head.count(b"\r\n") - 2 > limits.fields:
        raise Refusal(431, f"More than {limits.fields} header fields (limit_request_fields).")
    if max(map(len, head[line_end + 2 :].split(b"\r\n"))) > limits.field_size:
        raise Refusal(
            431, f"A header field is longer than {limits.field_size} bytes (limit_request_field_size)."
        )


def _why_refused(raw: bytes, error: httptools.HttpParserError) -> Refusal:
    """The right status for what llhttp refused. It tells errors apart only by their text."""
    line = _REQUEST_LINE.fullmatch(raw, 0, max(raw.find(b"\r\n"), 0))
    if line is not None:
        if line[3] != b"1" or line[4] not in (b"0", b"1"):
            return Refusal(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            return Refusal(501, "This method is not known here.")
    if "Transfer-Encoding" in str(error) and "Content-Length" not in str(error):
        return Refusal(501, "The only transfer coding known here is a sole chunked.")
    return Refusal(400, f"{error}.")


def _pick_fields(head: RequestHead) -> None:
    """RFC 9112 6.3 (length of the body), 9.3 (persistence), 3.2 (Host)."""
    hosts = 0
    for name, value in _PICK.findall(head.raw):
        name = name.lower()
        if name == b"host":
            hosts += 1
            head.host = value.rstrip(b" \t")
        elif name == b"connection":
            _read_connection(head, value)
        elif name in CONDITIONAL:
            if head.conditions is None:
                head.conditions = {}
            # A field that comes twice is joined, as any list (RFC 9110 5.3).
            before = head.conditions.get(name)
            head.conditions[name] = value if before is None else before + b", " + value
        elif name in _KNOWN:
            _read_framing(head, name, value.strip(b" \t"))
    if hosts != 1 and (head.minor or hosts):
        raise Refusal(400, "HTTP/1.1 wants exactly one Host." if head.minor else "More than one Host.")
    if head.host and not _is_host(head.host):  # empty: the client has none to name (RFC 9112 3.2)
        raise Refusal(400, "The Host is not a host.")


def _is_host(value: bytes) -> bool:
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    address, port = match.groups()
    if address is not None and not _is_ipv6(address):
        return False
    return not port or int(port) < 65536


def _is_ipv6(address: bytes) -> bool:
    try:
        ipaddress.IPv6Address(address.decode())
    except ValueError:
        return False
    return True


def _read_connection(head: RequestHead, value: bytes) -> None:
    """RFC 9112 9.3: `close` always wins; 1.0 keeps only when asked to."""
    if value == b"keep-alive" and head.minor == 1:
        return  # a browser's, in every request
    options = [option.strip(b" \t") for option in value.lower().split(b",")]
    head.closes = head.closes or b"close" in options
    head.upgrades = head.upgrades or (head.minor == 1 and b"upgrade" in options)
    head.keep_alive = not head.closes and (head.minor == 1 or b"keep-alive" in options or head.keep_alive)


def _read_framing(head: RequestHead, name: bytes, value: bytes) -> None:
    if name == b"content-length":
        head.body_size = int(value)  # llhttp let only digits pass, once, and no Transfer-Encoding beside
    elif name == b"transfer-encoding":
        if head.minor == 0:
            raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.")
        if head.body_size == CHUNKED or value.lower() != b"chunked":
            raise Refusal(501, "The only transfer coding known here is a sole chunked.")
        head.body_size = CHUNKED
    elif name == b"expect":
        if value.lower() != b"100-continue":
            raise Refusal(417, "The only expectation known here is 100-continue.")
        head.expects = head.minor == 1  # RFC 9110 10.1.1: a 1.0 client's is ignored


def _check_target(head: RequestHead) -> None:
    """RFC 9112 3.2: absolute-form from anyone, asterisk-form for OPTIONS, nothing else."""
    if head.target == b"*":
        if head.method == b"OPTIONS":
            return
    elif head.target[:7].lower() == b"http://" or head.target[:8].lower() == b"https://":
        authority, _, _ = head.target.partition(b"://")[2].partition(b"/")
        authority = authority.partition(b"?")[0].partition(b"#")[0]
        if _is_host(authority):
            head.host = authority  # RFC 9112 3.2.2: it wins over Host
            return
    raise Refusal(400, "The target is neither a path nor an absolute http address.")
