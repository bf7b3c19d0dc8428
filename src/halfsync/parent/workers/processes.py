"""Making a process: fork(2), and what a child does before it is itself.

A child begins as a copy of the parent, and must keep nothing of it by accident. In this order:

 1. Signals: all are blocked across the fork, so that none is handled by the parent's handlers in
    the child; the child resets them and only then lets them in.
 2. Descriptors: all are closed but 0, 1, 2, the error log's and those it is given. One stray copy of a
    channel's other end would keep that channel from ever showing its end.
 3. Privileges are dropped.
 4. It is tied to the parent's life: the kernel kills it when the parent ends (the belt), and it
    sees the end of its orders channel (the braces).

It never returns into the parent's code: whatever happens, it ends in os._exit.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn

import msgspec

from halfsync import channel
from halfsync.logs import error
from halfsync.parent import privileges, signals
from halfsync.parent.forking import Mask, forked
from halfsync.parent.workers import oom
from halfsync.system import early_signals, prctl
from halfsync.system.command_line import CommandLine
from halfsync.wire import upgrade

FAILED = 1
"""Exit status of a child whose entry point raised."""


ENOUGH_DESCRIPTORS = 1_048_576
"""The kernel's own default for the most that a process may ask for (fs.nr_open)."""


class Start(msgspec.Struct, frozen=True):
    """What a new process is, and what it may keep."""

    name: str  # in the log: "pump", "worker(app:app)"
    title: str  # in ps and top
    entry: Callable[[], int]  # gives the exit status
    keep: Collection[int]  # descriptors beside 0, 1 and 2
    identity: privileges.Identity | None
    log_level: str
    log_format: str
    gains_no_privileges: bool = True
    umask: int | None = None
    oom_score: int = 0  # see oom.py
    imports: Collection[str] = ()  # Python's modules, which `identity` need not be able to read


def fork(start: Start) -> int:
    """Start it. Gives its process id. Raises OSError if the machine has no room for it."""
    parent = os.getpid()
    _flush()  # or what waits in the streams' buffers would be written twice
    return forked(lambda mask: _child_main(start, parent, mask))


def execute(
    command: CommandLine, environment: Mapping[str, str], keep: Collection[int], told: socket.socket
) -> int:
    """Start a program that is to outlive this process, with these descriptors. Gives its process id. Raises
    OSError; what is wrong with the program is said by `told`, as upgrade.CantStart."""
    _flush()
    return forked(lambda _mask: _execute(command, environment, keep, told))


def _execute(
    command: CommandLine, environment: Mapping[str, str], keep: Collection[int], told: socket.socket
) -> NoReturn:
    what = command.folder
    try:
        signals.reset_for_program()
        close_all_but(keep)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        os.chdir(command.folder)
        what = command.program
        resource.setrlimit(resource.RLIMIT_NOFILE, command.descriptor_limits)
        # Those that it holds back at first, so that none is lost; the others as everywhere.
        signal.pthread_sigmask(signal.SIG_SETMASK, early_signals.HELD)
        os.execve(command.program, command.arguments, environment)
    except OSError as wrong:
        channel.send(told, upgrade.encode(upgrade.CantStart([f"{what}: {wrong.strerror}."])))
    finally:
        os._exit(NOT_EXECUTED)


NOT_EXECUTED = 127
"""As a shell has it."""


def _child_main(start: Start, parent: int, mask: Mask) -> NoReturn:
    status = FAILED
    try:
        signals.reset_in_child()
        error.be(start.name, start.log_level, start.log_format)
        close_all_but([*start.keep, error.descriptor()])
        if start.oom_score:
            oom.be_killed_sooner(start.oom_score)
        if start.identity is not None:
            with contextlib.suppress(ImportError):  # told when it is needed
                for module in start.imports:
                    importlib.import_module(module)
            privileges.drop(start.identity)
        if start.gains_no_privileges:
            prctl.gain_no_privileges()
        if start.umask is not None:
            os.umask(start.umask)
        prctl.die_with(parent)
        prctl.be_called(start.title)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = start.entry()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - it must be logged, and must not reach the parent's frames
        error.log("error", "ended by a bug: " + traceback.format_exc())
    finally:
        _flush()
        os._exit(status & 0xFF)


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor but 0, 1, 2 and `keep`, a range between two kept ones at a time."""
    kept = sorted(fd for fd in keep if fd > 2)
    highest = _highest_descriptor()
    for low, high in zip([2, *kept], [*kept, highest + 1], strict=True):
        os.closerange(low + 1, high)


def _highest_descriptor() -> int:
    try:
        return max(map(int, os.listdir("/proc/self/fd")))
    except OSError:  # no /proc: as many as it may have, now that the parent has raised its limit
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return min(limit, ENOUGH_DESCRIPTORS) if limit != resource.RLIM_INFINITY else ENOUGH_DESCRIPTORS


def make_importable(folder: str | None, more: Sequence[str] = ()) -> None:
    """In a child that runs an application: its modules are found in `more` first (relative paths start in
    `folder`), then in `folder`."""
    if folder is None:
        return
    for one in (folder, *(os.path.join(folder, one) for one in reversed(more))):
        if one in sys.path:
            sys.path.remove(one)
        sys.path.insert(0, one)


def title(name: str, role: str) -> str:
    """What ps and top show: as much of the name as the kernel's 15 bytes have room for beside the role."""
    room = 15 - len(role) - 1
    return f"{name.encode()[:room].decode('utf-8', 'ignore')} {role}"


def raise_descriptor_limit() -> None:
    """In the pump: as many descriptors as this machine allows it, for as many connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most > ENOUGH_DESCRIPTORS:
        most = ENOUGH_DESCRIPTORS
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    except (OSError, ValueError):
        pass


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # full, closed, or None
            pass


def how_it_ended(status: int) -> str:
    """A wait status in words: "was killed by SIGKILL", "exited with status 1"."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" and dumped core" if os.WCOREDUMP(status) else "")
