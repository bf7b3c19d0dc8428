"""Which site a host's name means: exactly, or by the longest "*." above it, or the default one.

Names are compared as DNS compares them: letters without case, the trailing dot is nothing. A port is not of
the name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

MAX_KEPT = 1024
MAX_KEPT_HOST = 256
"""Hosts, and bytes of each, whose site is remembered."""


Site = TypeVar("Site")


class HostTable(Generic[Site]):
    """Of one listener. `Site` is whatever stands for one; not None."""

    def __init__(self, sites: Iterable[tuple[Site, Iterable[str]]], default: Site) -> None:
        """`sites`: each with its hosts, such as "a.example" and "*.a.example", in lower case."""
        self._default = default
        self._exact: dict[bytes, Site] = {}
        self._below: dict[bytes, Site] = {}  # "*.a.example" is there as "a.example"
        self._found: dict[bytes, Site] = {}
        for site, hosts in sites:
            for host in hosts:
                table = self._below if host.startswith("*.") else self._exact
                table.setdefault(host.removeprefix("*.").encode(), site)

    def find(self, host: bytes) -> Site:
        """The site for a Host that is one (or empty), as it was received; or for a name from TLS."""
        found = self._found.get(host)
        if found is None:
            found = self._search(name_of(host))
            if len(host) <= MAX_KEPT_HOST:
                if len(self._found) >= MAX_KEPT:
                    self._found.clear()
                self._found[host] = found
        return found

    def _search(self, name: bytes) -> Site:
        if name in self._exact:
            return self._exact[name]
        above = name.partition(b".")[2]
        while above:
            if above in self._below:
                return self._below[above]
            above = above.partition(b".")[2]
        return self._default


def name_of(host: bytes) -> bytes:
    """A Host without its port and trailing dot, in lower case. An IPv6 address keeps its brackets."""
    if host.startswith(b"["):
        return host.partition(b"]")[0].lower() + b"]"
    return host.partition(b":")[0].removesuffix(b".").lower()
