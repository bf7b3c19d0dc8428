"""Which content coding a client prefers (RFC 9110 12.5.3). No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

SUFFIXES = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}
"""By coding, in the order of our own preference: the smaller first, as a rule."""

_ITEM = re.compile(
    r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)


def preferred(accept: str | None) -> Sequence[str]:
    """Of our codings those that the client accepts and likes no less than the file as it is: its favourite
    first, and of equals ours. Without the field, none: who does not speak of codings may know none."""
    if not accept:
        return ()
    qualities = _qualities(accept)
    other = qualities.get("*", 0.0)
    identity = qualities.get("identity", 0.0)
    found = {coding: qualities.get(coding, other) for coding in SUFFIXES}
    wanted = [coding for coding in SUFFIXES if found[coding] > 0 and found[coding] >= identity]
    return sorted(wanted, key=lambda coding: -found[coding])


def _qualities(accept: str) -> dict[str, float]:
    """What is malformed is left out."""
    qualities: dict[str, float] = {}
    for item in accept.split(","):
        if match := _ITEM.fullmatch(item.strip(" \t")):
            coding = match[1].lower().removeprefix("x-")  # x-gzip (RFC 9110 8.4.1.3)
            qualities[coding] = float(match[2] or 1)
    return qualities
