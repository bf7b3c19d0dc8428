"""The memory that the pump shares with one worker, its scoreboard: a slot for each task that can be
outstanding there. (That of the server is another: scoreboard/scoreboard.py.)"""

from __future__ import annotations

from halfsync.wire.thread_rows import WORDS

MOST_SLOTS = 64 * 1024
"""No scoreboard has more slots."""

SCOREBOARD_SLOTS = 1024
"""Slots of the scoreboard of a worker with threads: one for each task that can be outstanding there. That of
a worker with an event loop has more, if it takes more. The scoreboard is two arrays of that many unsigned
64-bit integers, one number more, and a row for each thread (thread_rows.py).

`scoreboard[slot]`, *begun*: the pump zeroes it before it hands a task over; the worker writes
`time.monotonic_ns()` there when the handler begins. So the pump knows, with no message, which
tasks were begun when a worker dies or dawdles.

`scoreboard[slots + slot]`, *withdrawn*: the pump writes the number of a task that it wants back.
The worker looks there after it has written *begun* and before it invokes the handler; if it finds the
task's number, it drops the task and says NOT_BEGUN. The pump looks at *begun* again some milliseconds
after it wrote: if that is zero still, no handler will ever see the task, whenever the worker gets at it,
and the request is free to go elsewhere. (Each side writes its own word first and then reads the other's,
and the milliseconds are what makes a memory barrier needless.) The slot stays taken until NOT_BEGUN.

`scoreboard[2 * slots]`, *turned*: a worker with an event loop writes `time.monotonic_ns()` there when the
loop takes tasks, and from time to time while it has any. If that is long ago, the loop is blocked."""


def scoreboard_bytes(slots: int) -> int:
    return 8 * (2 * slots + 1 + WORDS)


def slots_of(scoreboard: memoryview) -> int:
    """`scoreboard` consists of 64-bit integers."""
    return (len(scoreboard) - 1 - WORDS) // 2


SCOREBOARD_BYTES = scoreboard_bytes(SCOREBOARD_SLOTS)
