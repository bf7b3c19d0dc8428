"""Reads a gunicorn.conf.py for what has a counterpart here.

The file is Python and may do anything, so a Python of its own executes it (`executed_file`), which has none
of this process's descriptors and lives no longer than that: the parent executes no code but its own, neither
at the start nor at a reload. What the file sets comes back as a line of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import tomllib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from halfsync.habits import executed_file
from halfsync.habits.executed_file import HOOK
from halfsync.habits.options import Understood, understand
from halfsync.habits.rows import Effect, Foreign
from halfsync.habits.table import BY_GUNICORN_NAME
from halfsync.settings.errors import SettingError

LONGEST = 30.0
"""Seconds. At a reload the parent waits for it, and replaces no worker meanwhile."""


class GunicornFile(msgspec.Struct):
    """What the file says."""

    path: str
    understood: Understood
    target: str = ""  # its wsgi_app
    refused: list[str] = msgspec.field(default_factory=list)  # sentences; there is no going on with these


def is_gunicorn_file(path: str) -> bool:
    """Whether `-c` means one: gunicorn's own ways of naming it, or a file of Python, whatever its name is.
    Of what may be both, Python and TOML, the name has to say it."""
    if path.endswith(".py") or path.startswith(("python:", "file:")):
        return True
    if path.endswith(".toml"):
        return False
    return _is_python(path) and ("gunicorn" in os.path.basename(path) or not _is_toml(path))


def _is_python(path: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _is_toml(path: str) -> bool:
    try:
        tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True


def read(path: str, environment: Mapping[str, str] = os.environ) -> GunicornFile:
    """With this environment. Raises SettingError if it can't be read, fails, or has a value that means
    nothing."""
    values = _values(path, environment)
    found = GunicornFile(path, Understood())
    for name, value in values.items():
        _understand(BY_GUNICORN_NAME[name], value, found)
    return found


def _understand(row: Foreign, value: Any, found: GunicornFile) -> None:
    where = f"{found.path}: {row.name}"
    if row.does is Effect.HOOK:
        if value == {HOOK: True}:
            found.understood.notes.append(f"{where} is not called: {row.sentence}")
        return
    if row.name == "wsgi_app":
        found.target = str(value or "")
        return
    if not _says_something(row, value):
        return
    texts = [str(one) for one in value] if isinstance(value, list) else [_text(row, value)]
    try:
        for text in texts:
            understand(row, where, text, found.understood)
    except SettingError as wrong:
        found.refused.append(str(wrong))


def _says_something(row: Foreign, value: Any) -> bool:
    """None is gunicorn's word for the default, and what is off need not be told that it has no effect."""
    if row.name == "secure_scheme_headers" and isinstance(value, dict):  # {} says something, too
        return {key.lower(): text for key, text in value.items()} != {"x-forwarded-proto": "https"}
    if value is None or row.name in ("check_config", "print_config", "config"):
        return False
    return bool(value) or row.does is Effect.MEANS


def _text(row: Foreign, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if row.setting in ("umask", "control_socket_mode") and isinstance(value, int):
        return oct(value)
    return str(value)


# --- the file, in a process of its own ---------------------------------------------------------------


def _values(path: str, environment: Mapping[str, str]) -> Mapping[str, Any]:
    """What the file sets of gunicorn's settings, by name."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            pid = _start(path, environment, writing)
        except OSError as error:
            raise SettingError(f"The settings file {path} can't be executed: {error.strerror}.") from None
        finally:
            os.close(writing)
        line = _line(pipe.fileno(), time.monotonic() + LONGEST)
    if line is None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if line is None:
        raise SettingError(f"The settings file {path} did not end within {LONGEST:g} s.")
    if not line.endswith(b"\n"):
        ending = os.waitstatus_to_exitcode(status)
        raise SettingError(f"The settings file {path} ended the process that read it (status {ending}).")
    answer = json.loads(line)
    if "error" in answer:
        raise SettingError(answer["error"])
    values: Mapping[str, Any] = answer["values"]
    return values


def _start(path: str, environment: Mapping[str, str], writing: int) -> int:
    """The process id."""
    # -P: the program's own folder is none to import from.
    command = [sys.executable, "-P", executed_file.__file__, str(writing), path, *BY_GUNICORN_NAME]
    os.set_inheritable(writing, True)
    return os.posix_spawn(sys.executable, command, environment, setsigmask=())


def _line(reading: int, deadline: float) -> bytes | None:
    """What it writes until the end of the line, or until nobody can write any more. None: it took too long.
    (Processes that the file has started may hold the other end for ever.)"""
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            return None
        if not (data := os.read(reading, 65536)):
            break
        line += data
    return line
