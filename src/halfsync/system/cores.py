"""How many processors this process may use: what `workers = "auto"` means.

The machine's number is no measure: a container often has a few of many (its CPU set, sched_getaffinity(2)),
or all of them for a part of the time (its quota, cgroups(7)). Part of one that a quota leaves counts as one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

GROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


def usable() -> int:
    """1 or more."""
    return max(1, min(len(os.sched_getaffinity(0)), quota()))


def quota(groups: Path = GROUPS, mounted: Path = MOUNTED) -> int:
    """What the control groups of this process leave it; a very large number if they limit nothing."""
    try:
        lines = groups.read_text("utf-8").splitlines()
    except OSError:
        return 1 << 30
    found = [math.ceil(time / period) for time, period in _limits(lines, mounted) if time > 0 < period]
    return max(1, min(found, default=1 << 30))


def _limits(lines: list[str], mounted: Path) -> Iterator[tuple[float, float]]:
    """Processor time and the period for which it is given, of each group that this process is in."""
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2
            for folder in _folders(mounted, path):
                yield _numbers(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                for folder in _folders(mounted / name, path):
                    time, period = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
                    yield _numbers(time)[0], _numbers(period)[0]


def _folders(mounted: Path, path: str) -> Iterator[Path]:
    """Of a group and of those that it is in. In a container the path may be the host's: then only the
    topmost folder is there, which is the container's own."""
    group = PurePosixPath("/") / path
    for one in (group, *group.parents):
        yield mounted / one.relative_to("/")


def _numbers(file: Path) -> tuple[float, float]:
    """The first two of a file; -1 for what is missing, or is no number, such as "max"."""
    try:
        words = file.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError):
        words = []
    first, second = ([float(word) if word.isdigit() else -1.0 for word in words] + [-1.0, -1.0])[:2]
    return first, second
