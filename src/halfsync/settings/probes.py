"""`upgrade_probe`: what a new version must serve before it takes over at an upgrade."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from halfsync.settings.errors import SettingError

MOST = 16
"""Requests: they go to the pump in one packet."""
DEFAULT_HOST = "localhost"

_PROBE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?)?(?P<target>/[!-~]*)"
)


class Probe(NamedTuple):
    host: str  # as a Host field has it
    target: str


def probes_of(texts: Sequence[str]) -> list[Probe]:
    """Raises SettingError."""
    if len(texts) > MOST:
        raise SettingError(f"upgrade_probe may have {MOST} paths at most, not {len(texts)}.")
    found = []
    for text in texts:
        parts = _PROBE.fullmatch(text)
        if parts is None or "#" in text:
            raise SettingError(
                f"upgrade_probe: {text!r} is no path such as /healthz, nor one behind a host's name, such as "
                "shop.example/healthz."
            )
        found.append(Probe(parts["host"] or DEFAULT_HOST, parts["target"]))
    return found
