"""Values that are wrong by more than their type, wherever they stand: at the top, in a site, in a route."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halfsync.settings.tls_headers import wrong_tls_headers

Wrong = Iterator[tuple[str, str]]
"""Settings, and for each a sentence that begins with its name."""


def wrong_values(values: Mapping[str, Any]) -> Wrong:
    """`values`: checked ones, by name; those that are absent are not looked at."""
    yield from _wrong_cache_control(values.get("cache_control", ""))
    fallback = values.get("fallback", "")
    if fallback and any(not part or part.startswith(".") for part in fallback.strip("/").split("/")):
        yield "fallback", f"fallback must be a file within the folder, not {fallback!r}."
    for name in ("allow", "deny"):
        yield from _wrong_networks(name, values.get(name, ()))
    yield from wrong_tls_headers(values.get("hsts", ""), values.get("alt_svc", ""))


def _wrong_cache_control(value: str | Mapping[str, str]) -> Wrong:
    name = "cache_control"
    for control in [value] if isinstance(value, str) else value.values():
        if not re.fullmatch("[ -~]*", control):
            yield name, f"{name} must be plain ASCII, not {control!r}."
    for pattern in () if isinstance(value, str) else value:
        if not pattern or pattern.startswith("/"):
            known = "names such as '*.html', or for paths within the folder such as 'assets/*'"
            yield name, f"{name}: a pattern is for {known}, not {pattern!r}."


def _wrong_networks(name: str, texts: Sequence[str]) -> Wrong:
    for text in texts:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            known = "an address such as 10.0.0.7 nor a network such as 10.0.0.0/8"
            yield name, f"{name}: {text!r} is neither {known}."
