"""The table `error_pages` of the file, of a site or of a route: which files are sent for which errors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from halfsync.settings.errors import SettingError
from halfsync.settings.places import Place

_EXAMPLE = '{ 404 = "errors/404.html", 5xx = "errors/5xx.html" }'


@dataclass(frozen=True)
class PageEntry:
    """One of them, as the user wrote it."""

    statuses: str  # "404", "5xx"
    path: str
    where: str = field(compare=False)  # for sentences


def page_entries(table: Any, where: Place) -> tuple[PageEntry, ...]:
    """Raises SettingError if it is no table."""
    if not isinstance(table, dict):
        raise SettingError(f"{where} must be a table such as {_EXAMPLE}.")
    found: list[PageEntry] = []
    for key, path in table.items():
        at = where.at(key)
        with where.noted():
            if not re.fullmatch("[45](?:[0-9][0-9]|xx)", key):
                raise SettingError(
                    f"{at}: {key!r} must be an error such as 404, or 4xx or 5xx for all others."
                )
            if not isinstance(path, str) or not path or "\0" in path:
                raise SettingError(f"{at}: {key} must be the path of a file, not {path!r}.")
            found.append(PageEntry(key, path, f"{at}: {key}"))
    return tuple(found)


def in_table(entries: tuple[PageEntry, ...]) -> dict[str, Any]:
    """The table that means these."""
    return {entry.statuses: entry.path for entry in entries}
