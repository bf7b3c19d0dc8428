"""HPACK (RFC 7541): header blocks to fields, and fields to header blocks. No I/O.

Theory of operation
-------------------
Decoding is one loop over the bytes of a block. Both tables hold ready tuples of name, value and size, so an
indexed field, which is what most fields of a browser are, is one look-up. What Huffman codes mean is
remembered, in a bounded dictionary that all connections share: paths, user agents and their like come again.
(A browser's block of 13 fields: 2 µs; 28 with the `hpack` library.)

Sizes are counted while decoding, so a few bytes that refer to a large field a thousand times are stopped
where they pass the limits: see `Decoder.decode`.

Encoding keeps no dynamic table: names are static or literal, and literals are not indexed. So the header
block of a response depends on nothing but the response, and can be kept; it costs some 50 bytes on the wire.
"""

from __future__ import annotations

from halfsync.wire.hpack_tables import (
    STATIC,
    STATIC_FIELDS,
    STATIC_NAMES,
    Field,
    HpackError,
    decode_huffman,
    field,
)

TABLE_SIZE = 4096
"""Bytes of the dynamic table, as RFC 7541 4.1 counts them. It is the protocol's default, so the client need
not be told; 100 connections of browsers take 400 KB."""
MAX_REMEMBERED = 1024
MAX_REMEMBERED_CODE = 256
"""Huffman codes, and bytes of each, whose meaning is remembered."""
PATH = 4
"""The index that encoders use for the name :path."""
MAX_RESIZES = 2
"""New sizes of the table at the beginning of a block: the smallest one and the last one (RFC 7541 4.2). They
are no fields, so nothing else would bound them: 60,000 in one block took 25 ms."""
HOPELESS = 4
"""A block that passes its limits by so many times is no honest one: decoding stops."""

_remembered: dict[bytes, bytes] = {}


class Decoder:
    """Of one connection: holds its dynamic table.

    `inserted`: whether the last block changed the table. If it did not, the same bytes mean the same
    fields until one does. `path_at`: where in it a literal is the value of :path; 0 if none is."""

    __slots__ = ("_capacity", "_size", "_table", "inserted", "path_at")

    def __init__(self) -> None:
        self._table: list[Field] = []  # the newest is the last
        self._size = 0
        self._capacity = TABLE_SIZE
        self.inserted = False
        self.path_at = 0

    def decode(self, block: bytes, max_size: int, max_fields: int) -> list[Field] | None:  # noqa: C901 (hot)
        """The fields of a whole header block; None if they are more than `max_fields`, or take more than
        `max_size` bytes: then the table is right still. Raises HpackError."""
        table = self._table
        static = STATIC
        fields: list[Field] = []
        append = fields.append
        size = at = count = resizes = 0
        end = len(block)
        self.inserted = False
        self.path_at = 0
        try:
            while at < end:
                byte = block[at]
                at += 1
                if byte >= 0x80:  # an indexed field (6.1)
                    index = byte & 0x7F
                    if index == 0x7F:
                        index, at = _integer(block, at, 0x7F)
                    if index > 61:
                        found = table[61 - index]
                    elif index:
                        found = static[index - 1]
                    else:
                        raise HpackError("index 0")
                elif byte & 0xE0 == 0x20:  # a new size of the table (6.3)
                    if fields:
                        raise HpackError("the table's size changes within a block")
                    resizes += 1
                    if resizes > MAX_RESIZES:
                        raise HpackError("the table's size changes more than twice")
                    new_size = byte & 0x1F
                    if new_size == 0x1F:
                        new_size, at = _integer(block, at, 0x1F)
                    self._resize(new_size)
                    continue
                else:  # a literal (6.2)
                    mask = 0x3F if byte & 0x40 else 0x0F
                    index = byte & mask
                    if index == mask:
                        index, at = _integer(block, at, mask)
                    if index > 61:
                        name = table[61 - index][0]
                    elif index:
                        name = static[index - 1][0]
                        if index == PATH:
                            self.path_at = at
                    else:
                        name, at = _string(block, at)
                    # As _string, for the common case: it is short, and not behind the block's end.
                    length = block[at]
                    stop = at + 1 + (length & 0x7F)
                    if length & 0x7F == 0x7F or stop > end:
                        value, at = _string(block, at)
                    else:
                        value = block[at + 1 : stop]
                        at = stop
                        if length & 0x80:
                            value = _remembered.get(value) or _decoded(value)
                    found = (name, value, len(name) + len(value) + 32)
                    if byte & 0x40:
                        self._insert(found)
                size += found[2]
                count += 1
                if size <= max_size and count <= max_fields:
                    append(found)
                elif size > HOPELESS * max_size or count > HOPELESS * max_fields:
                    raise HpackError(f"a header block of more than {count} fields or {size} bytes")
        except IndexError:
            raise HpackError("an index or a length beyond the end") from None
        return fields if len(fields) == count else None

    def _insert(self, found: Field) -> None:
        """RFC 7541 4.4: one that is larger than the table empties it."""
        self.inserted = True
        self._table.append(found)
        self._size += found[2]
        if self._size > self._capacity:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_SIZE:
            raise HpackError(f"a dynamic table of {size} bytes")
        self.inserted = True  # as good as: indexes may mean something else
        self._capacity = size
        self._evict()

    def _evict(self) -> None:
        count = 0
        for one in self._table:
            if self._size <= self._capacity:
                break
            self._size -= one[2]
            count += 1
        del self._table[:count]


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """RFC 7541 5.1, behind a prefix that was full and meant `value`: the number, and where it ends. Raises
    HpackError, IndexError."""
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 21:
            raise HpackError("a number that is too large")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """RFC 7541 5.2: the string, and where it ends. Raises HpackError, IndexError."""
    first = block[at]
    at += 1
    length = first & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HpackError("a string beyond the end")
    value = block[at:end]
    return (_remembered.get(value) or _decoded(value)) if first & 0x80 else value, end


def _decoded(code: bytes) -> bytes:
    """What a Huffman code means, which is remembered if it may come again."""
    value = decode_huffman(code)
    if len(code) <= MAX_REMEMBERED_CODE:
        if len(_remembered) >= MAX_REMEMBERED:
            _remembered.clear()
        _remembered[code] = value
    return value


# --- encoding -------------------------------------------------------------------------------------

_SECRET = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})


def encode_integer(value: int, prefix: int, flags: int) -> bytes:
    """RFC 7541 5.1: in the last `prefix` bits of a byte that begins with `flags`, and what follows it."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((flags | value,))
    encoded = bytearray((flags | most,))
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_field(name: bytes, value: bytes) -> bytes:
    """`name` in lower case. What is secret is marked as never to be indexed by anybody on the way (7.1.3)."""
    index = STATIC_FIELDS.get((name, value))
    if index is not None:
        return bytes((0x80 | index,))
    flags = 0x10 if name in _SECRET else 0
    index = STATIC_NAMES.get(name, 0)
    start = encode_integer(index, 4, flags)
    if not index:
        start += encode_integer(len(name), 7, 0) + name
    return start + encode_integer(len(value), 7, 0) + value


__all__ = ["TABLE_SIZE", "Decoder", "Field", "HpackError", "encode_field", "encode_integer", "field"]
