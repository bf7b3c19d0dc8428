"""Processes of this package without the imports that each start begins with: they are forked from one that
has imported the server already. To start and stop a server takes 0.2 s of processor time so, in place of 0.7.

`launch(...)` gives what is needed of a subprocess.Popen. Each process has its own folder, environment and
standard streams, and nothing else that is open; what the interpreter reads when it starts (PYTHONHASHSEED,
the locale, the time zone) is the launcher's. Its parent is the launcher, which reaps it when it is asked for
the status.

A process is found by its environment in /proc (see faults/tree.py), which shows what stood there when the
interpreter started. So the launcher has a variable MARK of the right length, whose bytes are written over.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "src"
APPS = HERE / "e2e/apps"
TRANSPORTS = HERE / "pump/transports.py"
PATHS = (str(SOURCES), str(APPS))
MARK = "HALFSYNC_STORY"
_MOST = 1 << 20  # bytes of a request: an environment is the largest thing in it


class Launched:
    """A process that was started. Its names are those of subprocess.Popen."""

    def __init__(self, launcher: _Launcher, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._launcher = launcher
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None and _readable(self._descriptor, 0):
            self.returncode = self._launcher.ask({"reap": self.pid})
            os.close(self._descriptor)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            _readable(self._descriptor, timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _readable(descriptor: int, seconds: float | None) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))


def launch(
    arguments: Sequence[str],
    *,
    folder: str | os.PathLike[str],
    environment: Mapping[str, str],
    output: int,
    errors: int,
    own_group: bool = False,
    transport: str | None = None,
) -> Launched:
    """`python` with these arguments: `-m module ...`, or a script and what follows. Its standard input is
    empty. `own_group`: it begins a process group. `transport`: its servers have that one of
    pump/transports.py."""
    return _launcher().start(
        {
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment),
            "own_group": own_group,
            "transport": transport,
        },
        (output, errors),
    )


class _Launcher:
    """This end of the connection with the process that forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
        inherited = {key: one for key, one in os.environ.items() if not key.startswith("HALFSYNC_")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join(PATHS),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    MARK: uuid.uuid4().hex,
                },
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, wanted: dict[str, Any], descriptors: tuple[int, int]) -> Launched:
        pid = self.ask(wanted, descriptors)
        assert pid is not None
        return Launched(self, pid)

    def ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(100)
        assert answer, "the launcher has ended"
        return int(answer)

    def stop(self) -> None:
        self._socket.close()
        self._process.wait(60)


_started: _Launcher | None = None


def _launcher() -> _Launcher:
    global _started
    if _started is None:
        _started = _Launcher()
        atexit.register(_started.stop)
    return _started


# --- the process that the others are forked from -----------------------------------------------------


class _Marker:
    """The bytes of MARK that /proc/self/environ shows."""

    def __init__(self) -> None:
        find = ctypes.CDLL(None).getenv
        find.restype = ctypes.c_void_p
        self._own = os.environ[MARK].encode()
        self._place = find(MARK.encode())

    def set(self, value: str | None) -> None:
        """To the launcher's own if there is none."""
        data = value.encode() if value is not None else self._own
        assert len(data) == len(self._own)
        ctypes.memmove(self._place, data, len(data))


def serve(connection: socket.socket) -> None:
    """Until nobody asks any more."""
    import halfsync.commands.cli
    import halfsync.parent.main

    halfsync.parent.main.entry_points(None)  # type: ignore[arg-type]
    marker = _Marker()
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, _MOST, 2)
        if not data:
            return
        request = json.loads(data)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            connection.send(b"%d" % os.waitstatus_to_exitcode(status))
            continue
        marker.set(request["environment"].get(MARK))
        pid = os.fork()
        if pid == 0:
            connection.close()
            end(become, request, descriptors)
        marker.set(None)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(b"%d" % pid)


def end(run: Callable[[dict[str, Any], list[int]], None], *arguments: Any) -> NoReturn:
    """As the interpreter ends a process; but it does not tear down each object that it shares with the
    launcher, which takes 100 ms of processor time in place of 10."""
    status = 0
    try:
        run(*arguments)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def become(wanted: dict[str, Any], descriptors: list[int]) -> None:
    """What `python` becomes with these arguments, in this process."""
    if wanted["own_group"]:
        os.setpgid(0, 0)
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    arguments = wanted["arguments"]
    sys.orig_argv = [sys.executable, *arguments]
    _note_the_start()
    if wanted["transport"] is not None:
        runpy.run_path(str(TRANSPORTS))["install"](wanted["transport"])
    if arguments[0] == "-m":
        sys.argv = ["-m", *arguments[2:]]
        sys.path.insert(0, wanted["folder"])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = list(arguments)
    sys.path.insert(0, os.path.dirname(arguments[0]))
    runpy.run_path(arguments[0], run_name="__main__")


def _note_the_start() -> None:
    """What the server notes when it is imported."""
    import time

    import halfsync.parent.status.overview

    vars(halfsync.parent.status.overview)["_STARTED"] = time.monotonic()


if __name__ == "__main__":
    del sys.path[0]  # this file's folder
    with socket.socket(fileno=int(sys.argv[1])) as _connection:
        serve(_connection)
