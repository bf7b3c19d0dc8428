"""The access log's descriptor: the parent opens it, because only it may still be allowed to."""

from __future__ import annotations

import os

from halfsync.settings import SettingError

STANDARD_OUTPUT = "-"


class AccessLog:
    """The open file. `fd` changes when it is reopened."""

    def __init__(self, path: str) -> None:
        """Raises SettingError if it can't be opened for writing."""
        self._path = path if path == STANDARD_OUTPUT else os.path.abspath(path)
        try:
            self.fd = self._open()
        except OSError as error:
            raise SettingError(
                f"access_logfile: the file {path} can't be written: {error.strerror}."
            ) from None

    def reopen(self) -> None:
        """Open the path again, after somebody moved the file. On OSError the old one stays."""
        fresh = self._open()
        os.close(self.fd)
        self.fd = fresh

    def _open(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return os.dup(1)
        # Without O_NONBLOCK, opening a named pipe that nobody reads would wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(self._path, flags, 0o644)
        os.set_blocking(fd, True)
        return fd
