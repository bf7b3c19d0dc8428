"""What the machine must have, looked at before anything is started: so that what is missing is said once,
by the parent, and not by children that die of it again and again."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec

from halfsync.logs.error import log
from halfsync.parent import trust
from halfsync.parent.privileges import Identity
from halfsync.parent.workers import joins
from halfsync.plan.plan import Kind, PoolPlan, RoutePlan
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.system.folders import absolute
from halfsync.system.temporary_files import temporary_file

PROC = "/proc/self/fd"
PUMPS_OWN = 16
"""Descriptors, beside its listening sockets, PER_WORKER, and its clients (see pump/acceptor.py)."""
PER_WORKER = 3
"""Two channels and the scoreboard, whose descriptor Python's mmap keeps."""
FEWEST_CLIENTS = 4
IN_MEMORY = ("tmpfs", "ramfs")
"""File systems whose files are not on a disk."""


def prepared(settings: Settings, routes: Sequence[RoutePlan], identity: Identity | None) -> Settings:
    """The settings with the folder of temporary files as `spool_dir`, by its absolute name: neither an
    application that changes its current folder, nor one that changes TMPDIR, moves it. Raises SettingError
    if the machine lacks something."""
    check_proc(routes)
    _check_shared_memory()
    try:
        with _acting_as(identity):
            folder = _spool_folder(settings.spool_dir)
            _tell_if_python_is_unreadable()
        tell_of_unreadable(routes, identity)
    except OSError as error:
        raise SettingError(
            f"user and group: this process can't become another user: {error.strerror}."
        ) from None
    _tell_if_in_memory(folder, is_meant=settings.spool_dir is not None)
    return msgspec.structs.replace(settings, spool_dir=folder)


def _acting_as(identity: Identity | None) -> AbstractContextManager[None]:
    return trust.acting_as(identity) if identity is not None and os.geteuid() == 0 else nullcontext()


def _tell_if_python_is_unreadable() -> None:
    """To the user as whom this is called: where root has a Python of its own (/root/.pyenv), others may not
    read it, and every module that was not imported before is missing."""
    try:
        os.stat(os.__file__)
    except PermissionError:
        log(
            "warning",
            f"the user {os.geteuid()}, as whom applications run, may not read Python's own modules in "
            f"{os.path.dirname(os.__file__)}: they will be missing. Install Python where every user can "
            "read it.",
        )
    except OSError:
        pass  # they are in an archive


def check_descriptors(settings: Settings, pools: Sequence[PoolPlan]) -> None:
    """The pump has the most: raised to the hard limit, it must have room for the channels of all workers and
    a few clients. Raises SettingError."""
    workers = sum(pool.most_processes for pool in pools)
    least = PUMPS_OWN + len(settings.bind) + PER_WORKER * workers + FEWEST_CLIENTS
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and limit < least:
        raise SettingError(
            f"Each process may have {limit} files open here (ulimit -n, LimitNOFILE), and with {workers} "
            f"worker processes {least} is the least that works; each client takes one more."
        )


def tell_of_unreadable(routes: Sequence[RoutePlan], identity: Identity | None) -> None:
    """Folders and files that the service's user may not read, though they are there. Raises OSError if this
    process can't become that user."""
    served = {absolute(one.target): one.files.is_file for one in routes if one.kind is Kind.FILES}
    present = [path for path in served if os.path.exists(path)]
    with _acting_as(identity):
        for path in present:
            if not os.access(path, os.R_OK if served[path] else os.X_OK, effective_ids=True):
                log(
                    "warning",
                    f"the user {os.geteuid()}, as whom files are served, may not read {path}: requests for "
                    "it get a 404.",
                )


def check_proc(routes: Sequence[RoutePlan]) -> None:
    """Raises SettingError."""
    """Files are opened through /proc, so that what was checked is what is sent."""
    folders = [route for route in routes if route.kind is Kind.FILES]
    if folders and not os.path.isdir(PROC):
        raise SettingError(
            f"Target {folders[0].target!r}: a folder can't be served, because /proc is not mounted here."
        )


def _check_shared_memory() -> None:
    try:
        pumps, workers = joins.make()
    except OSError as error:
        raise SettingError(
            f"Memory that processes share (memfd_create) or a socket pair can't be made: {error.strerror}."
        ) from None
    for descriptor in (*pumps, *workers):
        os.close(descriptor)


def scoreboard() -> Scoreboard:
    """Raises SettingError."""
    try:
        return Scoreboard()
    except OSError as error:
        raise SettingError(
            f"Memory that processes share can't be made: {error.strerror} (ulimit -v?)."
        ) from None


def _spool_folder(given: str | None) -> str:
    """Where the pump and the workers, as whom this is called, can make temporary files."""
    if given is not None:
        if why := _why_not(given):
            raise SettingError(f"spool_dir: no temporary file can be made in the folder {given!r}: {why}.")
        return os.path.abspath(given)
    failed: list[str] = []
    for folder, origin in _usual_folders():
        if why := _why_not(folder):
            failed.append(f"{folder} ({origin}{why})")
            continue
        if failed:
            log("warning", f"no temporary file can be made in {', '.join(failed)}; they go to {folder}.")
        return os.path.abspath(folder)
    raise SettingError(
        f"No temporary file can be made in {', '.join(failed)}: name a folder with spool_dir or TMPDIR."
    )


def _usual_folders() -> Iterator[tuple[str, str]]:
    """As Python's `tempfile` has them, except for the current folder: uploads have no place beside an
    application's files. With where each comes from."""
    for variable in ("TMPDIR", "TEMP", "TMP"):
        if folder := os.environ.get(variable):
            yield folder, f"{variable}: "
    for folder in ("/tmp", "/var/tmp", "/usr/tmp"):
        yield folder, ""


def _why_not(folder: str) -> str:
    try:
        os.close(temporary_file(folder))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _tell_if_in_memory(folder: str, *, is_meant: bool) -> None:
    """Large bodies are written to files so that they do not take up memory. Many machines have /tmp there."""
    kind = file_system_of(folder)
    if kind in IN_MEMORY:
        log(
            "info" if is_meant else "warning",
            f"temporary files go to {folder}, which is in memory ({kind}), and so do large requests and "
            "responses; to keep them on a disk, name a folder there with spool_dir.",
        )


def file_system_of(folder: str) -> str:
    """Its type: "ext4"; "" if that can't be found out."""
    try:
        device = os.stat(folder).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            lines = mounts.readlines()
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:  # proc_pid_mountinfo(5)
        facts, _, rest = line.partition(" - ")
        if facts.split()[2] == number:
            return rest.split()[0]
    return ""
