"""Which mount a target belongs to: longest prefix first, whole path segments."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from halfsync.plan import Mount


class Routes:
    def __init__(self, mounts: tuple[Mount, ...]) -> None:
        self._mounts = mounts
        self._prefixes = [(i, m.prefix.encode(), m.prefix.encode() + b"/") for i, m in enumerate(mounts)]

    def find(self, target: bytes) -> tuple[int, Mount | None]:
        """The mount's index and itself; (-1, None) if nothing is mounted there. The path is
        compared percent-decoded, and with no segment resolved: "/a/../b" is under "/a"."""
        path = path_of(target)
        for index, prefix, folder in self._prefixes:
            if path == prefix or path.startswith(folder):
                return index, self._mounts[index]
        return -1, None


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
