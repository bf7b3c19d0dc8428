"""The log files' descriptors: the parent opens them, because only it may still be allowed to."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from halfsync.logs import error
from halfsync.logs.target import is_target
from halfsync.parent import trust
from halfsync.parent.privileges import Identity
from halfsync.parent.shortages import in_words
from halfsync.parent.states import ChildState
from halfsync.parent.workers.children import Child
from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings
from halfsync.wire.orders import ErrorLogFile

STANDARD_OUTPUT = "-"


class AccessLogFile:
    """The open file. `fd` changes when it is reopened."""

    setting = "access_logfile"

    def __init__(self, path: str, identity: Identity | None = None) -> None:
        """`identity`: whom the service runs as, if not as this process: see `trust`.

        Raises SettingError if it can't be opened for writing."""
        self._identity = identity
        try:
            self._path = path if path == STANDARD_OUTPUT else os.path.abspath(path)
            self.fd = self._open()
        except OSError as wrong:
            why = f"{in_words(wrong)}{trust.note(path, identity)}"
            raise SettingError(f"{self.setting}: the file {path} can't be written: {why}.") from None

    def close(self) -> None:
        os.close(self.fd)

    def reopen(self) -> None:
        """Open the path again, after somebody moved the file. On OSError the old one stays."""
        try:
            fresh = self._open()
        except OSError as wrong:
            why = f"{in_words(wrong)}{trust.note(self._path, self._identity)}"
            raise OSError(wrong.errno, why) from None
        os.close(self.fd)
        self.fd = fresh

    def _open(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return os.dup(1)
        # Without O_NONBLOCK, opening a named pipe that nobody reads would wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with trust.rights_for(self._path, self._identity):
            fd = os.open(self._path, flags, 0o644)
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is a disk")
        os.set_blocking(fd, True)
        return fd


def access_log_of(settings: Settings, identity: Identity | None) -> AccessLogFile | None:
    """None: there is none, or it is no file. Raises SettingError."""
    path = settings.access_logfile
    return None if not path or is_target(path) else AccessLogFile(path, identity)


class ErrorLog(AccessLogFile):
    """The error log, if it is a file: it takes standard error's place in every process."""

    setting = "error_logfile"

    def begin(self) -> None:
        """Before there are other processes."""
        error.begin_file(self.fd)
        error.keep_descriptor()

    def reopen_in(self, children: Iterable[Child]) -> None:
        """Open the path again, here and in all children. On OSError the old one stays."""
        self.reopen()
        error.reopen(self.fd)
        for child in children:
            if child.state is not ChildState.KILLED:
                child.order(ErrorLogFile(), (os.dup(self.fd),))
