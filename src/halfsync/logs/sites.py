"""The name of the site that a request was for, for the access log."""

from __future__ import annotations

from collections.abc import Sequence

from halfsync.http.hosts import HostTable
from halfsync.logs.letters import escape


class SiteNames:
    def __init__(self, tables: Sequence[HostTable[int]], names: Sequence[str]) -> None:
        """`tables`: by listener, what gives an index into `names`."""
        self._tables = tables
        self._names = [escape(name) for name in names]

    def name(self, listener: str, host: str) -> str:
        """`listener`: its index, as it stands in a record; `host` as the request has it, or empty."""
        if not listener.isdigit() or int(listener) >= len(self._tables):
            return "-"
        return self._names[self._tables[int(listener)].find(host.encode("latin-1", "replace"))] or "-"
