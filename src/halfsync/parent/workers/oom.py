"""Whether the kernel killed a process for want of memory: only its control groups' counters say so.

A process that was killed by SIGKILL may have been killed by anybody. If the count of OOM kills of a group
that this process is in (cgroups(7), version 1 or 2) has grown since the last look, it most likely was the
kernel.
Its counter grows before the signal is sent, so a look after the death is late enough.

The kernel kills the process that has most memory. With workers that hold little at that moment, since the
one that had most is already on its way out, this may be the parent, and with it the server. So its processes
count as a little larger than it: the pump by half of LARGER, all others by LARGER.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

LARGER = 64 << 20
"""Bytes; a parent has some 35 MiB, and a worker of a small application less."""
MOST_SCORE = 100
"""Thousandths of the memory that there is: in a small control group LARGER would be most of it."""
SCORE = Path("/proc/self/oom_score_adj")
GROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


class OOMKills:
    """Of the group nearest to this process that counts them."""

    def __init__(self) -> None:
        self._file = next((file for file in _files(GROUPS, MOUNTED) if _count(file) is not None), None)
        self._seen = self.total

    @property
    def total(self) -> int:
        """Since the group was made."""
        return 0 if self._file is None else _count(self._file) or 0

    def in_words(self) -> str:
        """To be put behind "was killed by SIGKILL"; "" if that was not for want of memory, as far
        as is known."""
        if self._file is None:
            return ""
        total = self.total
        new, self._seen = total - self._seen, total
        if new <= 0:
            return ""
        kills = "OOM kill" if new == 1 else "OOM kills"
        limit = _limit(self._file.parent)
        return f" (out of memory: {new} new {kills} in its control group, {total} in all{limit})"


def score_of(size: int) -> int:
    """In thousandths of the memory that the kernel compares with: this machine's, or the group's."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _files(GROUPS, MOUNTED):
        for name in ("memory.max", "memory.limit_in_bytes"):
            total = min([total, *(int(line) for line in _lines(file.parent / name) if line.isdecimal())])
    return min(MOST_SCORE, math.ceil(1000 * size / max(1, total)))


def be_killed_sooner(score: int) -> None:
    """This process, and those that it forks, count as so much larger. (That needs no privilege; where it is
    impossible, nothing is lost.)"""
    with contextlib.suppress(OSError, ValueError):
        SCORE.write_text(str(min(1000, int(SCORE.read_text()) + score)))


def _files(groups: Path, mounted: Path) -> Iterator[Path]:
    """Where a count may be, in the nearest group first. In a container the path may be the host's: then only
    the topmost folder is there, which is the container's own."""
    for line in _lines(groups):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        group = PurePosixPath("/") / path
        for one in (group, *group.parents):
            below = one.relative_to("/")
            if controllers:
                yield mounted / "memory" / below / "memory.oom_control"
            else:
                yield mounted / below / "memory.events"
                yield mounted / "unified" / below / "memory.events"


def _count(file: Path) -> int | None:
    """None: it is not there, or counts none (version 1 before Linux 4.13)."""
    for line in _lines(file):
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.isdecimal():
            return int(number)
    return None


def _limit(group: Path) -> str:
    """What the group may have, in words."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        for line in _lines(group / name):
            if line.isdecimal() and int(line) < 1 << 60:
                return f", {name} is {int(line) / (1 << 20):.0f} MiB"
    return ""


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
