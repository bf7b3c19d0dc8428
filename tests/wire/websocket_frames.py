"""Frames as clients send them, and what a FrameReader makes of them."""

from __future__ import annotations

from typing import NamedTuple

from halfsync.wire.websocket import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
    unmasked,
)
from halfsync.wire.websocket_deflate import Inflator

MASK = b"\x37\xfa\x21\x3d"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    form: int = 0,
) -> bytes:
    """`form`: how many bytes the length takes at least (0, 2 or 8); `mask`: None for a frame without."""
    size = len(payload)
    bit = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size <= 125 and form == 0:
        head += bytes([bit | size])
    elif size < 65536 and form < 8:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    return head + (payload if mask is None else mask + unmasked(payload, mask))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


class Read(NamedTuple):
    """`messages` are whole; `end` is the code of a Close that came, or of an error; 0: neither. `rest` is the
    size of what came of a message that is not whole."""

    messages: list[tuple[int, bytes]]
    end: int
    failed: bool
    reason: bytes
    rest: int


def read(
    pieces: list[bytes], limit: int = 1 << 20, inflator: Inflator | None = None, *, at_once: int = 0
) -> Read:
    """What comes of it. Control frames are messages, except for a Close. `at_once`: before each event, so
    many whole messages are asked for."""
    reader = FrameReader(limit, inflator)
    messages: list[tuple[int, bytes]] = []
    message, kind = b"", 0
    for piece in pieces:
        reader.feed(piece)
        assert not reader.is_between
        try:
            while True:
                if at_once:
                    found = reader.whole_messages(at_once)
                    assert len(found) <= at_once
                    assert not (found and message)
                    messages += found
                    if found:
                        continue
                if (event := reader.next()) is None:
                    break
                opcode, data, last = event
                if opcode == CLOSE:
                    return Read(messages, reader.close_code, False, data, len(message))
                if opcode in (PING, PONG):
                    assert last
                    messages.append((opcode, data))
                    continue
                assert kind in (0, opcode)
                message, kind = message + data, opcode
                assert len(message) <= limit
                if last:
                    if kind == TEXT:
                        message.decode()
                    messages.append((kind, message))
                    message, kind = b"", 0
        except FrameError as error:
            return Read(messages, error.code.value, True, error.reason.encode(), len(message))
        assert reader.unread < 14 + 125, "it holds what it could give"
        assert len(reader._data) == reader.unread, "and nothing that it has read"
        assert reader.is_read
        assert reader.is_between == (not reader.unread and not reader._kind)
    return Read(messages, 0, False, b"", len(message))


def ways(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and in two halves."""
    middle = len(data) // 2
    return [[data], [data[at : at + 1] for at in range(len(data))], [data[:middle], data[middle:]]]
