"""What is changed in the header fields of responses, whoever makes them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MAX_KEPT = 512
"""Changed field lines that are remembered: an application's are mostly the same few."""


class HeaderRule(msgspec.Struct, frozen=True):
    """For one field: set has one value and replaces, add keeps what is there, remove has no value."""

    name: str
    values: tuple[str, ...] = ()
    keeps: bool = False  # fields of that name that the response has


def nearest(*levels: Sequence[HeaderRule]) -> tuple[HeaderRule, ...]:
    """Of several levels' rules, the last level's for each name."""
    found = {rule.name.lower(): rule for level in levels for rule in level}
    return tuple(found.values())


class HeaderRules:
    """Those of one route."""

    def __init__(self, rules: Sequence[HeaderRule]) -> None:
        self._replaced = {rule.name.lower().encode() for rule in rules if not rule.keeps}
        lines = [f"{rule.name}: {value}\r\n" for rule in rules for value in rule.values]
        self._added = "".join(lines).encode()
        self._known: dict[bytes, bytes] = {}

    def apply(self, fields: bytes) -> bytes:
        """Field lines, each ended by CRLF, as they are to be sent."""
        found = self._known.get(fields)
        if found is None:
            found = self._kept(fields) + self._added
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            if len(fields) <= 1024:
                self._known[fields] = found
        return found

    def _kept(self, fields: bytes) -> bytes:
        if not self._replaced:
            return fields
        lines = fields.split(b"\r\n")[:-1]
        return b"".join(
            line + b"\r\n" for line in lines if line.partition(b":")[0].lower() not in self._replaced
        )
