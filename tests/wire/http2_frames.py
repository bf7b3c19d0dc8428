"""Frames as a client writes them, by struct alone: nothing of what is tested is used to write the tests."""

from __future__ import annotations

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ES, EH, PAD, PRIO = 0x1, 0x4, 0x8, 0x20
"""END_STREAM (or ACK), END_HEADERS, PADDED, PRIORITY."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """A literal that is not indexed; up to 126 bytes each."""
    assert max(len(name), len(value)) < 127
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def block(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(field(name, value) for name, value in fields)


def request(*more: tuple[bytes, bytes], method: bytes = b"GET", path: bytes = b"/") -> bytes:
    return block(
        (b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"example.com"), *more
    )


GET, POST = request(), request(method=b"POST")


def data(stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return frame(0, flags, stream, payload)


def headers(stream: int, payload: bytes = GET, flags: int = EH | ES) -> bytes:
    return frame(1, flags, stream, payload)


def priority(stream: int, depends_on: int = 0, weight: int = 15) -> bytes:
    return frame(2, 0, stream, struct.pack(">IB", depends_on, weight))


def rst(stream: int, code: int = 8) -> bytes:
    return frame(3, 0, stream, struct.pack(">I", code))


def settings(*entries: tuple[int, int], flags: int = 0, stream: int = 0) -> bytes:
    return frame(4, flags, stream, b"".join(struct.pack(">HI", key, value) for key, value in entries))


def ping(payload: bytes = b"12345678", flags: int = 0, stream: int = 0) -> bytes:
    return frame(6, flags, stream, payload)


def goaway(last: int = 0, code: int = 0, stream: int = 0) -> bytes:
    return frame(7, 0, stream, struct.pack(">II", last, code))


def window(stream: int, more: int) -> bytes:
    return frame(8, 0, stream, struct.pack(">I", more))


def continuation(stream: int, payload: bytes, flags: int = EH) -> bytes:
    return frame(9, flags, stream, payload)


def priority_update(about: int, value: bytes, stream: int = 0) -> bytes:
    return frame(16, 0, stream, struct.pack(">I", about) + value)


def parse(wire: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each frame."""
    found = []
    while wire:
        size = int.from_bytes(wire[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", wire[3:9])
        found.append((kind, flags, stream, wire[9 : 9 + size]))
        assert len(wire) >= 9 + size, "a frame is cut off"
        wire = wire[9 + size :]
    return found


CODES = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
]


def said(frames: list[tuple[int, int, int, bytes]]) -> list[str]:
    """In words, what a server says beside its responses: as http2_cases.py has it."""
    words = []
    for kind, flags, stream, payload in frames:
        if kind == 3:
            words.append(f"RST {stream} {CODES[int.from_bytes(payload, 'big')]}")
        elif kind == 4:
            words.append("SETTINGS ACK" if flags & 1 else "SETTINGS")
        elif kind == 6:
            words.append("PING ACK" if flags & 1 else "PING")
        elif kind == 7:
            words.append(f"GOAWAY {CODES[int.from_bytes(payload[4:8], 'big')]}")
        elif kind == 8:
            words.append(f"WINDOW {stream} {int.from_bytes(payload, 'big')}")
    return words
