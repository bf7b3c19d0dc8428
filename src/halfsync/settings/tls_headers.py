"""The header fields that are for responses over TLS alone: what their settings may say."""

from __future__ import annotations

import re
from collections.abc import Iterator

NAMES = {"hsts": "Strict-Transport-Security", "alt_svc": "Alt-Svc"}
"""The field that each of the settings makes."""

_ALTERNATIVE = r'[!#$%&*+.^_`|~0-9A-Za-z-]+="[!#-\[\]-~]*:[0-9]{1,5}"(?: ?; ?(?:ma=[0-9]+|persist=1))*'
_ALT_SVC = re.compile(rf"(?:clear|{_ALTERNATIVE}(?: ?, ?{_ALTERNATIVE})*)?")
"""RFC 7838 3."""
_HSTS = re.compile(r"(?:max-age=[0-9]+(?:; ?(?:includeSubDomains|preload))*)?")


def wrong_tls_headers(hsts: str, alt_svc: str) -> Iterator[tuple[str, str]]:
    """Each setting that is wrong, and a sentence that begins with its name."""
    if not _HSTS.fullmatch(hsts):
        known = "'max-age=63072000' or 'max-age=63072000; includeSubDomains'"
        yield "hsts", f"hsts must be like {known}, not {hsts!r}."
    if not _ALT_SVC.fullmatch(alt_svc):
        known = """'h3=":443"' or 'h3=":443"; ma=86400, h2="other.example:443"', or 'clear'"""
        yield "alt_svc", f"alt_svc must be like {known}, not {alt_svc!r}."
