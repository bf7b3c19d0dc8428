"""Reads a gunicorn.conf.py for what has a counterpart here.

The file is Python and may do anything, so it is executed in a child process that lives no longer than that:
the parent executes no code but its own. What it defines comes back as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from halfsync.habits.options import Understood, understand
from halfsync.habits.rows import Does, Foreign
from halfsync.habits.table import BY_GUNICORN_NAME
from halfsync.settings.errors import SettingError

HOOK = "hook"


@dataclass
class GunicornFile:
    """What the file says."""

    path: str
    understood: Understood
    target: str = ""  # its wsgi_app
    refused: list[str] = field(default_factory=list)  # sentences; there is no going on with these


def is_gunicorn_file(path: str) -> bool:
    """Whether `-c` means one: gunicorn's own ways of naming it, or any Python file."""
    return path.endswith(".py") or path.startswith(("python:", "file:"))


def read(path: str) -> GunicornFile:
    """Raises SettingError if it can't be read, fails, or has a value that means nothing."""
    values = _values(path)
    found = GunicornFile(path, Understood())
    for name, value in values.items():
        _understand(BY_GUNICORN_NAME[name], value, found)
    return found


def _understand(row: Foreign, value: Any, found: GunicornFile) -> None:
    where = f"{found.path}: {row.name}"
    if row.does is Does.HOOK:
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
    if value is None or row.name in ("check_config", "print_config", "config"):
        return False
    return bool(value) or row.does is Does.MEANS


def _text(row: Foreign, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if row.setting == "umask" and isinstance(value, int):
        return oct(value)
    return str(value)


# --- the file, in a process of its own ---------------------------------------------------------------


def _values(path: str) -> Mapping[str, Any]:
    """What the file sets of gunicorn's settings, by name."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _execute(path, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if not said:
        ending = os.waitstatus_to_exitcode(status)
        raise SettingError(f"The settings file {path} ended the process that read it (status {ending}).")
    answer = json.loads(said)
    if "error" in answer:
        raise SettingError(answer["error"])
    values: Mapping[str, Any] = answer["values"]
    return values


def _execute(path: str, writing: int) -> NoReturn:
    """In the child."""
    try:
        answer: dict[str, Any] = {"values": _namespace(path)}
    except OSError as error:
        answer = {"error": f"The settings file {path} can't be read: {error.strerror or error}."}
    except BaseException as error:  # noqa: BLE001 - whatever the file raises is told
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f" in line {where.lineno}" if where.filename == _file_of(path) else ""
        answer = {"error": f"The settings file {path} failed{line} with {type(error).__name__}: {error}."}
    try:
        sys.stdout.flush()
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def _file_of(path: str) -> str:
    return os.path.abspath(path.removeprefix("file:"))


def _namespace(path: str) -> dict[str, Any]:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    if path.startswith("python:"):
        name = path.removeprefix("python:")
        __import__(name)
        found = vars(sys.modules[name])
    else:
        file = _file_of(path)
        found = {"__name__": "__config__", "__file__": file}
        exec(compile(Path(file).read_bytes(), file, "exec"), found)
    return {name: _plain(value) for name, value in found.items() if name in BY_GUNICORN_NAME}


def _plain(value: Any) -> Any:
    """As JSON can say it."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, type):  # worker_class may be the class itself
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, dict):
        return {str(key): str(one) for key, one in value.items()}
    return {HOOK: True} if callable(value) else str(value)
