"""The file with the parent's process id.

It is locked (flock(2)) as long as the parent lives, so a file that a killed server left behind
never keeps the next one from starting, whoever has its number now.
"""

from __future__ import annotations

import fcntl
import os
import stat

from halfsync.logs.error import log
from halfsync.parent import trust
from halfsync.parent.privileges import Identity
from halfsync.parent.shortages import in_words
from halfsync.settings.errors import SettingError


class PidFile:
    """Written when made; removed by `remove`."""

    def __init__(self, path: str, identity: Identity | None = None, *, inherited: int | None = None) -> None:
        """`identity`: whom the service runs as, if not as this process: see `trust`. `inherited`: the
        descriptor of the very file, from a server whose place this one will take: it has the lock with it,
        and the file is its own until `take_over`.

        Raises SettingError if it can't be written, or if a living server holds it."""
        self._identity = identity
        self._is_ours = inherited is None
        if inherited is not None:
            self.path, self.fd = os.path.abspath(path), inherited
            return
        try:
            self.path = os.path.abspath(path)
            self.fd = self._open()
        except OSError as error:
            why = f"{in_words(error)}{trust.note(path, identity)}"
            raise SettingError(f"pid: the file {path} can't be written: {why}.") from None
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.close(self.fd)
            raise SettingError(f"pid: {path} is not a regular file.")
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self.fd, 20).decode("ascii", "replace").strip()
            os.close(self.fd)
            raise SettingError(
                f"pid: the file {path} belongs to a running server, process {holder}."
            ) from None
        os.ftruncate(self.fd, 0)
        os.write(self.fd, f"{os.getpid()}\n".encode())

    def take_over(self) -> None:
        """The server before has let go of it. A reader sees one number or the other."""
        line = f"{os.getpid()}\n".encode()
        try:
            os.pwrite(self.fd, line, 0)
            os.ftruncate(self.fd, len(line))
        except OSError as error:
            log("error", f"pid: the file {self.path} can't be written: {in_words(error)}.")
        self._is_ours = True

    def let_go(self) -> None:
        """Another server takes it over."""
        self._is_ours = False

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        with trust.rights_for(self.path, self._identity):
            return os.open(self.path, flags, 0o644)

    def remove(self) -> None:
        """Unless it is another server's."""
        try:
            with trust.rights_for(self.path, self._identity):
                if self._is_ours and os.stat(self.path).st_ino == os.fstat(self.fd).st_ino:
                    os.unlink(self.path)
        except OSError:
            pass
        os.close(self.fd)
