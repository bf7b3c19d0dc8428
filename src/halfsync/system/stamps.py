"""How a file is told to have changed, while it is read or sent.

Theory of operation
-------------------
A file's name, tag and length are looked at once, and its content is read later: here in one go, there piece
by piece over minutes. In between anybody may write into it. The kernel sets the times of a file *before* it
puts the first byte of a write into it; so if size and times are the same before and after the content was
read, and no write was under way before, all that was read is of one version.

Two things stand in the way:

 - Times move in ticks (4 or 10 ms, by the kernel; since Linux 6.13 finer if somebody looks). A write in the
   same tick as the one before leaves the same times.
 - A write of megabytes takes milliseconds, at whose begin the times are set.

So a file that was changed less than REST seconds ago may change without a sign. The handler of files waits
for REST. What does not come to rest is not leased, and its tag is for this one response; and if it is large
and does not just grow, it is not sent at all. (A write(2) whose process does not run for REST can't be told.)

What nobody can see: writes through a memory map (the kernel looks at them when it likes), and file systems
whose times lie. Deploy by renaming.

This module is near the bottom: it imports `primitives` only.
"""

from __future__ import annotations

from halfsync.system.primitives import os, time

Stamp = tuple[int, int, int, int, int, int, int, int]
"""Device, inode, size, mtime and ctime in nanoseconds; links, mode, owner."""

REST = 0.05
"""Seconds. Five of the slowest ticks."""


def stamp_of(status: os.stat_result) -> Stamp:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_nlink,
        status.st_mode,
        status.st_uid,
    )


def is_same_content(before: Stamp, now: Stamp) -> bool:
    """Whether an open file has the content that it had.

    A new ctime alone may be a new link, mode or owner, and then it can be seen: so who has begun to send a
    file that is removed, or replaced by renaming, sends it to its end. If it can't be seen, the content may
    have been written and the mtime set back after it, as `cp -p` and `rsync --inplace` do.
    """
    if before[:4] != now[:4]:
        return False
    return before[4] == now[4] or before[5:] != now[5:]


def age(status: os.stat_result) -> float:
    """Seconds since the last change of any kind; large if that is in the future (then the clock was set
    back, and the file may lie there for long)."""
    seconds = time.time() - status.st_ctime
    return seconds if seconds >= 0 else REST


def is_at_rest(status: os.stat_result) -> bool:
    return age(status) >= REST


def size_is_unknown(descriptor: int, status: os.stat_result) -> bool:
    """Whether there is more in a file than its size says, as in /proc. Raises OSError if it is not open for
    reading."""
    return bool(os.pread(descriptor, 0 if status.st_size else 1, 0))
