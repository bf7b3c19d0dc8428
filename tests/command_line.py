"""The command `halfsync`, run many times without the imports that each start begins with.

`command(folder, "app:app", "--check-config")` gives what subprocess.run gives of `python -m halfsync` with
these arguments. Each command is a process of its own, with its own folder, environment and output; but it is
forked from one that has imported the server already, which takes 30 ms of processor time in place of 300. For
commands that check, print or refuse something; servers are started by tests/e2e/harness.py.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

SOURCES = Path(__file__).resolve().parent.parent / "src"
TIMEOUT = 60.0

_launcher: subprocess.Popen[bytes] | None = None


def command(
    folder: Path, *arguments: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Its whole environment is `environment`. Raises TimeoutExpired if it does not end."""
    launcher = _started()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = f"/proc/{os.getpid()}/fd"
        wanted = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment),
            "output": f"{process}/{output.fileno()}",
            "errors": f"{process}/{errors.fileno()}",
        }
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(json.dumps(wanted).encode() + b"\n")
        pid = _number(launcher.stdout)
        if not select.select([launcher.stdout], [], [], TIMEOUT)[0]:
            os.killpg(pid, signal.SIGKILL)
            _number(launcher.stdout)
            raise subprocess.TimeoutExpired(["halfsync", *arguments], TIMEOUT)
        status = _number(launcher.stdout)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(["halfsync", *arguments], status, output.read(), errors.read())


def _number(stream: IO[bytes]) -> int:
    """(Unbuffered, so that what is not read yet can be waited for.)"""
    found: int = struct.unpack("i", stream.read(4))[0]
    return found


def _started() -> subprocess.Popen[bytes]:
    global _launcher
    if _launcher is None:
        _launcher = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        atexit.register(_stop)
    return _launcher


def _stop() -> None:
    if _launcher is not None:
        _launcher.communicate(timeout=TIMEOUT)


# --- the process that the commands are forked from ---------------------------------------------------


def launch() -> None:
    """For each line of standard input a command; its process id and its status are what is printed."""
    del sys.path[0]  # this file's folder
    import halfsync.cli
    import halfsync.parent.main

    halfsync.parent.main.entry_points(None)  # type: ignore[arg-type]
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        os.write(1, struct.pack("i", pid))
        _, status = os.waitpid(pid, 0)
        os.write(1, struct.pack("i", os.waitstatus_to_exitcode(status)))


def _become(wanted: dict[str, Any]) -> NoReturn:
    """The command, in this process."""
    from halfsync.cli import main

    status = 1
    try:
        os.setpgid(0, 0)
        for number, path in enumerate((os.devnull, wanted["output"], wanted["errors"])):
            opened = os.open(path, os.O_RDWR | os.O_APPEND)
            os.dup2(opened, number)
            os.close(opened)
        os.chdir(wanted["folder"])
        os.environ.clear()
        os.environ.update(wanted["environment"])
        sys.argv = sys.orig_argv = ["halfsync", *wanted["arguments"]]
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    launch()
