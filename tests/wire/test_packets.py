"""Packets with bytes behind their messages come back as they were; what is wrong with one is found."""

from __future__ import annotations

import struct

import msgspec
import pytest

from halfsync.objects import File, Memory
from halfsync.wire.messages import Ending, FromWorker, Part, Reply, encode
from halfsync.wire.packets import ALIGNMENT, BEHIND_FROM, MARK, MAX_GATHER, buffers_of, unpack


def part(number: int, *objects: Memory | File) -> Part:
    return Part(number, list(objects), Ending.UNFINISHED)


def packed(messages: list[FromWorker], *pieces: bytes) -> memoryview:
    return memoryview(b"".join(buffers_of(messages, list(pieces))))


def test_bytes_behind_the_messages_are_theirs_in_order():
    pieces = [b"a" * BEHIND_FROM, b"b" * 5001, b"c" * 7]
    messages: list[FromWorker] = [
        Reply(1, 200, "", b"X: y\r\n", 3, b"abc"),
        part(2, Memory(b"here"), Memory(b"", BEHIND_FROM), File(0, 5, 6)),
        part(3, Memory(b"", 5008)),
    ]
    found = unpack(packed(messages, *pieces))
    assert found[0] == messages[0]
    assert found[1] == part(2, Memory(b"here"), Memory(pieces[0]), File(0, 5, 6))
    assert found[2] == part(3, Memory(pieces[1] + pieces[2]))


def test_without_any_a_packet_is_its_messages():
    messages: list[FromWorker] = [part(1, Memory(b"abc"))]
    assert buffers_of(messages, []) == [encode(messages)]
    assert unpack(packed(messages)) == messages


@pytest.mark.parametrize("size", [1, 63, 64, 65, 131072])
def test_a_packet_is_filled_up(size: int):
    assert len(packed([part(1, Memory(b"", size))], bytes(size))) % ALIGNMENT == 0


def test_more_pieces_than_one_write_takes_are_joined():
    pieces = [bytes([n % 251]) for n in range(MAX_GATHER + 1)]
    buffers = buffers_of([part(1, Memory(b"", len(pieces)))], pieces)
    assert len(buffers) == 3
    assert unpack(memoryview(b"".join(buffers))) == [part(1, Memory(b"".join(pieces)))]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes([MARK]),
        struct.pack("=BI", MARK, 0),
        struct.pack("=BI", MARK, 1000) + encode([]),
        b"".join(buffers_of([part(1, Memory(b"", 100))], [b"too few"])),
        b"".join(buffers_of([part(1, Memory(b"", 1), Memory(b"", -1))], [b"negative"])),
    ],
    ids=["nothing", "no size", "no messages", "fewer messages", "fewer bytes", "a negative size"],
)
def test_what_is_wrong_is_found(packet: bytes):
    with pytest.raises(msgspec.MsgspecError):
        unpack(memoryview(packet))
