"""Which mount a target belongs to: longest prefix first, whole path segments."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from halfsync.plan import Mount

MAX_KEPT = 1024
MAX_KEPT_TARGET = 256
"""Targets, and bytes of each, whose route is remembered: 0.1 µs where the search takes 1."""


class Routes:
    def __init__(self, mounts: tuple[Mount, ...]) -> None:
        self._found: dict[bytes, int] = {}
        self._prefixes = [(i, m.prefix.encode(), m.prefix.encode() + b"/") for i, m in enumerate(mounts)]

    def find(self, target: bytes) -> int:
        """The mount's index; -1 if nothing is mounted there. The path is
        compared percent-decoded, and with no segment resolved: "/a/../b" is under "/a"."""
        found = self._found.get(target)
        if found is None:
            found = self._search(path_of(target))
            if len(target) <= MAX_KEPT_TARGET:
                if len(self._found) >= MAX_KEPT:
                    self._found.clear()
                self._found[target] = found
        return found

    def _search(self, path: bytes) -> int:
        for index, prefix, folder in self._prefixes:
            if path == prefix or path.startswith(folder):
                return index
        return -1


def path_of(target: bytes) -> bytes:
    """The path of an origin-form, absolute-form or asterisk-form target, decoded."""
    if target[:1] != b"/":
        if target == b"*":
            return b"/"
        rest = target.partition(b"://")[2]
        slash = rest.find(b"/")
        query = rest.find(b"?")
        target = rest[slash:] if slash >= 0 and (query < 0 or slash < query) else b"/"
    path = target.partition(b"?")[0].partition(b"#")[0]
    return unquote_to_bytes(path) if b"%" in path else path
