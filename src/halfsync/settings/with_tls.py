"""What the user wrote that is wrong where a site is served without TLS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from halfsync.settings.sites import SiteEntry
from halfsync.settings.table import Settings
from halfsync.settings.targets import Target
from halfsync.settings.tls_headers import NAMES as TLS_HEADERS


class Demanding(msgspec.Struct, frozen=True):
    """A site whose clients must show a certificate."""

    setting: str  # as a sentence about it begins
    what: str  # is served so
    bind: tuple[str, ...]


def only_with_tls(
    settings: Settings, targets: Sequence[Target], sites: Sequence[SiteEntry]
) -> tuple[str, ...]:
    """The settings that make header fields of TLS, each as a sentence about it begins."""
    routes = [*targets, *(route for site in sites for route in site.routes)]
    own: list[tuple[str, Mapping[str, Any]]] = [("", msgspec.structs.asdict(settings))]
    own += [(f"{site.where}: ", site.own) for site in sites]
    own += [(f"{route.where}: ", route.own) for route in routes]
    return tuple(where + name for where, values in own for name in TLS_HEADERS if values.get(name))


def demanding(
    settings: Settings, targets: Sequence[Target], sites: Sequence[SiteEntry]
) -> Iterator[Demanding]:
    """The sites of which something is served, and that require a certificate."""
    if targets and settings.cert_reqs == "required":
        yield Demanding("cert_reqs", "the default site", tuple(settings.bind))
    for site in sites:
        if site.routes and site.tls.get("cert_reqs", settings.cert_reqs) == "required":
            where = site.places.get("cert_reqs", f"{site.where}: ")
            yield Demanding(f"{where}cert_reqs", "the site", site.bind or tuple(settings.bind))
