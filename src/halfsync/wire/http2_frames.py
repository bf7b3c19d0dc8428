"""The frames of HTTP/2 (RFC 9113 section 4 and 6, RFC 9218 section 7): numbers, and how each is written."""

from __future__ import annotations

from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREFACE_HEAD = PREFACE[:18]
"""What of the preface looks like the head of an HTTP/1 request."""

FRAME_HEADER = 9
FRAME_SIZE = 16_384
"""Bytes of a frame's payload that each side takes unless it says that it takes more. We never say so."""
WINDOW = 65_535
"""Bytes: where every flow-control window begins."""
MAX_WINDOW = 2**31 - 1
MAX_STREAM = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
PRIORITY_UPDATE = 0x10

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frame_header(len(payload), kind, flags, stream_id) + payload


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    return (length << 48 | kind << 40 | flags << 32 | stream_id).to_bytes(FRAME_HEADER, "big")


def frame_start(length: int, kind: int, flags: int) -> bytes:
    """The header without its last four bytes, which are the stream's number."""
    return frame_header(length, kind, flags, 0)[:5]


def settings(values: dict[Setting, int]) -> bytes:
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def ping(payload: bytes, flags: int = 0) -> bytes:
    return frame(PING, flags, 0, payload)


def goaway(last_stream_id: int, code: int, why: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, (last_stream_id << 32 | code).to_bytes(8, "big") + why.encode())


def headers(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """A header block in one HEADERS frame, and as many CONTINUATION frames as it needs."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= FRAME_SIZE:
        return frame_header(len(block), HEADERS, flags | END_HEADERS, stream_id) + block
    frames = [frame(HEADERS, flags, stream_id, block[:FRAME_SIZE])]
    for at in range(FRAME_SIZE, len(block), FRAME_SIZE):
        part = block[at : at + FRAME_SIZE]
        last = END_HEADERS if at + FRAME_SIZE >= len(block) else 0
        frames.append(frame(CONTINUATION, last, stream_id, part))
    return b"".join(frames)
