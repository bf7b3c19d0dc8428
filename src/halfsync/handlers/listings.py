"""Listings of folders (the setting `listing`): what is in one, as a page that loads nothing.

A listing names folders, and files that a request would get: no hidden names, no links that lead out of the
folder or nowhere, no sockets or devices, nothing that this process may not read, nor what another route has.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from html import escape
from urllib.parse import quote

import msgspec

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Names of files are often chosen by users. They are escaped; and were one not, it could load nothing."""

OLDEST, _NEWEST = -62_135_596_800, 253_402_300_799
"""Seconds since 1970: the years 1 and 9999. File systems know others, which have no form as a date."""
MOST_KEPT = 16 << 20
"""Bytes of listings that a route keeps, except for one that is larger."""


class Entry(msgspec.Struct, frozen=True):
    name: bytes
    is_folder: bool
    size: int  # bytes
    modified: float  # seconds since 1970


def entries_of(folder: int, open_link: Callable[[bytes], int]) -> list[Entry]:
    """What is in this folder, of an open descriptor: folders first, each kind by name. `open_link`: an O_PATH
    descriptor of what the link of that name leads to; -1 if it must not be served. Raises OSError."""
    found = []
    with os.scandir(folder) as listed:
        for one in listed:
            name = os.fsencode(one.name)
            if name.startswith(b".") or b"\\" in name:
                continue
            try:
                is_link = one.is_symlink()
                status = _status_of_link(open_link(name)) if is_link else one.stat(follow_symlinks=False)
                if status is not None and (entry := _entry(folder, name, status)) is not None:
                    found.append(entry)
            except FileNotFoundError:  # it was removed meanwhile
                continue
    return sorted(found, key=lambda one: (not one.is_folder, one.name.lower(), one.name))


def _status_of_link(at: int) -> os.stat_result | None:
    """Of what it leads to. The descriptor is closed."""
    if at < 0:
        return None
    try:
        return os.fstat(at)
    finally:
        os.close(at)


def _entry(folder: int, name: bytes, status: os.stat_result) -> Entry | None:
    """None if it can't be served."""
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and not stat.S_ISREG(status.st_mode):
        return None
    if not os.access(name, os.R_OK | os.X_OK if is_folder else os.R_OK, dir_fd=folder):
        return None
    return Entry(name, is_folder, status.st_size, status.st_mtime)


_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem }
h1 { font-size: 1.3rem; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { padding: .15rem 1rem .15rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid #8884 }
th:first-child, td:first-child { width: 100%; white-space: normal; overflow-wrap: anywhere }
.n { text-align: right; font-variant-numeric: tabular-nums }
"""


def page(path: bytes, entries: Iterable[Entry], *, has_parent: bool) -> bytes:
    """`path`: the folder's, decoded, as the client named it. `has_parent`: the one above it is listed, too.
    Links are relative, so they hold behind a proxy that cuts the path."""
    title = f"Index of {escape(_shown(path))}"
    parent = '<tr><td><a href="../">../</a></td><td></td><td></td></tr>\n' if has_parent else ""
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<table>\n"
        '<tr><th>Name</th><th>Modified (UTC)</th><th class="n">Bytes</th></tr>\n'
        f"{parent}{''.join(map(_row, entries))}</table></body></html>\n"
    )
    return text.encode()


def _row(entry: Entry) -> str:
    slash = "/" if entry.is_folder else ""
    modified = datetime.fromtimestamp(min(max(entry.modified, OLDEST), _NEWEST), UTC).replace(tzinfo=None)
    size = "" if entry.is_folder else f"{entry.size:,}"
    return (
        f'<tr><td><a href="{quote(entry.name, safe="")}{slash}">{escape(_shown(entry.name))}{slash}</a></td>'
        f'<td>{modified.isoformat(" ", "minutes")}</td><td class="n">{size}</td></tr>\n'
    )


def _shown(name: bytes) -> str:
    """With a mark for what is not UTF-8."""
    return name.decode("utf-8", "replace")


class Listing(msgspec.Struct, frozen=True):
    body: bytes
    etag: str
    until: float  # monotonic: it is sent again until then


class Turns:
    """Of a process's threads, one makes a listing at a time: two would take twice as long. As many may wait
    for that as leave one thread to other requests."""

    def __init__(self, threads: int) -> None:
        self.making = threading.Lock()
        self.waiting = threading.Semaphore(max(0, threads - 2))


@functools.cache
def turns_of(threads: int) -> Turns:
    """Those of this process, which has so many threads."""
    return Turns(threads)


class Listings:
    """Those of one route that were made lately. A request with another query passes the pump's leases, and a
    folder of 100,000 files takes half a second of this process's time."""

    def __init__(self, seconds: float, turns: Turns) -> None:
        """`seconds`: for how long one is sent again."""
        self._seconds = seconds
        self._turns = turns
        self._kept: dict[bytes, Listing] = {}

    def get(self, folder: bytes, make: Callable[[], bytes | None]) -> Listing | None:
        """One that was kept, or a new one: `make` gives its page; None if there is none. Raises BusyError if
        too many requests wait for listings, and what `make` does."""
        kept = self._kept.get(folder)
        if kept is not None and time.monotonic() < kept.until:
            return kept
        turns = self._turns
        if turns.making.acquire(blocking=False):
            try:
                return self._made(folder, make)
            finally:
                turns.making.release()
        if not turns.waiting.acquire(blocking=False):
            raise BusyError
        try:
            with turns.making:
                kept = self._kept.get(folder)
                if kept is not None and time.monotonic() < kept.until:
                    return kept
                return self._made(folder, make)
        finally:
            turns.waiting.release()

    def _made(self, folder: bytes, make: Callable[[], bytes | None]) -> Listing | None:
        body = make()
        now = time.monotonic()
        for old in [name for name, one in self._kept.items() if one.until <= now]:
            del self._kept[old]
        if body is None:
            return None
        made = Listing(body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"', now + self._seconds)
        if self._seconds:
            if sum(len(one.body) for one in self._kept.values()) + len(body) > MOST_KEPT:
                self._kept.clear()
            self._kept[folder] = made
        return made


class BusyError(Exception):
    """So many requests wait for listings that this one may not."""
