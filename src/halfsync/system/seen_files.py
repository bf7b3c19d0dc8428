"""Files, and how they were when they were looked at: so it is known later whether they have changed since."""

from __future__ import annotations

import os
from collections.abc import Iterable

State = tuple[int, int, int, int] | None
"""Device, inode, size, mtime in nanoseconds. None: it was not there."""

SeenFile = tuple[str, State]


def seen(paths: Iterable[str]) -> tuple[SeenFile, ...]:
    """Look before you read: what changes meanwhile has changed since."""
    return tuple((path, state_of(path)) for path in paths)


def state_of(path: str) -> State:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
