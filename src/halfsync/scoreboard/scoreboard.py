"""The server's scoreboard: shared memory with a row for each process and for each running task, and counters.

Theory of operation
-------------------
The parent makes it before the first fork. The parent and each pump have it mapped; every other child unmaps
it before it does anything else, so an application can't write to it. (What a worker has to say in shared
memory, such as what each thread does, is on a scoreboard of its own: see SCOREBOARD_SLOTS in
wire/task_slots.py.) It is anonymous memory: no descriptor leads to it, nobody can change its size, and it is
there until the last process is gone. So what stands in it outlives each of them, and a new pump counts on
where the one before was killed.

Nothing is locked. Each part has one process that writes it, and anyone may read at any time:

    process rows    the parent   who there is, in which state, since when, of which generation, its memory
    task rows       the pump     what a worker runs
    served          the pump     requests and bytes of each process (words)
    counts          the pump     of all requests and connections (words)
    pools           the pump     handlers' times, and refused requests, by pool (words)
    history         the pump     how far the counts were, every few seconds
    before          the parent   counts, pools and history of versions that this one has replaced (see
                                 parent/status/counted.py)

Words are aligned, of 64 bits. CPython stores one through a memoryview with a single move, so whoever reads
sees the number before or the number after, and never a mixture.

A row is larger than that, so it is a *record*: a word that counts its versions, and two halves. The owner
writes version n into half n % 2, and then n into the word. So a complete version is there at every moment,
also if the owner is killed in the middle. Each half has a CRC of its number and content: who reads while it
is overwritten, or on a processor that shows another's writes out of order, finds that it does not fit, and
reads again.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

PROCESSES = 512
"""Process rows. Further processes have none."""
TASKS = 4096
"""Task rows, of all workers together."""
POOLS = 64
"""Pools with counts here. Those of further pools begin again with each pump."""

STATUSES = 1000
REASONS = 32
"""Reasons for which requests are refused, that are counted (see counts.py)."""
CLOSES = 64
"""Reasons for which connections are closed, by number."""
TIMES = 65
"""Classes of a handler's time: the class n has those of less than 2**n nanoseconds, and at least half."""
SAMPLES = 181
"""In the history: a quarter of an hour, with one every 5 seconds."""

COUNT_WORDS = 16 + REASONS + STATUSES + CLOSES
POOL_WORDS = TIMES + 1 + REASONS
SAMPLE_WORDS = 3 + TIMES
SERVED_WORDS = 2

HALF = 252
"""Bytes: a CRC of four, a size of two, and the content."""
CONTENT = HALF - 6
RECORD = 8 + 2 * HALF
TRIES = 16
"""Until a record is taken for one that can't be read: its owner would have to be faster so many times."""

_HEADER = 0
_COUNTS = _HEADER + 8 * 8
_POOLS = _COUNTS + 8 * COUNT_WORDS
_HISTORY = _POOLS + 8 * POOL_WORDS * POOLS
_SERVED = _HISTORY + 8 * (1 + SAMPLE_WORDS * SAMPLES)
_PROCESSES = _SERVED + 8 * SERVED_WORDS * PROCESSES
_TASKS = _PROCESSES + RECORD * PROCESSES
_BEFORE = _TASKS + RECORD * TASKS - _COUNTS
"""Added to where counts, pools and history are, it is where those from before are."""
SIZE = _BEFORE + _SERVED


class ProcessRow(msgspec.Struct, array_like=True):
    """Times are monotonic seconds."""

    role: str  # "parent", "pump", "worker", ...
    pid: int  # 0: not known yet
    state: str  # as ChildState has it; of the parent, as Phase has it
    since: float  # when it came into that state
    started: float
    memory: int  # resident, in bytes
    pool: str = ""
    generation: int = 0
    threads: int = 0
    first_task: int = 0  # its task rows
    task_rows: int = 0
    ending: str = ""  # how it ended, in words

    def described(self, now: float, served: Sequence[int]) -> dict[str, Any]:
        """As JSON shows it. `served`: see Scoreboard."""
        said: dict[str, Any] = {
            "role": self.role,
            "pid": self.pid or None,
            "state": self.state,
            "seconds": round(now - self.since, 3),
            "age": round(now - self.started, 3),
            "memory": self.memory,
        }
        if self.pool:
            said |= {"pool": self.pool, "generation": self.generation}
        if self.role == "worker":
            said |= {"threads": self.threads, "requests": served[0], "bytes": served[1]}
        if self.ending:
            said["ending"] = self.ending
        return said


class TaskRow(msgspec.Struct, array_like=True):
    """A task that a worker runs."""

    number: int  # the task's; 0: there is none
    began_ns: int = 0  # monotonic
    request: str = ""  # method and target
    host: str = ""
    client: str = ""


Row = TypeVar("Row", ProcessRow, TaskRow)

NO_TASK = TaskRow(0)

_decode_process = msgspec.msgpack.Decoder(ProcessRow).decode
_decode_task = msgspec.msgpack.Decoder(TaskRow).decode
_encode = msgspec.msgpack.Encoder().encode


class Scoreboard:
    def __init__(self) -> None:
        """Raises OSError."""
        self._memory = mmap.mmap(-1, SIZE)
        self._words = memoryview(self._memory).cast("Q")

    def close(self) -> None:
        """Unmap it here. Views of its words must be gone."""
        self._words.release()
        self._memory.close()

    # --- words

    def _view(self, offset: int, words: int) -> memoryview:
        return self._words[offset // 8 : offset // 8 + words]

    @property
    def header(self) -> memoryview:
        return self._view(_HEADER, 8)

    @property
    def counts(self) -> memoryview:
        return self._view(_COUNTS, COUNT_WORDS)

    @property
    def counts_before(self) -> memoryview:
        return self._view(_BEFORE + _COUNTS, COUNT_WORDS)

    def pool(self, index: int) -> memoryview:
        """Of a pool, by its index in the plan."""
        return self._pool(_POOLS, index)

    def pool_before(self, index: int) -> memoryview:
        return self._pool(_BEFORE + _POOLS, index)

    def _pool(self, offset: int, index: int) -> memoryview:
        if index < POOLS:
            return self._view(offset + 8 * POOL_WORDS * index, POOL_WORDS)
        return memoryview(bytearray(8 * POOL_WORDS)).cast("Q")

    @property
    def history(self) -> memoryview:
        return self._view(_HISTORY, 1 + SAMPLE_WORDS * SAMPLES)

    @property
    def history_before(self) -> memoryview:
        return self._view(_BEFORE + _HISTORY, 1 + SAMPLE_WORDS * SAMPLES)

    def served(self, row: int) -> memoryview:
        """Of the process with this row: requests, and bytes. -1: it has none."""
        if row < 0:
            return memoryview(bytearray(8 * SERVED_WORDS)).cast("Q")
        return self._view(_SERVED + 8 * SERVED_WORDS * row, SERVED_WORDS)

    # --- records

    def write_process(self, row: int, process: ProcessRow) -> None:
        self._write(_PROCESSES + RECORD * row, _encode(process))

    def process(self, row: int) -> ProcessRow | None:
        """None: nothing was written there, or it can't be read."""
        content = self._read(_PROCESSES + RECORD * row)
        return _decode_process(content) if content else None

    def write_task(self, row: int, task: TaskRow) -> None:
        self._write(_TASKS + RECORD * row, _encode(task))

    def task(self, row: int) -> TaskRow | None:
        """None: there is none."""
        content = self._read(_TASKS + RECORD * row)
        task = _decode_task(content) if content else NO_TASK
        return task if task.number else None

    def _write(self, offset: int, content: bytes) -> None:
        version = self._words[offset // 8] + 1
        assert len(content) <= CONTENT
        half = _half(version, content)
        at = offset + 8 + HALF * (version % 2)
        self._memory[at : at + len(half)] = half
        self._words[offset // 8] = version

    def _read(self, offset: int) -> bytes:
        for _ in range(TRIES):
            version = self._words[offset // 8]
            if not version:
                return b""
            at = offset + 8 + HALF * (version % 2)
            half = self._memory[at : at + HALF]
            content = half[6 : 6 + int.from_bytes(half[4:6], "little")]
            if half.startswith(_half(version, content)):
                return content
        return b""


def _half(version: int, content: bytes) -> bytes:
    rest = len(content).to_bytes(2, "little") + content
    return zlib.crc32(rest, version & 0xFFFFFFFF).to_bytes(4, "little") + rest


def cut(text: str, size: int) -> str:
    """As much of it as is in so many bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
