"""The first message of a TLS client: what is read of it, however it comes, and whatever else comes."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfsync.wire import client_hello
from halfsync.wire.client_hello import (
    MAX_HELLO,
    MAX_RECORDS,
    NO_HELLO,
    ClientHello,
    Opening,
    look_at,
    offers_tls_1_3,
)
from halfsync.wire.hello_layouts import EVERY, MAX_LAYOUTS, Layouts

PART, HELLO, HTTP, TOO_LONG, OTHER = Opening


def hello(name: str | None = "example.org", *protocols: str, version: str = "1.3") -> bytes:
    """A real client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def in_records(message: bytes, size: int) -> bytes:
    """A handshake message in records of so many bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize(
    ("name", "protocols", "expected"),
    [
        ("example.org", (), ClientHello("example.org", None)),
        ("Example.ORG", ("h2", "http/1.1"), ClientHello("example.org", (b"h2", b"http/1.1"))),
        (None, ("http/1.1",), ClientHello("", (b"http/1.1",))),
        ("a_b.example", (), ClientHello("a_b.example", None)),
        ("bücher.example", (), ClientHello("xn--bcher-kva.example", None)),
        ("127.0.0.1", (), ClientHello("", None)),  # an address is no name (RFC 6066 3)
    ],
)
def test_a_hello_tells_the_name_and_the_protocols(version, name, protocols, expected):
    assert look_at(hello(name, *protocols, version=version)) == (HELLO, expected)


@pytest.mark.parametrize(("version", "expected"), [("1.2", False), ("1.3", True)])
def test_whether_it_offers_tls_1_3(version, expected):
    data = hello("example.org", "h2", version=version)
    assert offers_tls_1_3(data) is expected
    assert offers_tls_1_3(in_records(data[5:], 100) + b"what is behind it") is expected
    assert not any(offers_tls_1_3(data[:end]) for end in range(len(data)))


@pytest.mark.parametrize("place", [5, 43, 44, 76, 77, 78, 110, 120])
def test_what_is_malformed_offers_nothing(place):
    data = bytearray(hello("example.org", "h2", version="1.2"))
    data[place:] = b"\xff" * (len(data) - place)
    assert not offers_tls_1_3(bytes(data))


def test_it_may_come_in_pieces():
    """In segments of any length: until the last byte it is a part."""
    data = hello("example.org", "h2")
    for end in range(len(data)):
        assert look_at(data[:end]) == (PART, NO_HELLO)
    assert look_at(data + b"\x14\x03\x03")[0] is HELLO


@pytest.mark.parametrize("records", [1, 2, 7, MAX_RECORDS])
def test_it_may_come_in_several_records(records):
    data = hello("example.org", "h2")
    split = in_records(data[5:], -(-len(data[5:]) // records))  # OpenSSL 3.5 sends 1.5 KB, 3.0 a third of it
    for end in range(len(split)):
        assert look_at(split[:end])[0] is PART
    assert look_at(split) == look_at(data)


def test_what_never_ends_is_no_hello():
    """However slowly it comes, no more than MAX_HELLO is kept of it."""
    long = b"\x01" + (MAX_HELLO + 1).to_bytes(3, "big")
    assert look_at(in_records(long, 100))[0] is TOO_LONG
    allowed = b"\x01" + (MAX_HELLO - 4).to_bytes(3, "big") + bytes(MAX_HELLO)
    assert look_at(in_records(allowed, 1)[: 6 * MAX_RECORDS - 1])[0] is PART
    assert look_at(in_records(allowed, 1)[: 6 * MAX_RECORDS + 1])[0] is TOO_LONG
    assert look_at(b"\x16\x03\x01\x00\x00")[0] is OTHER


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", PART),
        (b"G", PART),
        (b"GET", PART),
        (b"GET ", PART),
        (b"GET /", HTTP),
        (b"OPTIONS *", HTTP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP),
        (b"get /", OTHER),
        (b"A" * 21, OTHER),
        (b"\r\n", OTHER),
        (b"SSH-2.0-OpenSSH_9.2\r\n", OTHER),
        (b"\x80\x2e\x01\x03\x01", OTHER),  # SSL 2
        (b"\x15\x03\x01\x00\x02\x02\x28", OTHER),  # an alert
        (b"\x16\x02\x01\x00\x05", OTHER),
        (b"\x16\x03\x01\x00\x05\x02", OTHER),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x02\x14\x03", OTHER),
        (b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03", OTHER),  # too short for a hello
        (b"\x16\x03\x01\xff\xff\x01\x00\x00\x02", OTHER),
    ],
)
def test_what_else_comes(data, kind):
    assert look_at(data) == (kind, NO_HELLO)


def with_name(name: bytes) -> bytes:
    """A hello with these bytes in the place of the name."""
    data = hello("e" * len(name))
    assert data.count(b"e" * len(name)) == 1
    return data.replace(b"e" * len(name), name)


@pytest.mark.parametrize(
    "name",
    [
        b"exa\0mple",
        b"exa mple",
        b"exa/mple",
        b"ex\xc3\xa4mple",
        b"example\n",
        b"'; drop --",
        b"[::1]ff",
        b"........",
    ],
)
def test_an_odd_name_is_as_good_as_none(name):
    kind, found = look_at(with_name(name))
    assert kind is HELLO
    assert found.server_name in ("", ".......")


@pytest.mark.parametrize(
    "offered",
    [
        b"\0\0\6qqqqqq",  # none, and something behind the list
        b"\0\7\0qqqqqq",  # one that is empty
        b"\0\7\0\0\0\0\0\0\0",
        b"\0\7\2h2\0\0\0\0",
        b"\0\7\2h2\4h3",  # the last one goes beyond the list
        b"\0\3\2h2h2h2",
        b"\0\x08\6qqqqqq",
        b"\xff\xff\6qqqqqq",
    ],
)
def test_protocols_that_are_malformed_are_left_to_openssl(offered):
    """It knows the right alert (decode_error)."""
    data, list_of_one = hello("example.org", "qqqqqq"), b"\0\7\6qqqqqq"
    assert data.count(list_of_one) == 1
    assert look_at(data.replace(list_of_one, (offered + bytes(9))[:9])) == (OTHER, NO_HELLO)
    assert look_at(data) == (HELLO, ClientHello("example.org", (b"qqqqqq",)))
    assert look_at(data.replace(list_of_one, (offered + bytes(9))[:9])) == (OTHER, NO_HELLO)


@given(st.binary(max_size=300))
def test_any_bytes_are_something(data):
    """Whatever comes, nothing is raised; and what is no part of a hello does not become one by more bytes."""
    for start in (b"", b"\x16\x03\x01", hello()[:60]):
        kind, _ = look_at(start + data)
        if kind is OTHER:
            assert look_at(start + data + b"\x00" * 50)[0] is OTHER


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_hello_that_is_changed_somewhere(at, bytes_there):
    data = hello("example.org", "h2", "http/1.1")
    look_at(data[:at] + bytes_there + data[at + len(bytes_there) :])


@pytest.fixture(scope="module")
def one_hello() -> bytes:
    return hello("example.org", "h2", "http/1.1")


def slowly(data: bytes) -> tuple[Opening, ClientHello]:
    """What `look_at` says of a hello of a size that it has not seen."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(client_hello, "_layouts", Layouts())
        return look_at(data)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("protocols", [(), ("h2", "http/1.1")])
@pytest.mark.parametrize("name", ["example.org", None])
def test_hellos_like_one_before_say_what_they_say(name, protocols, version):
    """By where it stood in the hello before: other names of that length, too."""
    first = hello(name, *protocols, version=version)
    for _ in range(EVERY):  # so that, whatever other tests have read, the layout is this one's
        assert look_at(first) == slowly(first)
    again = hello(name, *protocols, version=version)
    assert len(again) == len(first)
    assert again != first
    assert look_at(again) == slowly(again)
    if name is not None:
        assert look_at(again.replace(b"example.org", b"another.net"))[1].server_name == "another.net"


@given(st.integers(0, 600), st.binary(min_size=1, max_size=4))
def test_a_hello_that_is_almost_like_one_before(one_hello, at, bytes_there):
    data = one_hello
    look_at(data)
    changed = data[:at] + bytes_there + data[at + len(bytes_there) :]
    assert look_at(changed) == slowly(changed)


@given(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=12)), max_size=70), st.binary(max_size=3))
def test_hellos_of_any_extensions(extensions, behind):
    """Several of a kind, too many, bytes behind them, and such as end too early."""
    listed = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in extensions)
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    if listed or behind:
        body += struct.pack(">H", len(listed)) + listed + behind
    data = in_records(b"\x01" + len(body).to_bytes(3, "big") + body, MAX_HELLO)
    expected = slowly(data)
    for _ in range(EVERY + 1):
        assert look_at(data) == expected


def test_few_layouts_are_kept():
    layouts = Layouts()
    for length in range(2 * MAX_LAYOUTS):
        body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
        body += struct.pack(">HHH", 4 + length, 21, length) + bytes(length)
        layouts.missed(in_records(b"\x01" + len(body).to_bytes(3, "big") + body, MAX_HELLO), 0, 16)
        assert layouts.get(9 + len(body)) is not None
        assert len(vars(layouts)["_known"]) <= MAX_LAYOUTS


def test_a_client_that_shuffles_its_extensions_costs_no_layout_each():
    layouts = Layouts()
    first, second = hello("one.example"), hello("two.example")
    second = second.replace(b"\x00\x0b\x00\x04", b"\x00\x0c\x00\x04")  # another kind, as long
    layouts.missed(first, 0, 16)
    kept = layouts.get(len(first))
    for _ in range(EVERY - 1):
        layouts.missed(second, 0, 16)
    assert layouts.get(len(first)) is kept
    layouts.missed(second, 0, 16)
    found = layouts.get(len(first))
    assert found is not None
    assert found.fits(second)
