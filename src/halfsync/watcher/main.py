"""With `reload`: a process that watches the folders of the code, and the files of the configuration, and
tells the parent what has changed.

The parent does the rest: to it, a change is what SIGHUP is. It starts no worker before this process is
ready, that is, before it watches; and a later watcher tells at first what has changed since the newest
import began. So no change after the first import is missed.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from importlib.util import find_spec

from halfsync import channel
from halfsync.logs.error import log, reopen
from halfsync.plan.plan import Plan
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.system.seen_files import SeenFile, seen
from halfsync.watcher.code import CODE, Filter, folders, forget_compiled, in_words, included_files
from halfsync.watcher.files import SingleFiles
from halfsync.watcher.missed import changed_since
from halfsync.wire.orders import Changed, ErrorLogFile, Failed, Ready, decode_order, encode

LONGEST = 1000
"""Milliseconds for which changes are gathered while more come: an editor, `git checkout` or `pip install`
writes many files. Usually 50 are enough."""


def check(settings: Settings) -> None:
    """Whether the settings for `reload` can be had. Raises SettingError."""
    if not settings.reload:
        return
    for folder in settings.reload_dir:
        if not os.path.isdir(folder):
            raise SettingError(f"reload_dir: there is no folder {folder!r}.")
    if not _has_watchfiles():
        raise SettingError("reload needs the package watchfiles: pip install 'halfsync[reload]'.")


def _has_watchfiles() -> bool:
    try:
        return find_spec("watchfiles") is not None
    except ValueError:  # someone has put another thing in its place
        return False


def run(plan: Plan, imported_since: float | None, orders: socket.socket) -> int:
    """The watcher's whole life; the process's exit status. `imported_since`: when the import of what is
    served began (seconds of the wall clock), or None if that is still to come."""
    from watchfiles import watch  # only here: the parent has no need of it

    settings = plan.settings
    watched = folders(plan)
    wanted = Filter(watched, settings.reload_include, settings.reload_exclude)
    files = (*plan.configuration, *seen(included_files(settings.reload_include)))
    others = [file for file in files if not wanted(None, os.path.realpath(file[0]))]

    def missed() -> list[str]:
        if imported_since is None:
            return []
        return changed_since(imported_since, watched, wanted, included_files(settings.reload_include))

    try:
        for changes in watch(
            *watched,
            watch_filter=wanted,
            debounce=LONGEST,
            stop_event=_Orders(orders, plan, watched, others, missed),
            ignore_permission_denied=True,
        ):
            tell_changed(orders, [path for _, path in changes], plan)
    except (OSError, RuntimeError) as error:  # the latter if it can say no more than what the kernel said
        where, why = ", ".join(watched), str(error).rstrip(".")
        sentence = f"reload: changes in {where} can't be watched: {why}. {_advice(error)}"
        channel.send(orders, encode(Failed(sentence, "")))
        return 3
    return 0


def tell_changed(orders: socket.socket, paths: list[str], plan: Plan) -> None:
    forget_compiled(paths)
    configuration = {os.path.realpath(file) for file, _ in plan.configuration}
    is_configuration = not configuration.isdisjoint(map(os.path.realpath, paths))
    channel.send(orders, encode(Changed(in_words(paths), is_configuration)))


def _what(plan: Plan) -> str:
    """What is watched."""
    files = [in_words([file]) for file, _ in plan.configuration]
    return ", ".join([CODE, *plan.settings.reload_include, *files])


def _advice(error: Exception) -> str:
    if "limit" in str(error):
        return "Name fewer folders (reload_dir), or raise fs.inotify.max_user_watches with sysctl."
    return "Name other folders (reload_dir)."


class _Orders:
    """What watchfiles looks at every 50 milliseconds. The first look comes when it has begun to watch."""

    def __init__(
        self,
        orders: socket.socket,
        plan: Plan,
        watched: list[str],
        others: list[SeenFile],
        missed: Callable[[], list[str]],
    ) -> None:
        """`others`: single files to watch. `missed` finds what changed before."""
        self._poller = select.poll()
        self._poller.register(orders, select.POLLIN)
        self._orders = orders
        self._plan = plan
        self._is_told = False
        self._watched = watched
        self._files = SingleFiles(others)
        self._missed = missed

    def is_set(self) -> bool:
        """The end of the channel says so. The one order is that the error log was opened again."""
        if not self._is_told:
            self._is_told = True
            log("info", f"watching {_what(self._plan)} in {', '.join(self._watched)} (reload).")
            channel.send(self._orders, encode(Ready(os.getpid())))
            if missed := self._missed():
                tell_changed(self._orders, missed, self._plan)
        elif changed := self._files.changed():
            tell_changed(self._orders, changed, self._plan)
        if not self._poller.poll(0):
            return False
        packet = channel.receive(self._orders)
        if packet is None:
            return True
        if isinstance(decode_order(packet[0]), ErrorLogFile) and packet[1]:
            reopen(packet[1][0])
        channel.close_all(packet[1])
        return False
