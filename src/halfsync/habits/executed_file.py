"""Executes a gunicorn.conf.py, and writes what it sets as a line of JSON. A program: see `gunicorn`.

    python executed_file.py DESCRIPTOR PATH NAME...

It imports nothing of halfsync's, for the folder of the file comes first on its path.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

HOOK = "hook"
"""A value {"hook": true} stands for a function."""


def file_of(path: str) -> str:
    """The file that `-c` names: gunicorn has it also as file:PATH."""
    return os.path.abspath(path.removeprefix("file:"))


def main(writing: int, path: str, names: list[str]) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the server holds some back while it starts
    try:
        answer: dict[str, Any] = {"values": _namespace(path, names)}
    except OSError as error:
        answer = {"error": f"The settings file {path} can't be read: {error.strerror or error}."}
    except BaseException as error:  # noqa: BLE001 - whatever the file raises is told
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f" in line {where.lineno}" if where.filename == file_of(path) else ""
        answer = {"error": f"The settings file {path} failed{line} with {type(error).__name__}: {error}."}
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)  # whatever threads and exit functions the file has left


def _namespace(path: str, known: list[str]) -> dict[str, Any]:
    sys.path.insert(0, os.getcwd())
    if path.startswith("python:"):
        name = path.removeprefix("python:")
        __import__(name)
        found = vars(sys.modules[name])
    else:
        file = file_of(path)
        found = {"__name__": "__config__", "__file__": file}
        exec(compile(Path(file).read_bytes(), file, "exec"), found)
    return {name: _plain(value) for name, value in found.items() if name in known}


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


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
