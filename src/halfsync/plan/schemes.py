"""Where TLS is spoken."""

from __future__ import annotations

from halfsync.settings.table import Settings


def scheme_of(address: str, settings: Settings) -> str:
    """Whether an address of `bind` is for "https" or "http": it says so, or there is a certificate or none. A
    unix socket's peer is a proxy on the same machine, which needs no TLS."""
    scheme, separator, _ = address.lower().partition("://")
    if separator and scheme in ("http", "https"):
        return scheme
    return "https" if (settings.certfile or settings.acme) and not address.startswith("unix:") else "http"
