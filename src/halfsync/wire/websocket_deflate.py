"""permessage-deflate (RFC 7692): its negotiation, and both directions of it. No I/O.

Memory is what this extension costs: with windows of 32 KiB, as clients propose, a connection holds 300 KiB
all the time. So windows are WINDOW_BITS at most, which takes 32 KiB for what is sent and 12 KiB for what is
received; and a client that does not let its window be limited may keep none between messages.
"""

from __future__ import annotations

import zlib

WINDOW_BITS = 12
MEMORY_LEVEL = 5
LEVEL = zlib.Z_BEST_SPEED
"""One process does it for all connections: higher levels take twice the time, and save little in windows of
this size."""
PIECE = 64 * 1024
"""Bytes that `inflate` gives at most. What a client sends may become a thousand times as much."""

_TAIL = b"\x00\x00\xff\xff"  # 7.2.1: not sent, and put back before it is inflated

Parameters = dict[str, str | None]
Extension = tuple[str, Parameters]
"""Name and parameters, as in Sec-WebSocket-Extensions; None: a parameter without a value."""


class Agreement:
    """What was negotiated. Bits are the base-2 logarithms of windows."""

    __slots__ = ("client_bits", "client_keeps", "names_client_bits", "server_bits", "server_keeps")

    def __init__(self, offered: Parameters) -> None:
        """The best response to what a client has offered. Raises ValueError if it can't be accepted."""
        unknown = set(offered) - {
            "server_no_context_takeover",
            "client_no_context_takeover",
            "server_max_window_bits",
            "client_max_window_bits",
        }
        if unknown:
            raise ValueError(f"unknown parameters: {unknown}")
        self.server_keeps = not _flag(offered, "server_no_context_takeover")
        self.names_client_bits = "client_max_window_bits" in offered
        # Who may not be told to keep to a smaller window is told not to keep one.
        self.client_keeps = self.names_client_bits and not _flag(offered, "client_no_context_takeover")
        self.server_bits = min(_bits(offered, "server_max_window_bits"), WINDOW_BITS)
        if self.server_bits < 9:
            raise ValueError("zlib has no smaller window")
        if offered.get("client_max_window_bits", "") is None:
            self.client_bits = WINDOW_BITS
        else:
            bits = _bits(offered, "client_max_window_bits")
            self.client_bits = min(bits, WINDOW_BITS) if self.names_client_bits else 15

    def response(self) -> str:
        """For the field Sec-WebSocket-Extensions."""
        parts = ["permessage-deflate", f"server_max_window_bits={self.server_bits}"]
        if self.names_client_bits:
            parts.append(f"client_max_window_bits={self.client_bits}")
        if not self.server_keeps:
            parts.append("server_no_context_takeover")
        if not self.client_keeps:
            parts.append("client_no_context_takeover")
        return "; ".join(parts)


def agree(extensions: list[Extension]) -> Agreement | None:
    """To the first offer of this extension that can be accepted; None: there is none."""
    for name, offered in extensions:
        if name == "permessage-deflate":
            try:
                return Agreement(offered)
            except ValueError:
                continue
    return None


def _flag(offered: Parameters, name: str) -> bool:
    if offered.get(name) is not None:
        raise ValueError(f"{name} has no value")
    return name in offered


def _bits(offered: Parameters, name: str) -> int:
    if name not in offered:
        return 15
    value = offered[name]
    if value is None or value not in ("8", "9", "10", "11", "12", "13", "14", "15"):
        raise ValueError(f"{name} is 8 to 15")
    return int(value)


class Inflator:
    """Of what a client sends. Call `inflate` with pieces of a message, and with b"" as long as `has_more`."""

    __slots__ = ("_bits", "_ending", "_inflate", "_is_between", "_keeps", "_rest", "has_more")

    def __init__(self, agreement: Agreement) -> None:
        self._bits = agreement.client_bits
        self._keeps = agreement.client_keeps
        self._inflate: zlib._Decompress | None = None
        self._rest = b""  # not inflated yet
        self._ending = False  # `_rest` ends with the end of the message
        self._is_between = False  # behind a block that said it was the last one
        self.has_more = False

    def inflate(self, data: bytes, *, last: bool) -> tuple[bytes, bool]:
        """At most PIECE bytes; and whether that was the end of the message. `last`: `data` is the last that
        comes of it. Raises ValueError."""
        if last:
            self._ending = True
            data += _TAIL
        data = self._rest + data
        if self._is_between and self._ending and data == _TAIL:
            data = b""
        if self._inflate is None:
            self._inflate = zlib.decompressobj(-self._bits)
        try:
            out = self._inflate.decompress(data, PIECE)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        self._rest = self._inflate.unconsumed_tail
        if data:
            self._is_between = self._inflate.eof
        if self._inflate.eof:  # 7.2.3.4: a block may say that it is the last one; others may follow it
            self._rest = self._inflate.unused_data
            self._inflate = None
        self.has_more = bool(self._rest) or len(out) == PIECE
        over = self._ending and not self.has_more
        if over:
            self._ending = self._is_between = False
            if not self._keeps:
                self._inflate = None
        return out, over


class Deflator:
    """Of what is sent."""

    __slots__ = ("_bits", "_deflate", "_keeps")

    def __init__(self, agreement: Agreement) -> None:
        self._bits = agreement.server_bits
        self._keeps = agreement.server_keeps
        self._deflate: zlib._Compress | None = None

    def deflate(self, data: bytes, *, last: bool) -> bytes:
        """The payload of the next frame of a message; `last`: it is the message's last frame."""
        if self._deflate is None:
            self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._bits, MEMORY_LEVEL)
        out = self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        if not last:
            return out
        if not self._keeps:
            self._deflate = None
        return out.removesuffix(_TAIL)
