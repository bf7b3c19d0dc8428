"""Writing the access log, so that neither a full disk nor a stopped reader harms anything else.

- Whole lines only, in order, each batch by as few writes as may be: to a file (O_APPEND) in one; to a
  pipe in pieces of at most PIPE_BUF, which the kernel does not mix with those of other
  writers, each ended at a line's end.
- One thread writes at a time. Another that comes with records leaves them and goes back to its tasks, so
  a log that is stuck holds one thread of the pool and not all.
- What can't be written is dropped and counted. The first failure is said in the error log; the end of
  the trouble too, with the count.
"""

from __future__ import annotations

import os
import select
import stat
import threading
import traceback
from collections import deque
from collections.abc import Callable

from halfsync.http.forwarded import Trust
from halfsync.logs.error import log
from halfsync.logs.formats import compile_format
from halfsync.logs.names import Names
from halfsync.logs.sending import send_all
from halfsync.logs.sites import SiteNames
from halfsync.logs.target import Target
from halfsync.wire.messages import LogRecord

Batch = tuple[list[LogRecord], Callable[[], None]]


class AccessLogWriter:
    """`descriptor` is this object's to close; or there is a `target` that is no file. With neither there is
    no access log. Raises ValueError if the format is not one."""

    def __init__(
        self,
        access_logformat: str,
        descriptor: int | None,
        trust: Trust | None = None,
        sites: SiteNames | None = None,
        target: Target | None = None,
        names: Names | None = None,
        spans: Callable[[list[LogRecord]], None] | None = None,
    ) -> None:
        self._render_now = compile_format(access_logformat, trust, sites, names)
        self._names = names
        self._spans = spans
        self._descriptor = descriptor
        self._target = target
        self._next: int | None = None  # to be used from the next batch on
        self._batches: deque[Batch] = deque()
        self._writing = threading.Lock()
        self._dropped = 0
        self._torn = False  # a disk that filled up took half a line

    def __call__(self, records: list[LogRecord], written: Callable[[], None]) -> None:
        """Write them, or leave them to the thread that is writing. `written` is called afterwards, by
        whoever wrote them."""
        self._batches.append((records, written))
        # The second look is for a batch, or a file, that came after the writing thread's last one and before
        # it let go of the lock.
        while (self._batches or self._next is not None) and self._writing.acquire(blocking=False):
            try:
                self._write_batches()
                self._change_file()
            finally:
                self._writing.release()

    def reopen(self, descriptor: int) -> None:
        """Use this descriptor from the next batch on. Any thread may call it, and never waits."""
        with _swapping:
            unused, self._next = self._next, descriptor
        _close(unused)
        if self._writing.acquire(blocking=False):
            try:
                self._change_file()
            finally:
                self._writing.release()

    def _change_file(self) -> None:
        assert self._writing.locked()
        with _swapping:
            descriptor, self._next = self._next, None
        if descriptor is not None:
            _close(self._descriptor)
            self._descriptor = descriptor

    def _write_batches(self) -> None:
        while self._batches:
            records, written = self._batches.popleft()
            try:
                self._change_file()
                if self._spans is not None:
                    self._spans(records)
                if self._descriptor is not None:
                    self._write(self._descriptor, self._render(records), len(records))
                elif self._target is not None:
                    self._send(self._target, records)
            except Exception:  # noqa: BLE001 - a record that can't be rendered is a bug, and no reason to stop
                log("error", f"Error in the access log:\n{traceback.format_exc()}")
            written()

    def _render(self, records: list[LogRecord]) -> bytes:
        """Twice, if there are names to wait for: the first time tells which ones they are."""
        lines = self._render_now(records)
        if self._names is not None and self._names.wait(NAMES_WAIT):
            lines = self._render_now(records)
        return lines

    def _send(self, target: Target, records: list[LogRecord]) -> None:
        lost = send_all(target, records, self._render(records))
        if lost and not self._dropped:
            log(
                "error",
                f"The access log can't be sent to {target.name}: {target.why}. Its records are dropped.",
            )
        if not lost and self._dropped:
            log(
                "warning",
                f"The access log is sent to {target.name} again; {self._dropped} records were dropped.",
            )
        self._dropped = self._dropped + lost if lost else 0

    def _write(self, descriptor: int, lines: bytes, count: int) -> None:
        try:
            self._write_lines(descriptor, b"\n" + lines if self._torn else lines)
        except OSError as error:
            if not self._dropped:
                log("error", f"The access log can't be written: {error.strerror}. Its records are dropped.")
            self._dropped += count
            return
        if self._dropped:
            log("warning", f"The access log is written again; about {self._dropped} records were dropped.")
            self._dropped = 0

    def _write_lines(self, descriptor: int, lines: bytes) -> None:
        """All of it, or OSError."""
        piece = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else len(lines)
        start = 0
        while start < len(lines):
            written = _write_some(descriptor, lines[start : _end_of_line(lines, start, piece)])
            start += written
            if written:
                self._torn = lines[start - 1 : start] != b"\n"


NAMES_WAIT = 5.0
"""Seconds for which a batch of records waits for the names of its clients; then it has addresses."""

_swapping = threading.Lock()


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _end_of_line(lines: bytes, start: int, piece: int) -> int:
    """Up to where from `start` there are whole lines; a line longer than `piece` goes in pieces."""
    if len(lines) - start <= piece:
        return len(lines)
    return lines.rfind(b"\n", start, start + piece) + 1 or start + piece


def _write_some(descriptor: int, data: bytes) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:  # somebody made it non-blocking: standard output may be shared
        select.select([], [descriptor], [])
        return 0
