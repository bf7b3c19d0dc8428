"""The processes of a server that was started by a test or a fault run: orphans, too."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


class Mark:
    """Stands in the environment of a server, and so of all that it starts."""

    def __init__(self, variable: str) -> None:
        self.variable = variable
        self.value = uuid.uuid4().hex

    def processes(self) -> list[int]:
        """All living ones that carry it."""
        mark = f"{self.variable}={self.value}".encode()
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment = Path("/proc", entry, "environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0") and is_alive(int(entry)):
                found.append(int(entry))
        return found


def is_alive(pid: int) -> bool:
    """Also while it is on its way out: until its last thread is gone its sockets are open."""
    tasks = f"/proc/{pid}/task"
    try:
        return any(state(f"{tasks}/{thread}") not in "ZX" for thread in os.listdir(tasks))
    except OSError:
        return False


def state(task: str) -> str:
    """Of a process, or of a thread: its letter. "X" if it does not exist any more."""
    try:
        with open(f"{task}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
