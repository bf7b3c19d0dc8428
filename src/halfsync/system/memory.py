"""How much memory processes have, as the kernel tells it."""

from __future__ import annotations

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Bytes of a process's memory that are in RAM, as ps has it (RSS); 0 if that can't be found out."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # proc_pid_statm(5)
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
