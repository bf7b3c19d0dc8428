"""What the responses of a route tell caches, and how long the pump may repeat them."""

from __future__ import annotations

import re
from fnmatch import translate

from halfsync.plan.plan import FileRules
from halfsync.wire.messages import Lease

_NAMES = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
"""The request fields on which a response depends."""

_SHORT = 1.0
"""Seconds, at most, of a lease on what is not there. (It may be there the next moment.)"""

IMMUTABLE = "public, max-age=31536000, immutable"
"""A year, which is what RFC 9111 once called "never expires"; `immutable` is RFC 8246."""

_EXTENSIONS = r"(?:\.[A-Za-z][A-Za-z0-9]*){1,3}"
"""Such as `.css`, `.min.js`, `.chunk.js.map`."""
_HEX = re.compile(rf"(?:^|.*[.\-_~])([0-9a-f]{{8,64}}){_EXTENSIONS}")
_UUID = re.compile(r".*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.")
_BASE64 = re.compile(rf".*[.\-]([A-Za-z0-9_\-]{{8}}){_EXTENSIONS}")
_WORD = re.compile(r"(?:[A-Z]?[a-z]*(?:[A-Z][a-z]{2,})*|[A-Z]+)[0-9]*[a-z]?|[0-9]+[A-Z]*")
"""What people put into names: settings, DataView, Photo017, IMG, 2024b, 4K."""


def is_hashed(name: str) -> bool:
    """Whether a file's name has a hash of its content, as build tools put it there, before the extensions:

    1. hexadecimal, 8 digits or more: Django (12), webpack (8, 20), Parcel, Next.js;
    2. eight characters of base 64: Vite and Rollup.

    What is taken for one wrongly is not asked for again for a year. So 1 must have digits and letters: a date
    or a word is none; and 2 must not be made of words and numbers (of true hashes 6 in 100 are, and are
    left out). A UUID names a thing whose content may change.
    """
    if (found := _HEX.fullmatch(name)) and not _UUID.match(name):
        return not found[1].isdigit() and not found[1].isalpha()
    if found := _BASE64.fullmatch(name):
        is_mixed = found[1] != found[1].lower()
        return is_mixed and not all(map(_WORD.fullmatch, re.split("[-_]", found[1])))
    return False


_UNSHARED = re.compile(r"\b(?:private|no-store)\b", re.IGNORECASE)


class Caching:
    """The rules of one route."""

    def __init__(self, rules: FileRules) -> None:
        controls = rules.cache_control
        controls = {"*": controls} if isinstance(controls, str) else controls
        self._controls = [(re.compile(translate(one)), "/" in one, value) for one, value in controls.items()]
        self._immutable = rules.immutable
        self._negotiates = rules.precompressed
        names = (*_NAMES, "accept-encoding") if rules.precompressed else _NAMES
        seconds = rules.lease
        self._lease = Lease(seconds, names, public=True) if seconds > 0 else None
        self._short = Lease(min(seconds, _SHORT), names, public=True) if seconds > 0 else None
        self.lease_of_nothing = Lease(min(seconds, _SHORT), (), public=True) if seconds > 0 else None

    def _control(self, path: str) -> str:
        """For the file at this path within the folder."""
        name = path.rpartition("/")[2]
        for pattern, is_for_paths, value in self._controls:
            if pattern.match(path if is_for_paths else name):
                return value
        return ""

    def lease(self, path: str, *, is_fallback: bool) -> Lease | None:
        """`is_fallback`: in place of what is not there now."""
        if self._lease is None or is_fallback:
            return self._short
        # The pump is a shared cache too.
        return None if _UNSHARED.search(self._control(path)) else self._lease

    def fields(self, path: str, *, is_fallback: bool) -> list[tuple[str, str]]:
        """Cache-Control and Vary for the file at this path within the folder."""
        control = self._control(path)
        if is_fallback:
            control = "no-cache"
        elif self._immutable and is_hashed(path.rpartition("/")[2]):
            control = IMMUTABLE
        fields = [("Cache-Control", control)] if control else []
        return [*fields, ("Vary", "Accept-Encoding")] if self._negotiates else fields
