"""The error log: what the server itself has to say, on standard error.

A record is written by one write(2), so records of several processes do not mix:

    2026-11-23 10:00:00.123 +0000 [4711] worker(app:app) WARNING text

Further lines of a text are indented, so that a line which starts with a date starts a record.

Nothing here raises, and nothing waits long: standard error may be a pipe whose reader has
stopped, and neither the parent nor the pump may hang with it. After `PATIENCE_MS` a record is
dropped, the next ones at once, and how many were is said when there is room again.
"""

from __future__ import annotations

import os
import select
import sys
import time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

PATIENCE_MS = 200
"""How long a record may wait for a full pipe, if the one before it found room."""

_PIECE = select.PIPE_BUF
"""A pipe that polls writable takes this many bytes without blocking (pipe(7))."""

_process = "parent"
_least = LEVELS["info"]
_dropped = 0

_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), 127] if chr(code) not in "\t\n"}
_CONTROLS[ord("\n")] = "\n    "


def be(process: str, level: str) -> None:
    """Say who this process is in its records, and from which level on they are written."""
    global _process, _least, _dropped
    _process, _least, _dropped = process, LEVELS[level], 0


def log(level: str, text: str) -> None:
    """Write one record. `level` is one of LEVELS. Never raises."""
    global _dropped
    if LEVELS[level] < _least:
        return
    said = f"(and {_dropped} earlier records that found no room) {text}" if _dropped else text
    if _write(_record(level, said)):
        _dropped = 0
    else:
        _dropped += 1


def tell(text: str) -> None:
    """To the person who started us: as it is, without a date. Never raises."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def _record(level: str, text: str) -> bytes:
    now = time.time()
    local = time.localtime(now)
    head = time.strftime("%Y-%m-%d %H:%M:%S", local) + f".{int(now * 1000) % 1000:03d}"
    zone = time.strftime("%z", local)
    body = text.rstrip("\n").translate(_CONTROLS)
    line = f"{head} {zone} [{os.getpid()}] {_process} {level.upper()} {body}\n"
    return line.encode("utf-8", "backslashreplace")


def _write(record: bytes) -> bool:
    """True if it was written, or can never be."""
    try:
        while record:
            if not _room():
                return False
            record = record[os.write(2, record[: _largest(record)]) :]
    except BlockingIOError:
        return False
    except OSError:  # nobody reads standard error any more: there is no one to tell
        return True
    return True


def _room() -> bool:
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    return bool(poller.poll(0 if _dropped else PATIENCE_MS))


def _largest(record: bytes) -> int:
    """Up to a piece, ended at a line's end if there is one."""
    if len(record) <= _PIECE:
        return len(record)
    return record.rfind(b"\n", 0, _PIECE) + 1 or _PIECE
