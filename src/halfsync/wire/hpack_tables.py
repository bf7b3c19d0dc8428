"""The two constant tables of HPACK (RFC 7541): the static table, and the Huffman code with its decoder."""

from __future__ import annotations

Field = tuple[bytes, bytes, int]
"""Name, value, and its size as RFC 7541 4.1 counts it: both lengths and 32."""


class HpackError(Exception):
    """A header block that can't be decoded. The connection can't go on: its dynamic table is unknown."""


def field(name: bytes, value: bytes) -> Field:
    return name, value, len(name) + len(value) + 32


_STATIC_LINES = b"""\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
"""

STATIC: tuple[Field, ...] = tuple(
    field(name, value) for name, _, value in (line.partition(b" ") for line in _STATIC_LINES.splitlines())
)
"""RFC 7541 appendix A. Its first index is 1, ours is 0."""

STATIC_NAMES: dict[bytes, int] = {name: 61 - at for at, (name, _, _) in enumerate(reversed(STATIC))}
"""The lowest index, as the wire counts, of each name."""

STATIC_FIELDS: dict[tuple[bytes, bytes], int] = {
    (name, value): at for at, (name, value, _) in enumerate(STATIC, 1) if value
}

# RFC 7541 appendix B. The code is canonical (codes of one length ascend with their symbols), so the lengths
# say all of it. By symbol; the last one is EOS.
_LENGTHS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8,
    7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7,
    7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23,
    24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24,
    20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
    27, 27, 27, 26, 30,
)  # fmt: skip
EOS = 256


def _codes() -> dict[tuple[int, int], int]:
    """Symbol by length and code."""
    codes: dict[tuple[int, int], int] = {}
    code = length = 0
    for symbol in sorted(range(len(_LENGTHS)), key=lambda one: (_LENGTHS[one], one)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        codes[length, code] = symbol
        code += 1
    return codes


HUFFMAN = _codes()


class _Row(list["tuple[_Row, bytes] | None"]):
    """Where the decoder stands within a code: `length` bits of it were read, and they are `code`. By the
    next byte: the row behind that, and what symbols ended in it. (A list that fills itself: the whole table
    has 65,536 entries, and what clients send needs some hundreds.)"""

    __slots__ = ("code", "length")

    def __init__(self, length: int, code: int) -> None:
        super().__init__((None,) * 256)
        self.length = length
        self.code = code

    @property
    def may_end(self) -> bool:
        """RFC 7541 5.2: at most seven bits are left, all of them ones."""
        return self.length <= 7 and self.code == (1 << self.length) - 1


_rows: dict[tuple[int, int], _Row] = {(0, 0): _Row(0, 0)}
_ROOT = _rows[0, 0]


def _fill(row: _Row, byte: int) -> tuple[_Row, bytes]:
    length, code = row.length, row.code
    found = bytearray()
    for shift in range(7, -1, -1):
        code = code << 1 | byte >> shift & 1
        length += 1
        symbol = HUFFMAN.get((length, code))
        if symbol is not None:
            if symbol == EOS:
                raise HpackError("a Huffman code has EOS in it")
            found.append(symbol)
            length = code = 0
    behind = _rows.get((length, code))
    if behind is None:
        behind = _rows[length, code] = _Row(length, code)
    row[byte] = entry = (behind, bytes(found))
    return entry


def decode_huffman(data: bytes) -> bytes:
    """Raises HpackError."""
    row = _ROOT
    found = []
    for byte in data:
        row, symbols = row[byte] or _fill(row, byte)
        found.append(symbols)
    if not row.may_end:
        raise HpackError("a Huffman code does not end in at most seven ones")
    return b"".join(found)
