"""The header fields that are for responses over TLS alone: what their settings may say."""

from __future__ import annotations

import re

from halfsync.settings.errors import SettingError

NAMES = {"hsts": "Strict-Transport-Security", "alt_svc": "Alt-Svc"}
"""The field that each of the settings makes."""

_ALTERNATIVE = r'[!#$%&*+.^_`|~0-9A-Za-z-]+="[!#-\[\]-~]*:[0-9]{1,5}"(?: ?; ?(?:ma=[0-9]+|persist=1))*'
_ALT_SVC = re.compile(rf"(?:clear|{_ALTERNATIVE}(?: ?, ?{_ALTERNATIVE})*)?")
"""RFC 7838 3."""
_HSTS = re.compile(r"(?:max-age=[0-9]+(?:; ?(?:includeSubDomains|preload))*)?")


def check_tls_headers(where: str, hsts: str, alt_svc: str) -> None:
    """Raises SettingError. `where` stands before the setting's name."""
    if not _HSTS.fullmatch(hsts):
        known = "'max-age=63072000' or 'max-age=63072000; includeSubDomains'"
        raise SettingError(f"{where}hsts must be like {known}, not {hsts!r}.")
    if not _ALT_SVC.fullmatch(alt_svc):
        known = """'h3=":443"' or 'h3=":443"; ma=86400, h2="other.example:443"', or 'clear'"""
        raise SettingError(f"{where}alt_svc must be like {known}, not {alt_svc!r}.")
