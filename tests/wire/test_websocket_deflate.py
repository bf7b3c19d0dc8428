"""permessage-deflate: what is negotiated, and that clients of every kind are understood and understand."""

from __future__ import annotations

import random
import zlib

import pytest
import wsproto.extensions
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode

from halfsync.wire.websocket import BINARY, CLOSE, PING, TEXT, FrameReader
from halfsync.wire.websocket_deflate import PIECE, Agreement, Deflator, Inflator, agree
from halfsync.wire.websocket_handshake import parse_extensions
from tests.wire.websocket_frames import frame, read, ways

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
LOREM = b"the quick brown fox jumps over the lazy dog; " * 20


def agreement(offer: str = "permessage-deflate; client_max_window_bits") -> Agreement:
    found = agree(parse_extensions(offer))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("offer", "response"),
    [
        ("permessage-deflate", "permessage-deflate; server_max_window_bits=12; client_no_context_takeover"),
        (
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            "permessage-deflate; client_max_window_bits=10; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            'permessage-deflate; client_max_window_bits="15"; server_no_context_takeover',
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12; "
                "server_no_context_takeover"
            ),
        ),
        (
            "permessage-deflate; client_max_window_bits=8; client_no_context_takeover",
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=8; "
                "client_no_context_takeover"
            ),
        ),
        (
            (
                "x-other, permessage-deflate; server_max_window_bits=8, "
                "permessage-deflate;server_max_window_bits=11"
            ),
            "permessage-deflate; server_max_window_bits=11; client_no_context_takeover",
        ),
        ("permessage-deflate; server_max_window_bits=8", None),  # zlib has no such window
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=09", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        ("permessage-deflate; strange", None),
        ("x-webkit-deflate-frame", None),
        ("", None),
    ],
)
def test_negotiation(offer: str, response: str | None):
    found = agree(parse_extensions(offer))
    assert (found and found.response()) == response


@pytest.mark.parametrize("client_takeover", [True, False])
@pytest.mark.parametrize("server_takeover", [True, False])
@pytest.mark.parametrize("bits", [None, 9, 12, 15, True])
def test_a_client_understands_and_is_understood(
    client_takeover: bool, server_takeover: bool, bits: int | bool | None
):
    """`websockets` negotiates with us, and then messages go both ways."""
    factory = ClientPerMessageDeflateFactory(
        server_no_context_takeover=not server_takeover,
        client_no_context_takeover=not client_takeover,
        client_max_window_bits=bits,
    )
    offer = [("permessage-deflate", dict(factory.get_request_params()))]
    ours = agree(offer)
    assert ours is not None
    [(_, parameters)] = parse_extensions(ours.response())
    theirs = factory.process_response_params(list(parameters.items()), [])
    inflator, deflator = Inflator(ours), Deflator(ours)
    reader = FrameReader(1 << 20, inflator)
    for message in (LOREM, b"", LOREM, random.Random(1).randbytes(5000), LOREM[:77]):
        sent = theirs.encode(Frame(Opcode.BINARY, message))
        reader.feed(frame(BINARY, bytes(sent.data), rsv=4 if sent.rsv1 else 0))
        assert reader.next() == (BINARY, message, True)
        back = Frame(Opcode.BINARY, deflator.deflate(message, last=True), rsv1=True)
        assert theirs.decode(back).data == message


@pytest.mark.parametrize("fragment", [256, 1 << 20])
def test_messages_of_all_sizes(fragment: int):
    """Compressed well and not at all, in one frame and in many, one after the other."""
    factory = ClientPerMessageDeflateFactory(client_max_window_bits=True)
    ours = agree([("permessage-deflate", dict(factory.get_request_params()))])
    assert ours is not None
    [(_, parameters)] = parse_extensions(ours.response())
    theirs = factory.process_response_params(list(parameters.items()), [])
    inflator, deflator = Inflator(ours), Deflator(ours)
    noise = random.Random(2)
    for size in (0, 1, 16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65535, 65536, 131072):
        text = (LOREM * (size // len(LOREM) + 1))[:size]
        for kind, message in ((Opcode.TEXT, text), (Opcode.BINARY, noise.randbytes(size))):
            sent = bytes(theirs.encode(Frame(kind, message)).data)
            ends = range(0, max(1, len(sent)), fragment)
            frames = [
                frame(
                    int(kind) if at == 0 else 0,
                    sent[at : at + fragment],
                    fin=at + fragment >= len(sent),
                    rsv=0 if at else 4,
                )
                for at in ends
            ]
            found = read(frames, inflator=inflator, at_once=64)
            assert (found.messages, found.end) == ([(int(kind), message)], 0)
            back = Frame(kind, deflator.deflate(message, last=True), rsv1=True)
            assert theirs.decode(back).data == message


def test_wsproto_understands_and_is_understood():
    ours = agreement()
    theirs = wsproto.extensions.PerMessageDeflate()
    theirs.finalize(ours.response())
    client = wsproto.connection.Connection(wsproto.connection.ConnectionType.CLIENT, [theirs])
    reader = FrameReader(1 << 20, Inflator(ours))
    for _ in range(3):
        reader.feed(client.send(wsproto.events.TextMessage(LOREM.decode())))
        assert reader.next() == (TEXT, LOREM, True)


def deflated(message: bytes) -> bytes:
    one = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (one.compress(message) + one.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def test_fragments_with_pings_between():
    """RSV1 stands in the first frame only, and a message that is not deflated may follow."""
    data = deflated(LOREM)
    stream = (
        frame(TEXT, data[:10], fin=False, rsv=4)
        + frame(PING, b"p")
        + frame(0, data[10:11], fin=False)
        + frame(0, data[11:])
        + frame(TEXT, b"plain")
    )
    for pieces in ways(stream):
        assert read(pieces, inflator=Inflator(agreement())).messages == [
            (PING, b"p"),
            (TEXT, LOREM),
            (TEXT, b"plain"),
        ]


@pytest.mark.parametrize(
    ("stream", "end"),
    [
        (frame(TEXT, deflated(b"x"), fin=False, rsv=4) + frame(0, b"", rsv=4), 1002),
        (frame(TEXT, b"x", rsv=6), 1002),
        (frame(PING, b"x", rsv=4), 1002),
        (frame(CLOSE, b"\x03\xe8", rsv=4), 1002),
        (frame(TEXT, b"\xff\xff\xff", rsv=4), 1007),  # no deflate
        (frame(TEXT, deflated(b"\xed\xa0\x80"), rsv=4), 1007),  # no text
    ],
)
def test_what_breaks_the_rules(stream: bytes, end: int):
    for pieces in ways(stream):
        found = read(pieces, inflator=Inflator(agreement()))
        assert (found.messages, found.end) == ([], end)


def test_a_bomb_is_bounded():
    """It becomes a thousand times as much, which is given in pieces, and only up to the limit."""
    bomb = frame(BINARY, deflated(bytes(100 << 20)), rsv=4)
    assert len(bomb) < 200_000
    found = read([bomb], 1 << 20, Inflator(agreement()))
    assert (found.messages, found.end) == ([], 1009)
    assert found.rest <= 1 << 20
    exact = frame(BINARY, deflated(bytes(1 << 20)), rsv=4)
    assert read([exact], 1 << 20, Inflator(agreement())).messages == [(BINARY, bytes(1 << 20))]
    assert read([exact], (1 << 20) - 1, Inflator(agreement())).end == 1009


def test_a_piece_is_bounded():
    reader = FrameReader(16 << 20, Inflator(agreement()))
    reader.feed(frame(BINARY, deflated(bytes(1 << 20)), rsv=4))
    sizes = []
    while (event := reader.next()) is not None:
        sizes.append(len(event[1]))
    assert sum(sizes) == 1 << 20
    assert max(sizes) == PIECE


@pytest.mark.parametrize("tail", [b"\x00", b""])
def test_a_block_that_says_it_is_the_last(tail: bytes):
    """RFC 7692 7.2.3.4, also if what should follow it is missing; and then the next message."""
    hello = bytes.fromhex("f348cdc9c90700")
    stream = frame(TEXT, hello + tail, rsv=4) + frame(TEXT, deflated(b"next"), rsv=4)
    for pieces in ways(stream):
        found = read(pieces, inflator=Inflator(agreement()))
        assert found.messages == [(TEXT, b"Hello"), (TEXT, b"next")]


def test_two_blocks_that_say_so():
    hello = bytes.fromhex("f348cdc9c90700")
    for pieces in ways(frame(TEXT, hello + hello + b"\x00", rsv=4)):
        assert read(pieces, inflator=Inflator(agreement())).messages == [(TEXT, b"HelloHello")]


@quick
@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 4)), max_size=5), st.booleans())
def test_what_is_sent_in_fragments(messages: list[tuple[bytes, int]], takeover: bool):
    offer = "permessage-deflate; client_max_window_bits" + (
        "" if takeover else "; server_no_context_takeover"
    )
    ours = agreement(offer)
    deflator = Deflator(ours)
    theirs = PerMessageDeflate(not takeover, False, ours.server_bits, 15)
    for message, count in messages:
        size = -(-len(message) // count) or 1
        parts = [message[at : at + size] for at in range(0, len(message), size)] or [b""]
        found = b""
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            opcode = Opcode.CONT if number else Opcode.BINARY
            data = deflator.deflate(part, last=last)
            found += theirs.decode(Frame(opcode, data, last, rsv1=not number)).data
        assert found == message


def test_nothing_is_kept_where_no_context_is():
    ours = agreement("permessage-deflate; server_no_context_takeover")
    inflator, deflator = Inflator(ours), Deflator(ours)
    inflator.inflate(deflated(b"abc"), last=True)
    deflator.deflate(b"abc", last=True)
    assert inflator._inflate is None
    assert deflator._deflate is None
