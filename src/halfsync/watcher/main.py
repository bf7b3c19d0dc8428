"""With `reload`: a process that watches the folders of the code and tells the parent what has changed.

The parent does the rest: to it, a change is what SIGHUP is. It starts no worker before this process is
ready, that is, before it watches: so no change after the first import is missed.
"""

from __future__ import annotations

import os
import select
import socket
from importlib.util import find_spec

from halfsync import channel
from halfsync.logs.error import log, reopen
from halfsync.plan import Plan
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.watcher.code import CODE, Filter, folders, forget_compiled, in_words
from halfsync.wire.messages import Changed, ErrorLogFile, Failed, Ready, decode_order, encode

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


def run(plan: Plan, orders: socket.socket) -> int:
    """The watcher's whole life; the process's exit status."""
    from watchfiles import watch  # only here: the parent has no need of it

    settings = plan.settings
    watched = folders(plan)
    wanted = Filter(watched, settings.reload_include, settings.reload_exclude)
    try:
        for changes in watch(
            *watched,
            watch_filter=wanted,
            debounce=LONGEST,
            stop_event=_Orders(orders, watched, settings),
            ignore_permission_denied=True,
        ):
            paths = [path for _, path in changes]
            forget_compiled(paths)
            channel.send(orders, encode(Changed(in_words(paths))))
    except (OSError, RuntimeError) as error:  # the latter if it can say no more than what the kernel said
        where, why = ", ".join(watched), str(error).rstrip(".")
        sentence = f"reload: changes in {where} can't be watched: {why}. {_advice(error)}"
        channel.send(orders, encode(Failed(sentence, "")))
        return 3
    return 0


def _advice(error: Exception) -> str:
    if "limit" in str(error):
        return "Name fewer folders (reload_dir), or raise fs.inotify.max_user_watches with sysctl."
    return "Name other folders (reload_dir)."


class _Orders:
    """What watchfiles looks at every 50 milliseconds. The first look comes when it has begun to watch."""

    def __init__(self, orders: socket.socket, watched: list[str], settings: Settings) -> None:
        self._poller = select.poll()
        self._poller.register(orders, select.POLLIN)
        self._orders = orders
        self._is_told = False
        self._what = ", ".join([CODE, *settings.reload_include])
        self._where = ", ".join(watched)

    def is_set(self) -> bool:
        """The end of the channel says so. The one order is that the error log was opened again."""
        if not self._is_told:
            self._is_told = True
            log("info", f"watching {self._what} in {self._where} (reload).")
            channel.send(self._orders, encode(Ready(os.getpid())))
        if not self._poller.poll(0):
            return False
        packet = channel.receive(self._orders)
        if packet is None:
            return True
        if isinstance(decode_order(packet[0]), ErrorLogFile) and packet[1]:
            reopen(packet[1][0])
        channel.close_all(packet[1])
        return False
