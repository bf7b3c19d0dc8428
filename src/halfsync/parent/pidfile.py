"""The file with the parent's process id.

It is locked (flock(2)) as long as the parent lives, so a file that a killed server left behind
never keeps the next one from starting, whoever has its number now.
"""

from __future__ import annotations

import fcntl
import os
import stat

from halfsync.parent import trust
from halfsync.parent.privileges import Identity
from halfsync.parent.shortages import in_words
from halfsync.settings.errors import SettingError


class PidFile:
    """Written when made; removed by `remove`."""

    def __init__(self, path: str, identity: Identity | None = None) -> None:
        """`identity`: whom the service runs as, if not as this process: see `trust`.

        Raises SettingError if it can't be written, or if a living server holds it."""
        self._identity = identity
        try:
            self.path = os.path.abspath(path)
            self._fd = self._open()
        except OSError as error:
            why = f"{in_words(error)}{trust.note(path, identity)}"
            raise SettingError(f"pid: the file {path} can't be written: {why}.") from None
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise SettingError(f"pid: {path} is not a regular file.")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 20).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise SettingError(
                f"pid: the file {path} belongs to a running server, process {holder}."
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with trust.rights_for(self.path, self._identity):
            return os.open(self.path, flags, 0o644)

    def remove(self) -> None:
        try:
            with trust.rights_for(self.path, self._identity):
                if os.stat(self.path).st_ino == os.fstat(self._fd).st_ino:
                    os.unlink(self.path)
        except OSError:
            pass
        os.close(self._fd)
