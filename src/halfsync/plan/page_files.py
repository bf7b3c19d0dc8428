"""The files that `error_pages` names, read when the server starts or reloads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from halfsync.http.content_types import content_type
from halfsync.http.error_pages import ErrorPage
from halfsync.settings.error_pages import PageEntry
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.system.folders import here_in_words

MAX_PAGE = 64 * 1024
"""Bytes. It has to fit a packet from a worker to the pump; and who sees it is waiting for something else."""


class PageFiles:
    """Reads each file once. What is wrong is noted."""

    def __init__(self, mistakes: Mistakes) -> None:
        self._mistakes = mistakes
        self._read: dict[str, bytes] = {}

    def load(self, entries: Iterable[PageEntry]) -> Sequence[ErrorPage]:
        found: list[ErrorPage] = []
        for entry in entries:
            with self._mistakes.noted():
                if entry.path not in self._read:
                    self._read[entry.path] = _content(entry)
                body = self._read[entry.path]
                found.append(ErrorPage(entry.statuses, content_type(os.path.basename(entry.path)), body))
        return found


def _content(entry: PageEntry) -> bytes:
    """Raises SettingError. (A pipe would keep us waiting.)"""
    try:
        fd = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SettingError(f"{entry.where}: {entry.path!r} is no regular file.")
            if status.st_size > MAX_PAGE:
                size = f"has {status.st_size} bytes, and a page may have {MAX_PAGE}"
                raise SettingError(f"{entry.where}: {entry.path!r} {size}.")
            return os.pread(fd, MAX_PAGE, 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise SettingError(
            f"{entry.where}: the file {entry.path!r} in {here_in_words()} can't be read: {error.strerror}."
        ) from None
