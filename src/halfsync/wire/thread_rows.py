"""What each thread of a worker is doing: a row for each on the worker's scoreboard (see SCOREBOARD_SLOTS).

A row is three words, each THREAD_ROWS behind the one before, and only its thread writes them: when it has
received a packet, and when there is nothing left to do. The first is the time of that (monotonic
nanoseconds), doubled, and 1 more if the thread is at work; 0 if there is no such thread. The others are how
many requests it has handled, and how many bytes of bodies it has handed over for them, since the worker's
start. Within a packet nothing is written, so a row costs fast handlers, of whose tasks a packet carries many,
next to nothing.

Which task it is, the row does not say: that stands in the slots, and who reads both can tell (`paired`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

THREAD_ROWS = 128
"""A worker has no more threads."""

WORDS = 3 * THREAD_ROWS
"""Of all rows together."""


class ThreadRow(NamedTuple):
    since_ns: int  # when it began to work, or to wait
    is_busy: bool
    request_count: int = 0
    response_bytes: int = 0  # of bodies


def at_work(now_ns: int) -> int:
    """The word of a thread that works since then."""
    return now_ns << 1 | 1


def idle(now_ns: int) -> int:
    return now_ns << 1


def rows_of(words: Sequence[int], threads: int) -> list[ThreadRow]:
    """Of the first threads. `words`: all WORDS."""
    columns = (words[first : first + threads] for first in range(0, WORDS, THREAD_ROWS))
    return [
        ThreadRow(word >> 1, bool(word & 1), request_count, response_bytes)
        for word, request_count, response_bytes in zip(*columns, strict=True)
    ]


def paired(rows: Sequence[ThreadRow], begun: Sequence[int]) -> list[int | None]:
    """Which of the tasks, which began at these times, each of the threads is in: an index, or None.

    A task belongs to a thread that was at work by then; of several, to the one that began last. A task for
    which there is none, because its thread's row is not known to say so yet, gets one of the others."""
    found: list[int | None] = [None] * len(rows)
    busy = sorted((row.since_ns, index) for index, row in enumerate(rows) if row.is_busy)
    left: list[int] = []
    for task in sorted(range(len(begun)), key=begun.__getitem__, reverse=True):
        place = bisect_left(busy, (begun[task] + 1,)) - 1
        if place < 0:
            left.append(task)
        else:
            found[busy.pop(place)[1]] = task
    others = [index for _, index in busy] + [index for index, row in enumerate(rows) if not row.is_busy]
    for index, task in zip(others, reversed(left), strict=False):
        found[index] = task
    return found
