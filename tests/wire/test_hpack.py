"""HPACK against the examples of RFC 7541, against its rules, and against the `hpack` library both ways."""

from __future__ import annotations

import hpack
import hpack.huffman
import hpack.huffman_constants
import hpack.table
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfsync.wire.hpack import (
    HOPELESS,
    MAX_REMEMBERED,
    TABLE_SIZE,
    Decoder,
    HpackError,
    encode_field,
    encode_integer,
)
from halfsync.wire.hpack import _remembered as remembered
from halfsync.wire.hpack_tables import STATIC, decode_huffman

MOST = 65_536


def pairs(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    fields = decoder.decode(block, MOST, 100)
    assert fields is not None
    assert all(size == len(name) + len(value) + 32 for name, value, size in fields)
    return [(name, value) for name, value, _ in fields]


GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
HTTPS = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]
PLAIN_REQUESTS = [  # RFC 7541 C.3
    ("828684410f7777772e6578616d706c652e636f6d", GET),
    ("828684be58086e6f2d6361636865", [*GET, (b"cache-control", b"no-cache")]),
    ("828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", HTTPS),
]
HUFFMAN_REQUESTS = [  # C.4
    ("828684418cf1e3c2e5f23a6ba0ab90f4ff", GET),
    ("828684be5886a8eb10649cbf", [*GET, (b"cache-control", b"no-cache")]),
    ("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", HTTPS),
]
DATES = [b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT"]
REDIRECT = [
    (b":status", b"302"),
    (b"cache-control", b"private"),
    (b"date", DATES[0]),
    (b"location", b"https://www.example.com"),
]
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
LAST_RESPONSE = [
    (b":status", b"200"),
    (b"cache-control", b"private"),
    (b"date", DATES[1]),
    (b"location", b"https://www.example.com"),
    (b"content-encoding", b"gzip"),
    (b"set-cookie", COOKIE),
]
PLAIN_RESPONSES = [  # C.5, with a table of 256 bytes
    (
        (
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"
        ),
        REDIRECT,
    ),
    ("4803333037c1c0bf", [(b":status", b"307"), *REDIRECT[1:]]),
    (
        (
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f"
            "3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076"
            "657273696f6e3d31"
        ),
        LAST_RESPONSE,
    ),
]
HUFFMAN_RESPONSES = [  # C.6
    (
        (
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f"
            "0b97c8e9ae82ae43d3"
        ),
        REDIRECT,
    ),
    ("4883640effc1c0bf", [(b":status", b"307"), *REDIRECT[1:]]),
    (
        (
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335df"
            "dfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
        ),
        LAST_RESPONSE,
    ),
]


@pytest.mark.parametrize(
    ("resize", "blocks"),
    [
        ("", PLAIN_REQUESTS),
        ("", HUFFMAN_REQUESTS),
        ("3fe101", PLAIN_RESPONSES),
        ("3fe101", HUFFMAN_RESPONSES),
    ],
    ids=["C.3", "C.4", "C.5", "C.6"],
)
def test_the_examples_of_the_rfc(resize: str, blocks: list[tuple[str, list[tuple[bytes, bytes]]]]):
    """Blocks one after the other, on one table; in C.5 and C.6 entries are evicted."""
    decoder = Decoder()
    for block, fields in blocks:
        assert pairs(decoder, bytes.fromhex(resize + block)) == fields
        resize = ""


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", [(b"custom-key", b"custom-header")]),
        ("040c2f73616d706c652f70617468", [(b":path", b"/sample/path")]),
        ("100870617373776f726406736563726574", [(b"password", b"secret")]),
        ("82", [(b":method", b"GET")]),
    ],
    ids=["C.2.1", "C.2.2", "C.2.3", "C.2.4"],
)
def test_the_four_kinds_of_fields(block: str, fields: list[tuple[bytes, bytes]]):
    decoder = Decoder()
    assert pairs(decoder, bytes.fromhex(block)) == fields
    assert decoder.inserted is block.startswith("40")


@pytest.mark.parametrize(
    ("value", "prefix", "encoded"),
    [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a")],
    ids=["C.1.1", "C.1.2", "C.1.3"],
)
def test_numbers(value: int, prefix: int, encoded: str):
    assert encode_integer(value, prefix, 0).hex() == encoded


def test_the_static_table():
    assert len(STATIC) == 61
    for index, (name, value, size) in enumerate(STATIC, 1):
        assert pairs(Decoder(), bytes((0x80 | index,))) == [(name, value)]
        assert (name, value) == hpack.table.HeaderTable.STATIC_TABLE[index - 1]
        assert size == len(name) + len(value) + 32


BAD = {
    "2.3.3: an index of 0": "80",
    "2.3.3: an index beyond both tables": "be",
    "2.3.3: a far index": "ffff03",
    "2.3.3: a literal whose name has an index beyond both tables": "7f000161",
    "4.2: the table's size changes behind a field": "8220",
    "4.2: the table's size changes amid fields": "822082",
    "5.1: a number of more than four bytes": "ffffffffffff7f",
    "5.1: a number that is cut off": "ff",
    "5.1: a number that is cut off amid its bytes": "ff80",
    "5.2: a string that is longer than the block": "00057061",
    "5.2: a value that is longer than the block": "0001610461",
    "5.2: a name and no value": "000161",
    "5.2: a literal and nothing else": "00",
    "5.2: a long string that is cut off": "007fff0161",
    "5.2: padding of more than seven bits": "0001618207ff",
    "5.2: padding of a whole byte": "00016182 1fff".replace(" ", ""),
    "5.2: padding with zeros": "0001618118",
    "5.2: EOS in a string": "00016184ffffffff",
    "6.3: a table larger than was offered": "3fe21f",
}


@pytest.mark.parametrize("block", BAD.values(), ids=BAD.keys())
def test_what_can_not_be_decoded(block: str):
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(block), MOST, 100)


def test_the_largest_table_may_be_said():
    decoder = Decoder()
    assert pairs(decoder, bytes.fromhex("3fe11f82")) == [(b":method", b"GET")]
    assert decoder.inserted  # what was remembered of blocks holds no more
    assert pairs(decoder, bytes.fromhex("20 3fe11f 82".replace(" ", ""))) == [(b":method", b"GET")]


def test_an_entry_larger_than_the_table_empties_it():
    """RFC 7541 4.4."""
    decoder = Decoder()
    pairs(decoder, b"\x40\x01a\x01b")
    assert pairs(decoder, b"\xbe") == [(b"a", b"b")]
    pairs(decoder, b"\x40\x01c" + encode_integer(TABLE_SIZE, 7, 0) + b"x" * TABLE_SIZE)
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe", MOST, 100)


def test_too_many_or_too_large_fields_leave_the_table_right():
    """Up to HOPELESS times the limits a block is read to its end, so that the next one can be."""
    decoder = Decoder()
    assert decoder.decode(b"\x82" * 101 + b"\x40\x01a\x01b", MOST, 100) is None
    assert pairs(decoder, b"\xbe") == [(b"a", b"b")]
    assert decoder.decode(b"\x00\x01a" + encode_integer(1000, 7, 0) + b"x" * 1000, 1000, 100) is None
    with pytest.raises(HpackError):
        decoder.decode(b"\x82" * (HOPELESS * 100 + 1), MOST, 100)


def test_a_bomb_is_stopped_where_it_passes_the_limit():
    """A field of 4,000 bytes, and then one byte for each further time: 64 MB in 16 KiB."""
    decoder = Decoder()
    big = b"\x40\x01a" + encode_integer(4000, 7, 0) + b"x" * 4000
    with pytest.raises(HpackError, match="bytes"):
        decoder.decode(big + b"\xbe" * 16_000, MOST, 10_000)


def test_what_is_remembered_is_bounded():
    decoder = Decoder()
    encoder = hpack.Encoder()
    for number in range(3 * MAX_REMEMBERED):
        block = encoder.encode([(b"x-a", b"value-%d" % number)])
        assert pairs(decoder, block) == [(b"x-a", b"value-%d" % number)]
    assert len(remembered) <= MAX_REMEMBERED


names = st.from_regex(rb"[a-z0-9-]{1,20}", fullmatch=True)
values = st.binary(max_size=60)
lists = st.lists(st.tuples(names, values), max_size=20)
blocks = st.lists(
    st.tuples(lists, st.booleans(), st.sampled_from([None, None, 0, 64, 200, 4096])), max_size=8
)


@given(blocks)
def test_what_the_library_encodes_is_decoded(many: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]):
    """On one connection: plain and Huffman, tables of all sizes, entries evicted and referred to."""
    encoder, decoder = hpack.Encoder(), Decoder()
    for fields, huffman, size in many:
        if size is not None:
            encoder.header_table_size = size
        assert pairs(decoder, encoder.encode(fields, huffman=huffman)) == fields


@given(lists)
def test_what_is_encoded_the_library_decodes(fields: list[tuple[bytes, bytes]]):
    block = b"".join(encode_field(name, value) for name, value in fields)
    assert [(n, v) for n, v in hpack.Decoder().decode(block, raw=True)] == fields
    decoder = Decoder()
    assert pairs(decoder, block) == fields
    assert not decoder.inserted


@given(st.binary(max_size=200))
def test_huffman_codes(data: bytes):
    code = hpack.huffman.HuffmanEncoder(
        hpack.huffman_constants.REQUEST_CODES, hpack.huffman_constants.REQUEST_CODES_LENGTH
    ).encode(data)
    assert decode_huffman(code) == data


@given(st.binary(max_size=100))
def test_any_bytes_are_decoded_or_refused(block: bytes):
    """And by both alike, but that a table larger than was offered is for the library to be told."""
    library = hpack.Decoder()
    try:
        ours = Decoder().decode(block, MOST, 1000)
    except HpackError:
        ours = None
    try:
        theirs = library.decode(block, raw=True)
    except hpack.HPACKError:
        theirs = None
    if ours is not None and theirs is not None:
        assert [(n, v) for n, v, _ in ours] == [(n, v) for n, v in theirs]
    if ours is not None:
        assert theirs is not None


def test_secrets_are_never_to_be_indexed():
    """RFC 7541 7.1.3: nobody on the way may put them into a table."""
    assert encode_field(b"set-cookie", b"a=b")[0] & 0xF0 == 0x10
    assert encode_field(b"content-type", b"a")[0] & 0xF0 == 0
    assert encode_field(b":status", b"200") == b"\x88"
