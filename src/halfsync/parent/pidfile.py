"""The file with the parent's process id.

It is locked (flock(2)) as long as the parent lives, so a file that a killed server left behind
never keeps the next one from starting, whoever has its number now.
"""

from __future__ import annotations

import fcntl
import os

from halfsync.settings import SettingError


class PidFile:
    """Written when made; removed by `remove`."""

    def __init__(self, path: str) -> None:
        """Raises SettingError if it can't be written, or if a living server holds it."""
        self.path = os.path.abspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SettingError(f"pid: the file {path} can't be written: {error.strerror}.") from None
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

    def remove(self) -> None:
        try:
            if os.stat(self.path).st_ino == os.fstat(self._fd).st_ino:
                os.unlink(self.path)
        except OSError:
            pass
        os.close(self._fd)
