"""Which route a request is for: of the site that its listener and Host mean, the longest prefix that fits.

Prefixes fit in whole path segments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from halfsync.http.hosts import HostTable
from halfsync.plan.plan import Plan
from halfsync.pump.connection import Route

SAFE = "/%:@!$&'()*+,;=~"
"""What stands in a path as it is (RFC 3986 3.3), and its escapes; in a query, with the question mark."""

MAX_KEPT = 1024
MAX_KEPT_TARGET = 256
"""Targets, and bytes of each, whose route is remembered: 0.1 µs where the search takes 1."""


class Sites:
    """All routes. Where there is one site alone, it costs no look-up."""

    def __init__(self, plan: Plan, routes: Sequence[Route]) -> None:
        """`routes` as in `plan.routes`."""
        self.replace(plan, routes)

    def replace(self, plan: Plan, routes: Sequence[Route]) -> None:
        """Others from now on."""
        of_site: list[list[Route]] = [[] for _ in plan.sites]
        for route, planned in zip(routes, plan.routes, strict=True):
            of_site[planned.site].append(route)
        self._of_site = [Routes(found) for found in of_site]
        self._only = self._of_site[0] if len(self._of_site) == 1 else None
        self._at_listener = [
            HostTable(((site, plan.sites[site].hosts) for site in listener.sites), listener.sites[0])
            for listener in plan.listeners
        ]

    def find(self, listener: int, host: bytes, target: bytes) -> Route | None:
        """None if nothing is served there. `host` is what the request names: a valid one, or empty."""
        routes = self._only
        if routes is None:
            routes = self._of_site[self._at_listener[listener].find(host)]
        return routes.find(target)


class Routes:
    """Those of one site."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """`routes`: the longest prefix first."""
        self._found: dict[bytes, Route | None] = {}
        self._routes = tuple(routes)

    def find(self, target: bytes) -> Route | None:
        """None if nothing is served there. The path is compared percent-decoded, and with no segment
        resolved: "/a/../b" is under "/a". But it is nowhere if "/b" is not for everybody: an application
        that resolves it, or takes two slashes for one, would let everybody in there."""
        if target in self._found:
            return self._found[target]
        path = path_of(target)
        found = self._search(path)
        if b"//" in path or b"/." in path:
            meant = self._search(resolved(path))
            if meant is not found and meant is not None and meant.access is not None:
                found = None
        if len(target) <= MAX_KEPT_TARGET:
            if len(self._found) >= MAX_KEPT:
                self._found.clear()
            self._found[target] = found
        return found

    def _search(self, path: bytes) -> Route | None:
        for route in self._routes:
            prefix = route.prefix
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/"):
                return route
        return None


def path_of(target: bytes) -> bytes:
    """The path of an origin-form, absolute-form or asterisk-form target, decoded."""
    path = target_parts(target)[0]
    return unquote_to_bytes(path) if b"%" in path else path


def resolved(path: bytes) -> bytes:
    """A path without empty segments, `.` and `..` (RFC 3986 5.2.4)."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def target_parts(target: bytes) -> tuple[bytes, bytes]:
    """The path of such a target as it is; and its query, with the question mark, or nothing."""
    if target[:1] != b"/":
        if target == b"*":
            return b"/", b""
        rest = target.partition(b"://")[2]
        start = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        target = rest[start:] if rest[start : start + 1] == b"/" else b"/" + rest[start:]
    path, question, query = target.partition(b"#")[0].partition(b"?")
    return path, question + query


def below_prefix(path: bytes, prefix: bytes) -> bytes:
    """What is behind a route's prefix in a path that is not decoded: empty, or it begins with a slash. An
    escaped one becomes a slash: behind a host's name, "%2F@" would make the name another host's user."""
    at = 0
    for _ in prefix:
        at += 3 if _ESCAPE.match(path, at) else 1
    return b"/" + path[at + 3 :] if path[at : at + 1] == b"%" else path[at:]


_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
