"""Where the parts of a ClientHello stand, if one like it came before. No I/O.

A client's hellos differ in random numbers and keys, but not in kinds and sizes. So what says a kind or a size
is compared in one piece, and the rest is where it was in the hello before. (To go from part to part took
12 us of a handshake, this takes 2.)
"""

from __future__ import annotations

import struct

MAX_LAYOUTS = 64
"""Sizes of hellos of which a layout is kept, one for each."""
MAX_EXTENSIONS = 64
"""Of a hello whose layout is kept. (Browsers' have some 20.)"""
EVERY = 8
"""Hellos of a size that was not found, from one layout to the next: to make one takes 20 us, and some clients
shuffle their extensions."""

_ABSENT = slice(0)


class HelloLayout:
    """Of hellos in one record, with nothing behind it. Raises IndexError, struct.error if this is none."""

    __slots__ = ("_fields", "_unpack", "name", "protocols")

    def __init__(self, record: bytes, name_kind: int, protocols_kind: int) -> None:
        self.name = self.protocols = _ABSENT  # where these extensions' data are; nowhere, if they are absent
        parts = ["> 5s 4s 2x 32x B"]
        at = 9 + 2 + 32
        at += 1 + _put(parts, record[at])  # session id
        parts.append("H")
        at += 2 + _put(parts, int.from_bytes(record[at : at + 2], "big"))  # cipher suites
        parts.append("B")
        at += 1 + _put(parts, record[at])  # compression methods
        if at < len(record):
            parts.append("H")
            at += 2
            if at + int.from_bytes(record[at - 2 : at], "big") != len(record):
                raise IndexError
        count = 0
        while at < len(record):
            kind, size = struct.unpack_from(">HH", record, at)
            at += 4
            if kind == name_kind:
                self.name = slice(at, at + size)
            elif kind == protocols_kind:
                self.protocols = slice(at, at + size)
            parts.append("HH")
            at += _put(parts, size)
            count += 1
            if count > MAX_EXTENSIONS:
                raise IndexError
        self._unpack = struct.Struct(" ".join(parts)).unpack
        self._fields = self._unpack(record)

    def fits(self, record: bytes) -> bool:
        """Whether its parts stand where this layout says. `record`: as long as the one it was made of."""
        return self._unpack(record) == self._fields


class Layouts:
    """By the size of the record. `get` is the look-up."""

    def __init__(self) -> None:
        self._known: dict[int, HelloLayout] = {}
        self._missed: dict[int, int] = {}
        self.get = self._known.get

    def missed(self, record: bytes, name_kind: int, protocols_kind: int) -> None:
        """A hello was read that no layout fits. It has this form: one record, and nothing behind it."""
        size = len(record)
        count = self._missed.get(size, 0)
        if len(self._missed) >= MAX_LAYOUTS and not count:
            self._missed.clear()
            self._known.clear()
        self._missed[size] = count + 1
        if count % EVERY:
            return
        try:
            self._known[size] = HelloLayout(record, name_kind, protocols_kind)
        except (IndexError, struct.error):
            pass  # it has more extensions than are looked at


def _put(parts: list[str], size: int) -> int:
    """So many bytes that may be any."""
    parts.append(f"{size}x")
    return size
