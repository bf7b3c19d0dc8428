"""FrameReader: what each rule of RFC 6455 says, in whatever pieces it comes; and the same as two other
implementations say. The cases follow the sections of Autobahn's test suite."""

from __future__ import annotations

from typing import Any

import pytest
import wsproto.connection
import wsproto.events
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from halfsync.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_REASON,
    PING,
    PONG,
    TEXT,
    FrameReader,
    close_frame,
    control_frame,
    frame_header,
    may_be_sent,
    unmasked,
    unmasked_in_python,
    whole_message,
)
from tests.wire.websocket_frames import Read, close, frame, read, ways

quick = settings(max_examples=80, deadline=None, database=None, derandomize=True)
GREEK = "κόσμε".encode()

# name: (what comes, the messages, the code of the end)
CASES: dict[str, tuple[bytes, list[tuple[int, bytes]], int]] = {}

# 1: whole messages of all sizes at which something changes
for _size in (0, 1, 125, 126, 127, 128, 255, 65535, 65536, 70000):
    CASES[f"1 text of {_size}"] = (frame(TEXT, b"*" * _size), [(TEXT, b"*" * _size)], 0)
    CASES[f"1 binary of {_size}"] = (frame(BINARY, b"\xfe" * _size), [(BINARY, b"\xfe" * _size)], 0)

# 2: pings and pongs
for _payload in (b"", b"hello", bytes(range(125)), b"\x00\xff\xfe\xfd"):
    CASES[f"2 ping of {_payload!r}"] = (frame(PING, _payload), [(PING, _payload)], 0)
    CASES[f"2 pong of {_payload!r}"] = (frame(PONG, _payload), [(PONG, _payload)], 0)
CASES["2 a ping that is too long"] = (frame(PING, b"x" * 126), [], 1002)
CASES["2 a pong of 64 bits"] = (frame(PONG, b"x" * 65536), [], 1002)
CASES["2 ten pings"] = (
    b"".join(frame(PING, b"%d" % n) for n in range(10)),
    [(PING, b"%d" % n) for n in range(10)],
    0,
)

# 3: reserved bits
for _rsv in range(1, 8):
    CASES[f"3 a text with reserved bits {_rsv}"] = (
        frame(TEXT, b"good") + frame(TEXT, b"bad", rsv=_rsv) + frame(PING),
        [(TEXT, b"good")],
        1002,
    )
    CASES[f"3 a ping with reserved bits {_rsv}"] = (frame(PING, rsv=_rsv), [], 1002)
    CASES[f"3 a close with reserved bits {_rsv}"] = (frame(CLOSE, rsv=_rsv), [], 1002)

# 4: reserved opcodes
for _opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    CASES[f"4 opcode {_opcode}"] = (frame(TEXT, b"good") + frame(_opcode), [(TEXT, b"good")], 1002)
    CASES[f"4 opcode {_opcode} with a payload"] = (frame(_opcode, b"data"), [], 1002)

# 5: fragments
CASES["5 a ping in two"] = (frame(PING, b"a", fin=False) + frame(CONTINUATION, b"b"), [], 1002)
CASES["5 a pong in two"] = (frame(PONG, b"a", fin=False) + frame(CONTINUATION, b"b"), [], 1002)
CASES["5 a close in two"] = (frame(CLOSE, b"\x03\xe8", fin=False), [], 1002)
CASES["5 a text in two"] = (
    frame(TEXT, b"one", fin=False) + frame(CONTINUATION, b"two"),
    [(TEXT, b"onetwo")],
    0,
)
CASES["5 with pings between"] = (
    frame(TEXT, b"one", fin=False)
    + frame(PING, b"p")
    + frame(CONTINUATION, b"two", fin=False)
    + frame(PONG, b"q")
    + frame(CONTINUATION, b"three"),
    [(PING, b"p"), (PONG, b"q"), (TEXT, b"onetwothree")],
    0,
)
CASES["5 a close between"] = (
    frame(TEXT, b"one", fin=False) + close(1000) + frame(CONTINUATION, b"two"),
    [],
    1000,
)
CASES["5 a continuation of nothing"] = (frame(CONTINUATION, b"x"), [], 1002)
CASES["5 a first continuation that is not the last"] = (frame(CONTINUATION, b"x", fin=False), [], 1002)
CASES["5 a continuation behind a whole message"] = (
    frame(TEXT, b"a") + frame(CONTINUATION, b"b"),
    [(TEXT, b"a")],
    1002,
)
CASES["5 a message within a message"] = (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), [], 1002)
CASES["5 a binary within a text"] = (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False), [], 1002)
CASES["5 empty fragments"] = (
    frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION),
    [(BINARY, b"")],
    0,
)

# 6: UTF-8
CASES["6 an empty text"] = (frame(TEXT), [(TEXT, b"")], 0)
CASES["6 characters in halves"] = (
    b"".join(
        frame(TEXT if n == 0 else 0, GREEK[n : n + 1], fin=n == len(GREEK) - 1) for n in range(len(GREEK))
    ),
    [(TEXT, GREEK)],
    0,
)
for _good in (b"\x00", b"\x7f", b"\xc2\x80", b"\xdf\xbf", b"\xe0\xa0\x80", b"\xed\x9f\xbf", b"\xee\x80\x80",
              b"\xef\xbf\xbd", b"\xef\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf"):  # fmt: skip
    CASES[f"6 {_good!r}"] = (frame(TEXT, _good), [(TEXT, _good)], 0)
for _bad in (b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
             b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
             b"\xf8\x88\x80\x80\x80",
             b"\xfe", b"\xff", GREEK + b"\xed\xa0\x80edited", b"\xe2\x82"):  # fmt: skip
    CASES[f"6 {_bad!r}"] = (frame(TEXT, _bad), [], 1007)
    CASES[f"6 {_bad!r} as the last of three"] = (
        frame(TEXT, GREEK, fin=False) + frame(0, b"", fin=False) + frame(0, _bad),
        [],
        1007,
    )
    CASES[f"6 {_bad!r} is binary"] = (frame(BINARY, _bad), [(BINARY, _bad)], 0)

# 7: closes
for _code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
    CASES[f"7 code {_code}"] = (close(_code, b"why") + frame(TEXT, b"late"), [], _code)
for _code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
    CASES[f"7 code {_code}"] = (close(_code), [], 1002)
CASES["7 no code"] = (frame(CLOSE), [], 1005)
CASES["7 half a code"] = (frame(CLOSE, b"\x03"), [], 1002)
CASES["7 the longest reason"] = (close(1000, b"x" * 123), [], 1000)
CASES["7 a reason that is too long"] = (close(1000, b"x" * 124), [], 1002)
CASES["7 a reason that is no text"] = (close(1000, b"\xed\xa0\x80"), [], 1007)
CASES["7 two closes"] = (close(1000) + close(1001), [], 1000)
CASES["7 behind a close"] = (close(1000) + b"anything at all", [], 1000)

# 9: large messages, whole and in fragments of all sizes
_LARGE = (GREEK + b"*") * 12_000
for _size in (64, 1000, 4096, 65535, 65536, len(_LARGE)):
    _parts = [_LARGE[at : at + _size] for at in range(0, len(_LARGE), _size)]
    for _kind in (TEXT, BINARY):
        CASES[f"9 {len(_LARGE)} bytes of {_kind} in fragments of {_size}"] = (
            b"".join(
                frame(_kind if n == 0 else CONTINUATION, part, fin=n == len(_parts) - 1)
                for n, part in enumerate(_parts)
            ),
            [(_kind, _LARGE)],
            0,
        )

# lengths and masks
CASES["a text without a mask"] = (frame(TEXT, b"x", mask=None), [], 1002)
CASES["an empty text without a mask"] = (frame(TEXT, b"", mask=None), [], 1002)
CASES["a ping without a mask"] = (frame(PING, b"x", mask=None), [], 1002)
CASES["a length of 16 bits for a small one"] = (frame(TEXT, b"x" * 125, form=2), [], 1002)
CASES["a length of 64 bits for a small one"] = (frame(TEXT, b"x" * 65535, form=8), [], 1002)
CASES["the highest bit of a length"] = (b"\x81\xff" + b"\x80" + bytes(7), [], 1002)


@pytest.mark.parametrize("name", CASES)
def test_case(name: str):
    data, messages, end = CASES[name]
    for pieces in ways(data) if len(data) < 1000 else [[data], [data[:700], data[700:]]]:
        for at_once in (0, 1, 64):
            found = read(pieces, at_once=at_once)
            assert found.messages == messages
            assert found.end == end


def test_a_close_has_its_reason():
    for pieces in ways(close(4001, GREEK)):
        found = read(pieces)
        assert (found.end, found.failed, found.reason) == (4001, False, GREEK)


@pytest.mark.parametrize(
    ("start", "bad"),
    [
        (frame(TEXT, GREEK + b"\xed" + bytes(200)), None),
        (frame(TEXT, GREEK + b"\xed\xa0" + bytes(200)), None),
        (frame(TEXT, GREEK + b"\xf4\x90" + bytes(200)), None),
        (frame(TEXT, b"a", fin=False) + frame(0, b"\xff" + bytes(200)), None),
    ],
)
def test_a_text_fails_with_the_byte_that_breaks_it(start: bytes, bad: None):
    """Long before its frame is whole."""
    end = len(start) - 150
    found = read([start[at : at + 1] for at in range(end)])
    assert (found.messages, found.end) == ([], 1007)


def test_a_header_fails_before_its_frame_is_whole():
    assert read([b"\xf1"]).end == 1002  # reserved bits: one byte is enough
    assert read([b"\x83"]).end == 1002  # a reserved opcode
    assert read([b"\x09"]).end == 1002  # a fragmented ping
    assert read([b"\x81\x05"]).end == 1002  # no mask
    assert read([b"\x89\xfe"]).end == 1002  # a ping of more than 125 bytes
    assert read([b"\x82\xff" + (1 << 40).to_bytes(8, "big")]).end == 1009


# --- the limit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 100, 125, 126, 1000, 65536])
def test_the_limit(limit: int):
    """Its last byte is let pass, and one more is refused with the header that announces it."""
    whole = frame(BINARY, bytes(limit))
    assert read([whole], limit).messages == [(BINARY, bytes(limit))]
    assert read([whole * 3], limit, at_once=2).messages == [(BINARY, bytes(limit))] * 3
    over = frame(BINARY, bytes(limit + 1))
    header = len(over) - limit - 1 - 4  # and its mask is not needed for that either
    for pieces in ([over[:header]], [over]):
        if len(pieces[0]) > 2 or limit > 125:
            for at_once in (0, 64):
                found = read(pieces, limit, at_once=at_once)
                assert (found.end, found.messages, found.rest) == (1009, [], 0)
    parts = frame(BINARY, bytes(limit), fin=False) + frame(0, b"", fin=False) + frame(0, b"x")
    assert read([parts], limit).end == 1009
    again = frame(BINARY, bytes(limit), fin=False) + frame(0) + whole
    assert read([again], limit).messages == [(BINARY, bytes(limit))] * 2


def test_it_holds_no_more_than_was_fed():
    """A message of any size leaves it piece by piece."""
    reader = FrameReader(1 << 30)
    data = frame(BINARY, bytes(1 << 20))
    size = 0
    for at in range(0, len(data), 10_000):
        reader.feed(data[at : at + 10_000])
        while (event := reader.next()) is not None:
            size += len(event[1])
        assert reader.unread < 14
    assert size == 1 << 20


def test_its_reader_decides_how_far_it_reads():
    reader = FrameReader(100)
    reader.feed(frame(TEXT, b"a") + frame(TEXT, b"b"))
    assert reader.next() == (TEXT, b"a", True)
    assert reader.unread == len(frame(TEXT, b"b"))
    reader.feed(frame(TEXT, b"c"))
    assert reader.next() == (TEXT, b"b", True)
    assert reader.next() == (TEXT, b"c", True)
    assert reader.next() is None


def test_whole_messages_are_read_at_once():
    """Until one comes that is not; what is behind that is read by itself again."""
    reader = FrameReader(100)
    whole = frame(TEXT, GREEK) + frame(BINARY, b"\xff" * 100) + frame(TEXT, b"")
    reader.feed(whole + frame(PING) + frame(TEXT, b"d") + frame(TEXT, b"e", fin=False))
    assert reader.whole_messages(2) == [(TEXT, GREEK), (BINARY, b"\xff" * 100)]
    assert reader.whole_messages(2) == [(TEXT, b"")]
    assert reader.whole_messages(2) == []
    assert reader.next() == (PING, b"", True)
    assert reader.whole_messages(2) == [(TEXT, b"d")]
    assert reader.whole_messages(2) == []
    assert reader.next() == (TEXT, b"e", False)
    assert reader.next() is None
    reader.feed(frame(0) + frame(TEXT, b"f"))
    assert reader.whole_messages(2) == []
    assert reader.next() == (TEXT, b"", True)
    assert reader.whole_messages(2) == [(TEXT, b"f")]
    assert (reader.is_read, reader.is_between) == (True, True)


# --- what two other implementations say ---------------------------------------------------------------


texts = st.text(max_size=20).map(str.encode)
payloads = st.one_of(st.binary(max_size=200), texts, st.integers(120, 130).map(bytes))
codes = st.sampled_from([0, 999, 1000, 1001, 1005, 1006, 1007, 1015, 3000, 4999, 5000])
masks = st.binary(min_size=4, max_size=4)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames, most of them in good order."""
    out = b""
    within = False
    for _ in range(draw(st.integers(1, 6))):
        what = draw(st.integers(0, 99))
        mask = draw(masks)
        if what < 10:
            out += frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)), mask=mask)
        elif what < 14:
            out += frame(CLOSE, draw(codes).to_bytes(2, "big") + draw(texts), mask=mask)
        elif what < 18:
            out += frame(
                draw(st.integers(0, 15)), draw(payloads), fin=draw(st.booleans()), rsv=draw(st.integers(0, 7))
            )
        elif what < 20:
            out += draw(st.binary(max_size=20)) + bytes(14)  # enough for any header
        else:
            kind = 0 if within else draw(st.sampled_from([TEXT, BINARY]))
            fin = draw(st.booleans())
            out += frame(kind, draw(texts if kind != BINARY and what < 90 else payloads), fin=fin, mask=mask)
            within = not fin
    return out


def split(data: bytes, points: set[int]) -> list[bytes]:
    ends = sorted(point % (len(data) + 1) for point in points)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


points = st.sets(st.integers(0, 2000), max_size=6)


@quick
@given(
    st.one_of(
        streams(),
        st.builds(frame, st.sampled_from([TEXT, BINARY]), payloads, form=st.sampled_from([0, 2, 8])),
    ),
    st.sampled_from([0, 125, 126, 1 << 20]),
)
@example(b"", 100)
@example(frame(TEXT, b"\xff"), 100)
@example(frame(TEXT, GREEK, mask=None), 100)
@example(frame(BINARY, bytes(65535)), 1 << 20)
@example(frame(BINARY, bytes(65536)), 1 << 20)
def test_one_whole_message_by_itself(data: bytes, limit: int):
    """Only what the reader would give in the same way, and nothing else."""
    reader = FrameReader(limit)
    reader.feed(data)
    found = reader.whole_messages(2)
    expected = found[0] if len(found) == 1 and reader.is_read else None
    payload = whole_message(data, limit)
    assert (None if payload is None else (data[0] & 15, payload)) == expected


@quick
@given(streams(), points)
def test_any_split_gives_the_same(data: bytes, at: set[int]):
    whole = read([data])
    for at_once in (0, 1, 3):
        found = read(split(data, at), at_once=at_once)
        if found.failed and not whole.failed:
            raise AssertionError("an error that depends on the split")
        assert found[:4] == whole[:4]


@quick
@given(streams())
@example(frame(TEXT, b"\xed\xa0"))
def test_wsproto_says_the_same(data: bytes):
    ours = read([data])
    theirs = by_wsproto(data)
    if ours.end == 1007 and theirs.end == 0:
        assert b"\xed" in unmasked_payloads(data)  # it waits for one byte more
        return
    if ours.failed and theirs.failed and ours.end != theirs.end:
        # Of several errors in one frame each names the one that it looks for first.
        assert {ours.end, theirs.end} <= {1002, 1007}
        return
    assert ours[:3] == theirs[:3]


def unmasked_payloads(data: bytes) -> bytes:
    return data + unmasked(data, b"\x37\xfa\x21\x3d") + b"\xed"


def by_wsproto(data: bytes) -> Read:
    connection = wsproto.connection.Connection(wsproto.connection.ConnectionType.SERVER)
    messages: list[tuple[int, bytes]] = []
    message = b""
    connection.receive_data(data)
    for event in connection.events():
        if isinstance(event, wsproto.events.CloseConnection):
            failed = connection.state is not wsproto.connection.ConnectionState.REMOTE_CLOSING
            return Read(messages, int(event.code), failed, b"", 0)
        if isinstance(event, wsproto.events.Ping | wsproto.events.Pong):
            kind = PING if isinstance(event, wsproto.events.Ping) else PONG
            messages.append((kind, bytes(event.payload)))
        elif isinstance(event, wsproto.events.Message):
            is_text = isinstance(event, wsproto.events.TextMessage)
            message += event.data.encode() if is_text else bytes(event.data)
            if event.message_finished:
                messages.append((TEXT if is_text else BINARY, message))
                message = b""
    return Read(messages, 0, False, b"", len(message))


@quick
@given(streams())
def test_websockets_says_the_same(data: bytes):
    """About frames; it leaves texts to its user."""
    ours = read([data])
    theirs: Any = Protocol(SERVER, state=OPEN)
    theirs.receive_data(data)
    failed = theirs.parser_exc is not None
    frames = [one for one in theirs.events_received() if isinstance(one, Frame)]
    if ours.end == 1007:
        return
    if ours.failed and not failed:
        # It waits for whole frames, and lets longer lengths than needed pass.
        assert theirs.reader.buffer or b"shortest" in ours.reason
        return
    if failed and not ours.failed:
        assert ours.end
        assert "fragmented" in str(theirs.parser_exc)  # it lets no Close stand between fragments
        return
    controls = [(int(one.opcode), one.data) for one in frames if one.opcode in (Opcode.PING, Opcode.PONG)]
    assert [one for one in ours.messages if one[0] in (PING, PONG)] == controls
    whole = sum(one.fin for one in frames if one.opcode in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY))
    assert len(ours.messages) - len(controls) == whole


# --- what is sent -------------------------------------------------------------------------------------


@quick
@given(
    st.sampled_from([TEXT, BINARY]),
    st.one_of(payloads, st.sampled_from([65535, 65536, 70000]).map(bytes)),
    st.booleans(),
)
def test_clients_read_what_is_sent(kind: int, payload: bytes, final: bool):
    client = Protocol(CLIENT, state=OPEN)
    client.receive_data(frame_header(kind, len(payload), final=final) + payload + control_frame(PING, b"x"))
    found = client.events_received()
    assert found == [Frame(Opcode(kind), payload, final), Frame(Opcode.PING, b"x")]


@quick
@given(st.integers(0, 5000), st.text(max_size=200))
def test_clients_read_how_it_closes(code: int, reason: str):
    client = Protocol(CLIENT, state=OPEN)
    client.receive_data(close_frame(code, reason.encode()))
    assert client.parser_exc is None
    assert client.close_rcvd is not None
    if may_be_sent(code):
        assert client.close_rcvd.code == code
        assert reason.startswith(client.close_rcvd.reason)
        assert len(reason.encode()) > MAX_REASON or reason == client.close_rcvd.reason
        assert len(client.close_rcvd.reason.encode()) > MAX_REASON - 4 or reason == client.close_rcvd.reason
    else:
        assert client.close_rcvd.code == 1005


@quick
@given(st.one_of(st.binary(max_size=300), st.integers(4090, 8200).map(bytes)), masks)
def test_a_mask_is_undone_by_itself(data: bytes, mask: bytes):
    """By our own function, and by the one that is used if it is installed."""
    for unmask in (unmasked, unmasked_in_python):
        masked = unmask(data, mask)
        assert masked == bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        assert unmask(masked, mask) == data
