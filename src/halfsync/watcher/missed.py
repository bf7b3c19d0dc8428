"""What changed before a watcher began to watch: while another one was being replaced, or had died, or in a
folder that only the new configuration names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from halfsync.watcher.code import Filter

CLOCK_STEP = 0.01
"""Seconds by which the kernel's times of files may be behind its clock: they are taken once a tick, which is
10 milliseconds at most (CONFIG_HZ=100)."""


def changed_since(
    moment: float, folders: Iterable[str], wanted: Filter, files: Sequence[str] = ()
) -> list[str]:
    """The paths of files that were written, or put in place by renaming, since `moment` (seconds of the wall
    clock): those that `wanted` counts in `folders`, and single ones. What was deleted is not told: there is
    nothing that could be read again."""
    paths = [*_files_in(folders, wanted), *files]
    return sorted(path for path in paths if _changed_at(path) > moment - CLOCK_STEP)


def _files_in(folders: Iterable[str], wanted: Filter) -> Iterator[str]:
    for folder in folders:
        for where, below, names in os.walk(folder):
            below[:] = [name for name in below if not wanted.is_ignored(folder, os.path.join(where, name))]
            yield from (path for name in names if wanted(None, path := os.path.join(where, name)))


def _changed_at(path: str) -> float:
    """The time of the inode: a file that is renamed keeps the time when it was written."""
    try:
        return os.stat(path).st_ctime
    except OSError:
        return 0.0
