"""Settings that have no effect, because of what another one says, or because nothing is there for them.

They are no mistakes: a file may have them ready, or be made for several servers. But who sets one means
something by it; so a sentence says why nothing comes of it (at a start, at a reload, and in --check-config).

A setting that has its default value is never told of; nor is one that stands where several servers find it
(PORT, WEB_CONCURRENCY, FORWARDED_ALLOW_IPS).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from halfsync.plan.layout import Layout
from halfsync.plan.plan import BUILT_IN, Kind
from halfsync.settings.rows import BY_NAME, ROWS
from halfsync.settings.sites import SiteEntry
from halfsync.settings.sources import Loaded
from halfsync.settings.table import Settings
from halfsync.settings.targets import FOR_FILES, Target


class Served(msgspec.Struct, frozen=True):
    """What there is that settings can be for."""

    has_tls: bool  # an address at which TLS is spoken
    has_unix: bool  # one that is a unix socket
    has_applications: bool
    has_wsgi: bool  # an application that may be called by WSGI
    has_asgi: bool
    has_files: bool
    has_acme: bool
    has_scaling: bool  # a pool whose number of workers follows the load
    has_intercepted: bool  # an application of whose errors pages can stand in the place

    @classmethod
    def of(cls, settings: Settings, layout: Layout, sites: Sequence[SiteEntry], has_tls: bool) -> Served:
        pools = [pool for index, pool in enumerate(layout.pools) if index != BUILT_IN]
        interfaces = {pool.interface for pool in pools}
        addresses = [*layout.addresses(settings), *settings.health_bind]
        return cls(
            has_tls=has_tls,
            has_unix=any(address.startswith("unix:") for address in addresses),
            has_applications=bool(pools),
            has_wsgi=bool(interfaces & {"auto", "wsgi"}),
            has_asgi=bool(interfaces - {"wsgi"}),
            has_files=any(route.kind is Kind.FILES for route in layout.routes),
            has_acme=settings.acme or any(site.tls.get("acme", False) for site in sites),
            has_scaling=any(pool.scale is not None for pool in pools),
            has_intercepted=any(route.intercepts and route.error_pages for route in layout.routes),
        )


class Need(msgspec.Struct, frozen=True):
    """Settings that have an effect only if something else is so."""

    names: tuple[str, ...]
    is_met: Callable[[Settings, Served], bool]  # given what counts where they stand, or below
    why_not: str


def _set(name: str) -> Callable[[Settings, Served], bool]:
    return lambda settings, _: bool(getattr(settings, name))


def _there(name: str) -> Callable[[Settings, Served], bool]:
    return lambda _, served: bool(getattr(served, name))


_FOR_APPLICATIONS = tuple(row.name for row in ROWS if row.of_routes == "applications")
_ALWAYS = ("interface", "intercept_errors")
"""They say something of applications also if there is none, or have a need of their own."""
_FOR_ASGI = (
    "limit_concurrency", "lifespan", "loop", "ws_max_size", "ws_ping_interval", "ws_ping_timeout",
    "ws_per_message_deflate",
)  # fmt: skip
_FOR_TLS = ("minimum_version", "ciphers", "ca_certs", "cert_reqs", "handshake_timeout", "max_handshakes")
_FOR_ACME = (
    "acme_email", "acme_eab_kid", "acme_eab_hmac_key", "acme_directory", "acme_challenge", "acme_folder",
)  # fmt: skip
_FOR_HTTP2 = ("http2_max_concurrent_streams", "http2_max_resets", "http2_max_idle_frames")

NEEDS: tuple[Need, ...] = (
    Need(
        (
            *(name for name in _FOR_APPLICATIONS if name not in (*_ALWAYS, *_FOR_ASGI)),
            "preload", "retry", "max_requests", "max_requests_jitter", "startup_timeout", "pythonpath",
        ),
        _there("has_applications"),
        "no application is served",
    ),
    Need(FOR_FILES, _there("has_files"), "no folder or file is served"),
    Need(("lease_file_memory",), _there("has_files"), "no folder or file is served"),
    Need(_FOR_ASGI, _there("has_asgi"), "no ASGI application is served"),
    Need(("threads", "stream_body"), _there("has_wsgi"), "it is for WSGI applications, and none is served"),
    Need(("redirect_http_port",), _set("redirect_http"), "redirect_http is not on"),
    Need(("client_burst",), _set("client_rate"), "client_rate is not set"),
    Need(
        ("limit_store", "client_prefix_ipv4", "client_prefix_ipv6"),
        lambda settings, _: bool(settings.client_rate or settings.client_connections),
        "neither client_rate nor client_connections is set",
    ),
    Need(("max_requests_jitter",), _set("max_requests"), "max_requests is not set"),
    Need(
        ("min_spare", "max_spare"),
        _there("has_scaling"),
        "the number of workers is fixed; it follows the load between min_workers and max_workers",
    ),
    Need(("rate_grace",), _set("min_rate"), "min_rate is 0"),
    Need(
        ("handler_grace",),
        lambda settings, _: bool(settings.handler_timeout or settings.stream_timeout),
        "neither handler_timeout nor stream_timeout is set",
    ),
    Need(
        ("queue_target",),
        lambda settings, _: settings.queue_target == "auto" or settings.queue_target < settings.queue_timeout,
        "no request waits longer than queue_timeout, which is less",
    ),
    Need(("keyfile_password",), _set("certfile"), "certfile is not set"),
    Need(_FOR_TLS, _there("has_tls"), "TLS is spoken at none of the addresses"),
    Need(("ca_certs",), lambda settings, _: settings.cert_reqs != "none", "cert_reqs is none"),
    Need(
        ("ciphers",),
        lambda settings, _: settings.minimum_version == "1.2",
        "it is for TLS 1.2, and minimum_version is 1.3",
    ),
    Need(("acme_hosts",), _set("acme"), "acme is not on"),
    Need(_FOR_ACME, _there("has_acme"), "acme is not on"),
    Need(("access_logformat", "hostname_lookups"), _set("access_logfile"), "access_logfile is not set"),
    Need(("traces_endpoint", "traces_ratio"), _set("traces"), "traces is not on"),
    Need(("reload_dir", "reload_include", "reload_exclude"), _set("reload"), "reload is not on"),
    Need(("control_socket_mode",), _set("control_socket"), "control_socket is not set"),
    Need(("unix_mode",), _there("has_unix"), "no address is a unix socket"),
    Need(
        ("no_new_privs",),
        lambda settings, _: bool(settings.user or settings.group),
        "neither user nor group is set",
    ),
    Need(("forwarded_headers",), _set("forwarded_allow_ips"), "forwarded_allow_ips is empty"),
    Need(_FOR_HTTP2, _set("http2"), "http2 is off"),
    Need(("ws_ping_timeout",), _set("ws_ping_interval"), "ws_ping_interval is 0"),
    Need(("intercept_errors",), _there("has_intercepted"), "no application has error_pages"),
)  # fmt: skip
"""The first of a setting that is not met is told."""


class _Place(msgspec.Struct, frozen=True):
    """Where settings stand: the top, a site or a route."""

    own: Mapping[str, Any]
    where: Callable[[str], str]  # of a setting: how a sentence about it begins
    there: Settings  # what counts there
    below: Sequence[Settings] = ()  # and where it may count, too


def without_effect(
    loaded: Loaded, settings: Settings, targets: Sequence[Target], layout: Layout, has_tls: bool
) -> list[str]:
    """A sentence for each. `targets` are the routes of the default site; `has_tls`: TLS is spoken at an
    address."""
    served = Served.of(settings, layout, loaded.sites, has_tls)
    found: list[str] = []
    for place in _places(loaded, settings, targets):
        for name, value in place.own.items():
            if value != BY_NAME[name].default and (why_not := _why_not(name, place, served)):
                found.append(f"{place.where(name)}{name} has no effect: {why_not}.")
    return found


def _why_not(name: str, place: _Place, served: Served) -> str:
    for need in NEEDS:
        if name in need.names and not any(need.is_met(one, served) for one in (place.there, *place.below)):
            return need.why_not
    return ""


def _places(loaded: Loaded, settings: Settings, targets: Sequence[Target]) -> Iterator[_Place]:
    everywhere: list[Settings] = []
    places: list[_Place] = []
    for site in loaded.sites:
        of_site = _with(settings, {**site.own, **site.tls})
        below = [_with(of_site, route.own) for route in site.routes]
        places.append(_Place({**site.own, **site.tls}, _where_of(site), of_site, below))
        places += [_place(route, of_site) for route in site.routes]
        everywhere += [of_site, *below]
    places = [*(_place(route, settings) for route in targets), *places]
    everywhere += [place.there for place in places]
    given = {name: getattr(settings, name) for name in BY_NAME if _is_said(name, loaded.origins[name])}
    yield _Place(given, lambda name: loaded.places.get(name, ""), settings, everywhere)
    yield from places


def _place(route: Target, above: Settings) -> _Place:
    return _Place(route.own, lambda _: f"{route.where}: ", _with(above, route.own))


def _where_of(site: SiteEntry) -> Callable[[str], str]:
    return lambda name: site.places.get(name, f"{site.where}: ")


def _with(settings: Settings, own: Mapping[str, Any]) -> Settings:
    return msgspec.structs.replace(settings, **own) if own else settings


def _is_said(name: str, origin: str) -> bool:
    """By somebody who means this server."""
    common = BY_NAME[name].environment[:-1]
    return origin != "default" and origin not in (f"environment variable {one}" for one in common)
