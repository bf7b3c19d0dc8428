"""WebSocket frames (RFC 6455): bytes in, pieces of messages out; headers of frames to send. No I/O.

Theory of operation
-------------------
A `FrameReader` is fed with what came and gives one event after the other, so its user decides how far it
reads. It never holds more than it was fed with and, before that, a header or a control frame that was not
complete; the payload of a message leaves it piece by piece, and whoever collects the pieces knows by then
that the message will not be larger than the limit. A message that comes whole and small, as most do, is one
event and one piece.

Every rule is checked as early as can be: a size with the header that announces it, UTF-8 with the byte that
breaks it, though the message may be in many fragments. After an error nothing is read any more.

Most messages come whole, in one frame each. `whole_messages` reads those, in a third of the time, and leaves
everything else to `next`.

Masks (section 5.3) are undone with integers as wide as the data: 1 µs for 125 bytes, 8 µs for 4 KiB. A table
for each of the four bytes takes 2 and 12.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from enum import IntEnum

from halfsync.wire.websocket_deflate import Inflator
from halfsync.wire.websocket_masking import masking_in_c


class Opcode(IntEnum):
    """Section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = (int(one) for one in Opcode)


class CloseCode(IntEnum):
    """Section 7.4, and the registry of codes."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_CODE = 1005  # never sent: the client's Close had none
    ABNORMAL = 1006  # never sent: the connection ended without a Close
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


MAX_CONTROL = 125
"""Bytes of a control frame's payload."""
MAX_REASON = MAX_CONTROL - 2
"""Bytes of the reason in a Close."""
AT_ONCE = 64 * 1024
"""Bytes of the messages that `FrameReader.whole_messages` gives, and one more of them."""
UNMASK_AT_ONCE = 4096
"""Bytes. Wider integers cost more for each byte: 64 KiB at once take 250 µs, in parts of this size 150."""

Event = tuple[int, bytes, bool]
"""An opcode (TEXT, BINARY, CLOSE, PING, PONG), data, and whether that is the last of the message. A CLOSE has
its reason as data; `FrameReader.close_code` is its code."""


class FrameError(Exception):
    """What the client sent breaks the rules: the connection is to fail (section 7.1.7) with this code."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(f"{code.value} {reason}")
        self.code = code
        self.reason = reason


def whole_message(data: bytes, limit: int) -> bytes | None:
    """The data of a message, whose opcode is in the first byte, if these bytes are that one in one frame, and
    nothing else: small, not deflated, and right. (As `FrameReader.whole_messages`; most of what comes is
    this.)"""
    size = len(data)
    if size < 6 or ((first := data[0]) != 0x81 and first != 0x82):
        return None
    start = 6
    if size > 131 or data[1] - 0x80 != size - 6:
        start = 8
        if size < 134 or data[1] != 0xFE or (data[2] << 8 | data[3]) != size - 8:
            return None
    if size - start > limit:
        return None
    payload = unmasked(data[start:], data[start - 4 : start])
    if first == 0x81 and not payload.isascii() and not _is_text(payload):
        return None
    return payload


class FrameReader:
    """Reads what a client sends. Call `feed` with it, and `next` until it gives None."""

    __slots__ = (
        "_at",
        "_data",
        "_decoder",
        "_final",
        "_in_frame",
        "_inflator",
        "_is_deflated",
        "_kind",
        "_left",
        "_mask",
        "_size",
        "close_code",
        "is_between",
        "is_read",
        "limit",
    )

    def __init__(self, limit: int, inflator: Inflator | None = None) -> None:
        """`limit`: bytes of the largest message. `inflator`: of permessage-deflate, if it was negotiated."""
        self.limit = limit
        self._inflator = inflator
        self._data = b""
        self._at = 0  # what is before that in `_data` was read
        self._kind = 0  # of the message in progress; 0: there is none
        self._size = 0  # of the message in progress: of what has come, and is announced by the frame's header
        self._is_deflated = False
        self._in_frame = False  # a data frame's header was read, and not all of its payload
        self._left = 0  # bytes of that frame yet to come
        self._mask = b""  # turned, so that it begins with the byte for the next one of the payload
        self._final = False  # that frame is the message's last
        self._decoder: codecs.IncrementalDecoder | None = None  # of a text that came in pieces
        self.close_code = CloseCode.NO_CODE.value
        self.is_read = True  # there is nothing for `next` to look at
        self.is_between = True  # and it has no part of a message or of a frame

    @property
    def unread(self) -> int:
        """Bytes that it was fed with and has not read."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """What came. (If `next` has not given None before, it is put behind what is there.)"""
        self._data = data if self._at == len(self._data) else self._data[self._at :] + data
        self._at = 0
        self.is_read = self.is_between = False

    def next(self) -> Event | None:
        """The next event; None: more has to come. Raises FrameError."""
        if self._inflator is not None and self._inflator.has_more:
            return self._inflate(self._inflator, b"", last=False)
        event = self._read_payload() if self._in_frame else self._read_frame()
        if event is None:
            self.is_read = True
            if self._at:  # what waits for more is not to keep what was read before
                self._data, self._at = self._data[self._at :], 0
            self.is_between = not (self._kind or self._data)
        return event

    def whole_messages(self, most: int) -> list[tuple[int, bytes]]:
        """The next messages, at most so many and AT_ONCE bytes and one, if each is whole, in one frame, and
        not deflated: their opcodes and data. It ends before the first frame that is another one, or wrong, or
        not all here: that is for `next`."""
        found: list[tuple[int, bytes]] = []
        if self._kind:
            return found
        data, at, limit = self._data, self._at, self.limit
        size = len(data)
        until = at + AT_ONCE
        while size - at >= 6 and at < until and len(found) < most:
            first = data[at]
            if first != 0x81 and first != 0x82:
                break
            length = data[at + 1] - 0x80
            start = at + 6
            if length == 126:
                length = data[at + 2] << 8 | data[at + 3]
                start = at + 8
                if length < 126:
                    break
            elif not 0 <= length < 126:
                break
            end = start + length
            if end > size or length > limit:
                break
            payload = unmasked(data[start:end], data[start - 4 : start])
            if first == 0x81 and not payload.isascii() and not _is_text(payload):
                break
            found.append((first & 15, payload))
            at = end
        if at == size:
            self._data, self._at, self.is_read, self.is_between = b"", 0, True, True
        else:
            self._at = at
        return found

    # --- headers -----------------------------------------------------------------------------------

    def _read_frame(self) -> Event | None:
        """Section 5.2."""
        data, at = self._data, self._at
        have = len(data) - at
        if have == 0:
            return None
        first = data[at]
        self._check_first(first)
        if have == 1:
            return None
        second = data[at + 1]
        if not second & 0x80:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a frame is not masked")
        size = second & 0x7F
        if first & 8:
            return self._read_control(first & 15, size)
        start = at + 6
        if size > 125:
            start += 2 if size == 126 else 8
            if len(data) < start - 4:
                return None
            size = self._long_size(data[at + 2 : start - 4])
        self._check_size(first, size)
        if len(data) < start:
            return None
        self._mask = data[start - 4 : start]
        self._at = start
        self._begin_frame(first, size)
        return self._read_payload()

    def _check_first(self, first: int) -> None:
        """Of a frame's first byte: FIN, RSV1 to RSV3, the opcode."""
        opcode = first & 15
        if first & 0x70 and not self._may_be_deflated(first):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
        if opcode > (PONG if opcode & 8 else BINARY):
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        if opcode & 8:
            if not first & 0x80:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "a control frame is fragmented")
        elif opcode == CONTINUATION and not self._kind:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a continuation without a beginning")
        elif opcode != CONTINUATION and self._kind:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a message begins within another one")

    def _may_be_deflated(self, first: int) -> bool:
        """RFC 7692 6: RSV1, and that alone, in the first frame of a message."""
        return self._inflator is not None and first & 0x70 == 0x40 and first & 15 in (TEXT, BINARY)

    @staticmethod
    def _long_size(data: bytes) -> int:
        size = int.from_bytes(data, "big")
        if size >> 63:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a frame's length has its highest bit set")
        if size < (126 if len(data) == 2 else 65536):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a frame's length is not encoded in the shortest way")
        return size

    def _check_size(self, first: int, size: int) -> None:
        """What is deflated is counted when it is inflated."""
        deflated = self._is_deflated if self._kind else bool(first & 0x40)
        if not deflated and self._size + size > self.limit:
            raise self._too_big()

    def _too_big(self) -> FrameError:
        return FrameError(CloseCode.TOO_BIG, f"a message is larger than {self.limit} bytes")

    def _begin_frame(self, first: int, size: int) -> None:
        if not self._kind:
            self._kind = first & 15
            self._is_deflated = bool(first & 0x40)
        if not self._is_deflated:
            self._size += size
        self._in_frame = True
        self._left = size
        self._final = bool(first & 0x80)

    # --- control frames ----------------------------------------------------------------------------

    def _read_control(self, opcode: int, size: int) -> Event | None:
        """Section 5.5."""
        if size > MAX_CONTROL:
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"a control frame is longer than {MAX_CONTROL} bytes")
        start = self._at + 6
        end = start + size
        if len(self._data) < end:
            return None
        payload = unmasked(self._data[start:end], self._data[start - 4 : start])
        self._at = end
        if opcode != CLOSE:
            return opcode, payload, True
        self._data, self._at = b"", 0  # nothing that is behind it counts
        return CLOSE, self._read_close(payload), True

    def _read_close(self, payload: bytes) -> bytes:
        """Section 5.5.1."""
        if not payload:
            return b""
        if len(payload) == 1:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a Close with half a code")
        code = int.from_bytes(payload[:2], "big")
        if not may_be_sent(code):
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"a Close with code {code}")
        _check_text(payload[2:])
        self.close_code = code
        return payload[2:]

    # --- payload -----------------------------------------------------------------------------------

    def _read_payload(self) -> Event | None:
        """What has come of a data frame's payload."""
        data, at = self._data, self._at
        end = min(at + self._left, len(data))
        if end == at and self._left:
            return None
        piece = unmasked(data[at:end], self._mask)
        self._at = end
        self._left -= end - at
        if self._left:
            turn = (end - at) & 3
            self._mask = self._mask[turn:] + self._mask[:turn]
        else:
            self._in_frame = False
        last = self._final and not self._left
        if self._is_deflated:
            assert self._inflator is not None
            return self._inflate(self._inflator, piece, last=last)
        return self._piece(piece, last=last)

    def _inflate(self, inflator: Inflator, piece: bytes, *, last: bool) -> Event:
        try:
            out, last = inflator.inflate(piece, last=last)
        except ValueError:
            raise FrameError(CloseCode.INVALID_DATA, "a message can't be decompressed") from None
        self._size += len(out)
        if self._size > self.limit:
            raise self._too_big()
        return self._piece(out, last=last)

    def _piece(self, piece: bytes, *, last: bool) -> Event:
        """More of the message."""
        kind = self._kind
        if kind == TEXT:
            self._check_piece(piece, last=last)
        if last:
            self._kind = self._size = 0
            self._is_deflated = False
            self._decoder = None
        return kind, piece, last

    def _check_piece(self, piece: bytes, *, last: bool) -> None:
        """Of a text. Python's decoder sees what breaks UTF-8 as soon as it comes, except that it waits for
        the third byte of a surrogate."""
        decoder = self._decoder
        if decoder is None:
            if last:
                _check_text(piece)
                return
            self._decoder = decoder = _new_decoder()
        try:
            decoder.decode(piece, last)
        except UnicodeDecodeError:
            raise _bad_text() from None
        pending = decoder.getstate()[0]
        if pending[:1] == b"\xed" and pending[1:2] >= b"\xa0":
            raise _bad_text()


_new_decoder = codecs.getincrementaldecoder("utf-8")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_text(data: bytes) -> None:
    if not _is_text(data):
        raise _bad_text()


def _bad_text() -> FrameError:
    return FrameError(CloseCode.INVALID_DATA, "a text is not UTF-8")


def unmasked_in_python(data: bytes, mask: bytes) -> bytes:
    """Section 5.3; `mask` has 4 bytes. (To mask is the same.)"""
    size = len(data)
    if size > UNMASK_AT_ONCE:
        parts = range(0, size, UNMASK_AT_ONCE)
        return b"".join([unmasked_in_python(data[at : at + UNMASK_AT_ONCE], mask) for at in parts])
    steps = (size + STEP - 1) // STEP
    wide = int.from_bytes(mask, "little") * _ONES[steps]  # the mask, repeated: to multiply is the fastest way
    found = (int.from_bytes(data, "little") ^ wide).to_bytes(steps * STEP, "little")
    return found if len(found) == size else found[:size]


STEP = 32
_ONES = [int.from_bytes(b"\1\0\0\0" * (at * STEP // 4), "little") for at in range(UNMASK_AT_ONCE // STEP + 1)]
"""A one every 32 bits, for STEP times so many bytes: 260 KiB in all."""

unmasked: Callable[[bytes, bytes], bytes] = masking_in_c() or unmasked_in_python


def may_be_sent(code: int) -> bool:
    """Whether a Close may have this code (section 7.4)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


# --- what is sent ----------------------------------------------------------------------------------


def frame_header(opcode: int, size: int, *, final: bool = True, deflated: bool = False) -> bytes:
    """Of a frame of a server's, which has no mask."""
    first = opcode | (0x80 if final else 0) | (0x40 if deflated else 0)
    if size <= 125:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


SMALL_HEADERS: dict[int, tuple[bytes, ...]] = {
    kind: tuple(frame_header(kind, size) for size in range(MAX_CONTROL + 1)) for kind in (TEXT, BINARY)
}
"""By opcode and size, of messages in one frame."""


def control_frame(opcode: int, payload: bytes = b"") -> bytes:
    """A whole Ping or Pong. `payload`: at most MAX_CONTROL bytes."""
    return bytes((0x80 | opcode, len(payload))) + payload


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """A whole Close; of a code that can't be sent, an empty one. Of the reason, as many characters as fit."""
    if not may_be_sent(code):
        return b"\x88\x00"
    if len(reason) > MAX_REASON:
        reason = reason[:MAX_REASON].decode(errors="ignore").encode()
    return control_frame(CLOSE, code.to_bytes(2, "big") + reason)
