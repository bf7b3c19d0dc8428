"""Single files, wherever they lie: those of the configuration, and those that `reload_include` names.

A notification of the kernel is for a file's folder, with all that is below it; to have one for a file of /etc
would mean to watch /etc. To look at a few files costs less.
"""

from __future__ import annotations

from collections.abc import Iterable

from halfsync.system.seen_files import SeenFile, State, state_of


class SingleFiles:
    """Says which have changed, each time that it is called."""

    def __init__(self, files: Iterable[SeenFile]) -> None:
        self._seen = dict(files)
        self._moving: dict[str, State] = {}

    def changed(self) -> list[str]:
        """Those that are others than at the last call but one, and the same as at the last: an editor may
        have been in the middle of writing. What is missing has not changed yet."""
        found = []
        for path, seen in self._seen.items():
            now = state_of(path)
            if now is None or now == seen:
                self._moving.pop(path, None)
            elif self._moving.get(path) != now:
                self._moving[path] = now
            else:
                del self._moving[path]
                found.append((path, now))
        self._seen.update(found)
        return [path for path, _ in found]
