"""Packets with bytes behind their messages: how large pieces of bodies cross from a worker to the pump.

A packet is a list of messages, encoded. If a Memory of these has BEHIND_FROM bytes or more, they are not
encoded with it: they stand behind the messages, in their order, and `Memory.behind` says how many they are.
So the worker gives the application's own bytes to a gathering write and copies nothing. (1 MiB of a body in
pieces of 16 KiB: 1.2 ms of the worker's processor time when it is encoded, 0.2 ms when it stands behind.)

Such a packet begins with MARK, with which no encoded list begins, and the size of what is encoded. At its end
it is filled up to a multiple of ALIGNMENT: where the kernel's copy begins a few bytes behind a page, it takes
four times as long (AMD EPYC, Linux 6.18: 128 KiB in 60 µs in place of 15). The receiver's copy begins
again at that multiple where a large packet's pages begin, and `channel.page_buffer` begins with a page.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from halfsync.objects import Memory
from halfsync.wire.messages import FromWorker, ToPump, decode_replies, encode

BEHIND_FROM = 4 * 1024
"""Bytes of a piece."""

MARK = 0xC1
"""MessagePack never uses this byte."""

ALIGNMENT = 64

MAX_GATHER = 1000
"""Buffers of a packet; the kernel's limit (IOV_MAX) is 1024."""

_START = struct.Struct("=BI")


def buffers_of(messages: Sequence[FromWorker], pieces: list[bytes]) -> list[bytes]:
    """A packet, for a gathering write. `pieces`: what stands behind the messages."""
    encoded = encode(messages)
    if not pieces:
        return [encoded]
    if len(pieces) > MAX_GATHER:
        pieces = [b"".join(pieces)]
    size = _START.size + len(encoded) + sum(map(len, pieces))
    return [_START.pack(MARK, len(encoded)) + encoded, *pieces, bytes(-size % ALIGNMENT)]


def unpack(packet: memoryview) -> ToPump:
    """The messages of a packet, each with its bytes. Raises msgspec.MsgspecError."""
    if not packet or packet[0] != MARK:
        return decode_replies(packet)
    if len(packet) < _START.size:
        raise msgspec.DecodeError("the packet is too short")
    _, size = _START.unpack_from(packet)
    at = _START.size + size
    if at > len(packet):
        raise msgspec.DecodeError("the packet ends before its messages do")
    messages = decode_replies(packet[_START.size : at])
    for message in messages:
        for index, item in enumerate(message.objects):
            if type(item) is Memory and item.behind and item.block < 0:
                end = at + item.behind
                if item.behind < 0 or end > len(packet):
                    raise msgspec.DecodeError("there are fewer bytes behind the messages than they say")
                message.objects[index] = Memory(bytes(packet[at:end]))
                at = end
    return messages
