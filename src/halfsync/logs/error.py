"""The error log: what the server itself has to say, on standard error.

A record is written by one write(2), so records of several processes do not mix:

    2026-11-23 10:00:00.123 +0000 [4711] worker(app:app) WARNING text

Further lines of a text are indented, so that a line which starts with a date starts a record. On a terminal
the level has a colour. Under systemd each line begins with its priority, as in <3> (sd-daemon(3)). With
`log_format` json a record is an object in one line, with the keys time, level, process, pid and message.
(What applications write to standard error stays as they write it.) Or records are sent to syslog or to the
journal; while that is away, standard error has them.

Nothing here raises, and nothing waits long: standard error may be a pipe whose reader has
stopped, and neither the parent nor the pump may hang with it. After `WRITE_TIMEOUT_MS` a record is
dropped, the next ones at once, and how many were is said when there is room again.

An application may close descriptor 2, or put another file there, and the next file or socket that it
opens may get that number. So the server writes to a duplicate of its own, with a high number, and only
while that is still the file that it was at the start.
"""

from __future__ import annotations

import fcntl
import resource
import sys
import traceback

import msgspec

from halfsync.logs.journal import Journal
from halfsync.logs.syslog import OF_LEVELS
from halfsync.logs.target import Target
from halfsync.system.primitives import os, select, threading, time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

WRITE_TIMEOUT_MS = 200
"""How long a record may wait for a full pipe, if the one before it found room."""

_PIECE = select.PIPE_BUF
"""A pipe that polls writable takes this many bytes without blocking (pipe(7))."""

HIGH = 250
"""The log's descriptor is this or the next free one. Low numbers are what programs close or replace by
number; a table of descriptors has room for 256 of them without growing (in steps of its size)."""

STANDARD_ERROR = 2

JSON = "json"
"""A value of `log_format`."""

_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
"""By level: parameters of the escape sequence (ECMA-48 8.3.117) for faint, yellow, red, bold and red."""

_process = "parent"
_is_json = False
_is_coloured = False
_is_journal = False  # standard error is a stream of the journal's
_target_instead: Target | None = None  # syslog or the journal, in place of a file
_astray = 0  # records that went to standard error, because that was away
_least = LEVELS["info"]
_dropped = 0
_descriptor = STANDARD_ERROR
_Identity = tuple[int, int]  # device and inode
_identities: list[_Identity | None] = []  # of what `_descriptor` must be, one of these; empty: unchecked
_person = -1  # standard error as it was at the start, if the log is elsewhere

_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), 127] if chr(code) not in "\t\n"}
_CONTROLS[ord("\n")] = "\n    "


def be(process: str, level: str, log_format: str = "text") -> None:
    """Say who this process is in its records, from which level on they are written, and how."""
    global _process, _least, _is_json, _dropped, _astray
    _process, _least, _is_json, _dropped, _astray = process, LEVELS[level], log_format == JSON, 0, 0


def keep_descriptor() -> None:
    """Log to a duplicate of what standard error is now, whatever becomes of descriptor 2. To be called
    before there are other processes and before any application is imported."""
    global _descriptor, _is_coloured, _is_journal
    _is_coloured = _shows_colours()
    _is_journal = _goes_to_journal()
    if _descriptor != STANDARD_ERROR:
        os.close(_descriptor)
    _descriptor = _duplicate()
    _identities[:] = [_identity_of(STANDARD_ERROR)]


def _shows_colours() -> bool:
    """Whether standard error is a terminal that does, and nobody has asked for none (https://no-color.org)."""
    environment = os.environ
    return (
        os.isatty(STANDARD_ERROR)
        and not environment.get("NO_COLOR")
        and environment.get("TERM", "") not in ("", "dumb")
    )


def _goes_to_journal() -> bool:
    """systemd.exec(5): JOURNAL_STREAM has the device and inode of what it has connected."""
    identity = _identity_of(STANDARD_ERROR)
    return identity is not None and os.environ.get("JOURNAL_STREAM") == f"{identity[0]}:{identity[1]}"


def begin_target(target: Target) -> None:
    """Send the log there. While it is away, standard error has it."""
    global _target_instead
    _target_instead = target


def begin_file(descriptor: int) -> None:
    """Have the log in this file, in place of standard error: before `keep_descriptor`. `tell` still reaches
    the person who started us, until there are other processes."""
    global _person
    _person = fcntl.fcntl(STANDARD_ERROR, fcntl.F_DUPFD_CLOEXEC, STANDARD_ERROR + 1)
    os.dup2(descriptor, STANDARD_ERROR)


def reopen(descriptor: int) -> None:
    """The log's file was opened again, and this is it. It takes the old one's place, also where
    applications write to standard error, unless they have put something else there."""
    old, new = list(_identities), _identity_of(descriptor)
    _identities[:] = [*old, new]  # in between both are the log: no record of another thread's is lost
    for number in {_descriptor, STANDARD_ERROR}:
        if _identity_of(number) in old:
            os.dup2(descriptor, number, inheritable=number == STANDARD_ERROR)
    _identities[:] = [new]


def descriptor() -> int:
    """The one that is written to: children keep it."""
    return _descriptor


def log(level: str, text: str) -> None:
    """Write one record. `level` is one of LEVELS. Never raises."""
    global _dropped
    if LEVELS[level] < _least:
        return
    if _target_instead is not None and _send(_target_instead, level, text):
        return
    said = f"(and {_dropped} earlier records that found no room) {text}" if _dropped else text
    if _write(_record(level, said)):
        _dropped = 0
    else:
        _dropped += 1


def _send(target: Target, level: str, text: str) -> bool:
    global _astray
    locked = _one_at_a_time.acquire(timeout=WRITE_TIMEOUT_MS / 1000)
    if not locked:
        return False
    try:
        said = f"(and {_astray} earlier records that went to standard error) {text}" if _astray else text
        if _send_now(target, level, said.rstrip("\n")):
            _astray = 0
            return True
        _astray += 1
    except Exception:  # noqa: BLE001 - nothing here raises
        return False
    finally:
        _one_at_a_time.release()
    if _astray == 1:
        why = f"The error log can't be sent to {target.name}: {target.why}. Here it is until it can."
        _write(_record("error", why))
    return False


def _send_now(target: Target, level: str, text: str) -> bool:
    if isinstance(target, Journal):
        fields = {"HALFSYNC_LOG": "error", "HALFSYNC_PROCESS": _process}
        return target.send(f"{_process} {text}", OF_LEVELS[level], fields=fields)
    shown = f"{_process} {level.upper()} {text}"
    if _is_json:
        shown = _record(level, text).decode("utf-8", "backslashreplace")
    return target.send(shown, OF_LEVELS[level])


def failure(*, skip: int = 0) -> str:
    """The traceback of the exception that is being handled, without `skip` frames at the top, unless there
    are no others. Never raises, whatever the application has done to the interpreter: set a recursion
    limit of 50, or taken away a builtin that the formatting needs."""
    try:
        kind, error, trace = sys.exc_info()
        for _ in range(skip):
            trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
        return "".join(traceback.format_exception(kind, error, trace))
    except BaseException:  # noqa: BLE001
        pass
    kind = sys.exc_info()[0]
    return f"{kind.__name__ if kind is not None else None} (its traceback can't be shown)"


def write_through(lines: str) -> None:
    """Write whole lines of an application's as they are, among the records. Never raises."""
    global _dropped
    if _target_instead is not None and _send(_target_instead, "warning", lines):
        return
    if _dropped:
        log("warning", "there is room again.")  # (and says how much was dropped)
    if not _write(lines.encode("utf-8", "backslashreplace")):
        _dropped += 1


def tell(text: str) -> None:
    """To the person who started us: as it is, without a date. Never raises."""
    if _person >= 0:
        _tell_both(text + "\n")
        return
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def _tell_both(text: str) -> None:
    """The person, and the log: who comes later looks there."""
    for descriptor in (_person, STANDARD_ERROR):
        try:
            os.write(descriptor, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass


class _Object(msgspec.Struct):
    """A record as JSON has it."""

    time: str
    level: str
    process: str
    pid: int
    message: str


def _record(level: str, text: str) -> bytes:
    now = time.time()
    milliseconds = f"{int(now * 1000) % 1000:03d}"
    text = text.rstrip("\n")
    if _is_json:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{milliseconds}Z"
        text = text.encode("utf-8", "backslashreplace").decode()  # lone surrogates are no JSON
        return _marked(level, msgspec.json.encode(_Object(stamp, level, _process, os.getpid(), text)) + b"\n")
    local = time.localtime(now)
    head = time.strftime("%Y-%m-%d %H:%M:%S", local) + f".{milliseconds}"
    zone = time.strftime("%z", local)
    shown = level.upper()
    if _is_coloured and shown in _COLOURS:
        shown = f"\x1b[{_COLOURS[shown]}m{shown}\x1b[0m"
    line = f"{head} {zone} [{os.getpid()}] {_process} {shown} {text.translate(_CONTROLS)}\n"
    return _marked(level, line.encode("utf-8", "backslashreplace"))


def _marked(level: str, record: bytes) -> bytes:
    """For the journal, to which each line is an entry."""
    if not _is_journal:
        return record
    mark = b"<%d>" % OF_LEVELS[level]
    return mark + record[:-1].replace(b"\n", b"\n" + mark) + b"\n"


_one_at_a_time = threading.Lock()
os.register_at_fork(after_in_child=_one_at_a_time._at_fork_reinit)  # type: ignore[attr-defined]


def _write(record: bytes) -> bool:
    """True if it was written, or can never be. A long record is written in pieces, and no other thread's
    comes between them, unless that takes too long (or a signal handler of the application logs in the midst
    of a write)."""
    target = _target()
    if target < 0:
        return True
    locked = _one_at_a_time.acquire(timeout=10 * WRITE_TIMEOUT_MS / 1000)
    try:
        while record:
            if not _room(target):
                return False
            record = record[os.write(target, record[: _largest(record)]) :]
    except BlockingIOError:
        return False
    except OSError:  # nobody reads standard error any more: there is no one to tell
        return True
    finally:
        if locked:
            _one_at_a_time.release()
    return True


def _target() -> int:
    """A descriptor that is certainly the log; -1 if there is none any more."""
    if not _identities:
        return STANDARD_ERROR
    for candidate in (_descriptor, STANDARD_ERROR):
        if _identity_of(candidate) in _identities:
            return candidate
    return -1


def _identity_of(descriptor: int) -> _Identity | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _duplicate() -> int:
    """Of standard error, closed at exec, with a number as high as is sensible and allowed."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    highest = HIGH if limit == resource.RLIM_INFINITY else min(HIGH, limit - 1)
    for least in (highest, highest // 2, STANDARD_ERROR + 1):
        try:
            return fcntl.fcntl(STANDARD_ERROR, fcntl.F_DUPFD_CLOEXEC, least)
        except (OSError, ValueError):
            pass  # none is free from there on
    return STANDARD_ERROR


def _room(target: int) -> bool:
    poller = select.poll()
    poller.register(target, select.POLLOUT)
    return bool(poller.poll(0 if _dropped else WRITE_TIMEOUT_MS))


def _largest(record: bytes) -> int:
    """Up to a piece, ended at a line's end if there is one."""
    if len(record) <= _PIECE:
        return len(record)
    return record.rfind(b"\n", 0, _PIECE) + 1 or _PIECE
