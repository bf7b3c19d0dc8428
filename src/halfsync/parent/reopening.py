"""USR1: the log files are opened again, because somebody has moved them away.

While a reload is under way that names another access log, both files are open: the old generation's workers
write to one, and those of the next generation will write to the other. Each gets its own.
"""

from __future__ import annotations

import os

from halfsync.logs.error import log
from halfsync.parent.logfiles import AccessLogFile, ErrorLog
from halfsync.parent.reload.reconfigure import Reconfiguration
from halfsync.parent.states import ChildState
from halfsync.parent.tree import Tree
from halfsync.plan.plan import BUILT_IN
from halfsync.wire import orders


class Reopening:
    def __init__(self, tree: Tree, reconfiguration: Reconfiguration, error_log: ErrorLog | None) -> None:
        self._tree = tree
        self._reconfiguration = reconfiguration
        self._error_log = error_log

    def reopen_logs(self, cause: str) -> list[str]:
        """Gives a sentence for each that can't be."""
        wrong = [self._reopen_error_log(cause), self._reopen_access_logs(cause)]
        return [sentence for sentence in wrong if sentence]

    def _reopen_error_log(self, cause: str) -> str:
        if self._error_log is None:
            return ""
        try:
            self._error_log.reopen_in(self._tree.children())
        except OSError as error:
            return _told("error", cause, f"the error log can't be reopened: {error}; the old one stays.")
        _told("info", cause, "the error log is reopened.")
        return ""

    def _reopen_access_logs(self, cause: str) -> str:
        generations = self._tree.pools[BUILT_IN].generations
        found = dict.fromkeys(self._reconfiguration.access_log(one.plan) for one in generations)
        access_logs = [one for one in found if one is not None]
        try:
            for access_log in access_logs:
                self._reopen(access_log)
        except OSError as error:
            return _told("error", cause, f"the access log can't be reopened: {error}; the old one stays.")
        if access_logs:
            _told("info", cause, "the access log is reopened.")
        return ""

    def _reopen(self, access_log: AccessLogFile) -> None:
        access_log.reopen()
        for child in self._tree.pools[BUILT_IN].children:
            if child.access_log is access_log and child.state is not ChildState.KILLED:
                child.order(orders.LogFile(), (os.dup(access_log.fd),))


def _told(level: str, cause: str, sentence: str) -> str:
    """Gives it as a sentence by itself."""
    log(level, f"{cause}: {sentence}")
    return sentence[0].upper() + sentence[1:]
