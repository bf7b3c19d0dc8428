"""What /proc tells of the processes that are measured."""

from __future__ import annotations

import os
from pathlib import Path


def children(pid: int) -> list[int]:
    """All descendants of `pid`, parents before their children."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*"):
            try:
                born = [int(word) for word in (task / "children").read_text().split()]
            except OSError:  # it ended meanwhile
                continue
            found += born
            waiting += born
    return found


def command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def find_child(pid: int, name: str) -> int:
    """The descendant of `pid` whose process name is `name`.

    LookupError if there is none.
    """
    names = {child: command_name(child) for child in children(pid)}
    for child, its_name in names.items():
        if its_name == name:
            return child
    raise LookupError(f"no process named '{name}' below {pid}; there are {sorted(names.values())}")


def resident_bytes(pid: int) -> int:
    """VmRSS, from the page count in statm."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """That it has used, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
