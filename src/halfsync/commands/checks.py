"""What is wrong with a configuration beyond the words of its settings: with formats, addresses, files, users,
and what `--check-config` looks at besides."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence

import click
import msgspec

from halfsync.http.forwarded import Trust
from halfsync.parent import privileges, trust
from halfsync.parent.privileges import Identity
from halfsync.plan.layout import Layout, in_clear, prefix_of
from halfsync.plan.plan import BUILT_IN, Plan
from halfsync.plan.schemes import scheme_of
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.site_tls import SiteTLS, tls_of
from halfsync.settings.sites import SiteEntry
from halfsync.settings.sources import Loaded
from halfsync.settings.store_url import parse_store_url
from halfsync.settings.table import Settings
from halfsync.settings.targets import Target
from halfsync.settings.values import octal
from halfsync.system import early_signals


def check_formats(loaded: Loaded, mistakes: Mistakes) -> None:
    """Settings whose meaning others know."""
    from halfsync.logs.formats import compile_format
    from halfsync.logs.target import target_of
    from halfsync.logs.traces import is_installed
    from halfsync.watcher.main import check as check_reload

    with mistakes.noted():
        check_reload(loaded.settings)
    with mistakes.noted():
        if loaded.settings.traces and not is_installed():
            raise SettingError("traces needs further packages: pip install 'halfsync[otel]'.")
    with mistakes.noted():
        where = loaded.settings.traces_endpoint
        if where and not re.fullmatch(r"https?://[^\s/?#]+(?:[/?]\S*)?", where):
            raise SettingError(
                f"traces_endpoint: {where!r} has to begin with http:// or https://, and to name a host."
            )
    for name in ("access_logfile", "error_logfile"):
        with mistakes.noted():
            try:
                target_of(getattr(loaded.settings, name))
            except ValueError as error:
                raise SettingError(f"{name}: {error}") from None
    with mistakes.noted():
        try:
            compile_format(loaded.settings.access_logformat)
        except ValueError as error:
            raise SettingError(f"access_logformat: {error}") from None
    with mistakes.noted():
        try:
            if loaded.settings.limit_store is not None:
                parse_store_url(loaded.settings.limit_store)
        except ValueError as error:
            raise SettingError(f"limit_store {error}") from None
    with mistakes.noted():
        try:
            Trust(loaded.settings.forwarded_allow_ips, loaded.settings.forwarded_headers)
        except ValueError as error:
            raise SettingError(str(error)) from None


def check_served(loaded: Loaded, layout: Layout, mistakes: Mistakes) -> tuple[SiteTLS, ...]:
    """Addresses, TLS, and what has to agree with them. Gives TLS of the sites, as far as it is right."""
    from halfsync.parent import listeners

    settings, sites = loaded.settings, loaded.sites
    tls = tls_of(settings, sites, loaded.places, mistakes)
    named = _named_addresses(settings, sites)
    addresses = layout.addresses(settings)
    proxied = [one for one in settings.proxy_protocol if one not in (listeners.ALL, *addresses)]
    if not _check_addresses(
        [*addresses, *proxied], {**dict.fromkeys(proxied, "proxy_protocol"), **named}, mistakes
    ):
        return tls
    _check_health(settings, sites, mistakes)
    listeners.note_wrong(settings, addresses, layout.only_with_tls, layout.demanding, mistakes, named)
    of_sites = {site.name: f"{site.places.get('bind', '')}bind" for site in sites}
    listeners.check_reach(settings, layout.sites, of_sites, mistakes)
    _check_challenge(settings, addresses, tls, mistakes)
    if _has_all_sites(tls, sites):
        certified = [one.name for one in tls if one.certfile]
        listeners.check_certified(settings, layout.sites, certified, named, mistakes)
    return tls


def _check_health(settings: Settings, sites: Sequence[SiteEntry], mistakes: Mistakes) -> None:
    """Note its addresses that a site has, too. (`note_wrong` sees those that are written in another way, or
    stand at the top.)"""
    for address in settings.health_bind:
        for site in sites:
            if in_clear(address) in site.bind:
                where = f"the site {site.name!r}"
                mistakes.note(
                    f"health_bind: {address} is in bind of {where}, too; health checks have an address of "
                    "their own."
                )


def _check_challenge(
    settings: Settings, addresses: Sequence[str], tls: Sequence[SiteTLS], mistakes: Mistakes
) -> None:
    """Note that the authority has nowhere to connect to. (http-01 is responded to everywhere, also over TLS:
    something in front may have port 80.)"""
    first = next((one for one in tls if one.acme), None)
    if first is None or settings.acme_challenge != "tls-alpn-01":
        return
    if "https" not in {scheme_of(address, settings) for address in addresses}:
        mistakes.note(
            f"{first.at('acme')}: by tls-alpn-01 the authority connects to an https:// address, and there is "
            'none: add one to bind, or set acme_challenge = "http-01".'
        )


def _has_all_sites(tls: Sequence[SiteTLS], sites: Sequence[SiteEntry]) -> bool:
    """Whether what they say of TLS is right in all of them: else those are missing."""
    return len(tls) == 1 + sum(bool(site.tls) for site in sites)


def _named_addresses(settings: Settings, sites: Sequence[SiteEntry]) -> dict[str, str]:
    """How a sentence about an address begins that is not in the top's `bind`."""
    found = {in_clear(address): "health_bind" for address in settings.health_bind}
    for site in sites:
        found |= {address: f"{site.places.get('bind', '')}bind" for address in site.bind}
    return {address: name for address, name in found.items() if address not in settings.bind}


def with_places(wrong: SettingError, loaded: Loaded, places: Mapping[str, str]) -> SettingError:
    """What only a start or a reload finds, such as an address in use: with the place where it stands, which
    those do not know. `places`: of the settings at the top (see Mistakes)."""
    named = _named_addresses(loaded.settings, loaded.sites)
    mistakes = Mistakes()
    mistakes.places = places
    for sentence in wrong.sentences:
        names = (name for address, name in named.items() if sentence.startswith(f"bind {address!r}"))
        name = next(names, "")
        mistakes.note(name + sentence.removeprefix("bind") if name else sentence)
    try:
        mistakes.raise_all()
    except SettingError as placed:
        return placed
    return wrong


def _check_addresses(addresses: Sequence[str], named: Mapping[str, str], mistakes: Mistakes) -> bool:
    """Whether all of them are addresses."""
    from halfsync.parent.listeners import parse

    before = len(mistakes.found)
    for address in addresses:
        try:
            parse(address)
        except SettingError as wrong:
            mistakes.note(f"{named.get(address, 'bind')}{str(wrong).removeprefix('bind')}")
    return len(mistakes.found) == before


def ineffective(loaded: Loaded, settings: Settings, targets: Sequence[Target], layout: Layout) -> list[str]:
    """Sentences about settings that have no effect, and about what can't be reached."""
    from halfsync.plan.without_effect import without_effect

    health = set(map(in_clear, settings.health_bind))
    served = [address for address in layout.addresses(settings) if address not in health]
    schemes = {scheme_of(address, settings) for address in served}
    found = without_effect(loaded, settings, targets, layout, "https" in schemes)
    if settings.acme_challenge == "http-01" and "http" not in schemes and _has_acme(loaded):
        found.append(
            f"{loaded.places.get('acme_challenge', '')}acme_challenge: by http-01 the authority connects to "
            "port 80 in clear, and bind has no address for that: something in front has to pass it on."
        )
    return [*found, *_without_certificates(loaded, settings)]


def _without_certificates(loaded: Loaded, settings: Settings) -> Iterator[str]:
    """A sentence for each site that clients can't reach over TLS, though others have certificates there."""
    has_own = [bool(site.tls.get("certfile") or site.tls.get("acme")) for site in loaded.sites]
    if settings.certfile or settings.acme or not any(has_own):
        return
    for site, is_certified in zip(loaded.sites, has_own, strict=True):
        secure = [one for one in site.bind or settings.bind if scheme_of(one, settings) == "https"]
        if secure and not is_certified:
            yield (
                f"{site.where}: there is no certificate for it, so clients are refused at {secure[0]}: name "
                "one with certfile, here or at the top."
            )


def _has_acme(loaded: Loaded) -> bool:
    return loaded.settings.acme or any(site.tls.get("acme", False) for site in loaded.sites)


def look_at_files(loaded: Loaded, tls: Sequence[SiteTLS], mistakes: Mistakes) -> None:
    """At those that settings name, whatever is wrong elsewhere. What is doubtful is printed."""
    from halfsync.parent.reload import certificates

    notes: list[str] = []
    identity = _identity(loaded.settings)
    with mistakes.noted():
        present = [one for one in tls if not one.acme or is_there(one)]
        certificates.close(certificates.read(present, notes, identity))
    for note in notes:
        click.echo(note)
    for name in ("access_logfile", "error_logfile", "pid"):
        with mistakes.noted():
            check_writable(name, getattr(loaded.settings, name))
    folder = loaded.settings.acme_folder
    if any(one.acme for one in tls):
        with mistakes.noted(), trust.rights_for(os.path.join(folder, "account.key"), identity):
            check_folder("acme_folder", folder)


def _identity(settings: Settings) -> Identity | None:
    """Whom the service runs as, if that can be known, and if not as this process."""
    try:
        return privileges.identity(settings)
    except SettingError:  # noted by others
        return None


def look_at_sockets(loaded: Loaded, layout: Layout, mistakes: Mistakes) -> None:
    """At whether there can be unix sockets where settings want them."""
    named = _named_addresses(loaded.settings, loaded.sites)
    if loaded.settings.control_socket:
        path = loaded.settings.control_socket
        with mistakes.noted():
            check_socket(f"control_socket {path!r}", path)
    for address in layout.addresses(loaded.settings):
        if address.startswith("unix:") and (path := address.removeprefix("unix:").removeprefix("//")):
            with mistakes.noted():
                check_socket(f"{named.get(address, 'bind')} {address!r}", path)


def check_socket(named: str, path: str) -> None:
    """Raises SettingError if there can be none."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder or "."):
        raise SettingError(f"{named}: there is no folder {folder!r}.")
    if (size := len(os.fsencode(path))) > LONGEST_SOCKET:
        raise SettingError(f"{named}: a socket's path may have {LONGEST_SOCKET} bytes, and this has {size}.")
    if not os.access(folder or ".", os.W_OK | os.X_OK):
        raise SettingError(f"{named}: no permission to make a socket in the folder {folder or '.'!r}.")
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise SettingError(f"{named}: there is a file of that name which is not a socket.")


LONGEST_SOCKET = 107
"""Bytes (unix(7): 108, with a zero behind it)."""


def is_there(site: SiteTLS) -> bool:
    return os.path.exists(site.certfile[0])


def look_at_machine(loaded: Loaded, layout: Layout, mistakes: Mistakes) -> None:
    """Users, and what the machine must have."""
    from halfsync.parent import machine

    with mistakes.noted():
        privileges.identity(loaded.settings)
    with mistakes.noted():
        machine.check_descriptors(loaded.settings, layout.pools)


def look_at_certificates(loaded: Loaded, layout: Layout, tls: Sequence[SiteTLS], mistakes: Mistakes) -> None:
    """At whether there are some where they are needed."""
    from halfsync.parent.reload import acme_files

    with mistakes.noted():
        acme_files.check_packages(tls)
    if any(one.certfile for one in tls) or not _has_all_sites(tls, loaded.sites):
        return
    settings = loaded.settings
    named = _named_addresses(settings, loaded.sites)
    for address in layout.addresses(settings):
        if scheme_of(address, settings) == "https":
            name = named.get(address, "bind")
            mistakes.note(f"{name} {address!r}: there is no certificate: name one with certfile.")


def check_writable(name: str, path: str | None) -> None:
    from halfsync.logs.target import is_target

    if path is None or path == "-" or is_target(path):
        return
    place = path if os.path.lexists(path) else os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(place, os.W_OK):
        raise SettingError(f"{name}: the file {path} can't be written.")


def check_folder(name: str, path: str) -> None:
    """Raises SettingError if no files can be written there, once it is made."""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        raise SettingError(f"{name}: there can be no files in the folder {path}.")


def look_at_applications(
    loaded: Loaded, targets: Sequence[Target], layout: Layout, mistakes: Mistakes
) -> None:
    """Import them, as the server would, whatever is wrong elsewhere; what their own code raises is printed.
    `targets`: the routes of the default site. Where it can't be known how they are to be imported, since a
    setting that says it is wrong, nothing is said of them."""
    from halfsync.logs.error import keep_descriptor, tell
    from halfsync.parent import machine
    from halfsync.parent.main import entry_points
    from halfsync.parent.reload.config_check import check_applications

    settings = loaded.settings
    try:
        identity = privileges.identity(settings)
        if settings.umask is not None:
            octal("umask", settings.umask)
    except SettingError:  # noted by others
        return
    prepared = _prepared(settings, layout, identity, mistakes)
    wheres = _routes_of_pools(targets, loaded.sites, layout)
    if prepared is None or not loaded.was_read or not wheres:
        return
    keep_descriptor()
    early_signals.let_in()  # applications are imported now
    plan = Plan(prepared, layout.routes, layout.pools, ())
    with mistakes.noted():
        failures = check_applications(plan, identity, entry_points(machine.scoreboard()))
        for index, failure in failures.items():
            if failure.traceback:
                tell(failure.traceback.rstrip("\n"))
            pool, why = layout.pools[index], failure.sentence
            for name in (pool.target, pool.name):
                why = why.removeprefix(f"Target {name!r}: ")
            mistakes.note(f"{wheres.get(index, f'Target {pool.name!r}')}: {why}")


def _prepared(
    settings: Settings, layout: Layout, identity: Identity | None, mistakes: Mistakes
) -> Settings | None:
    """None: the machine lacks something without which nothing can be imported."""
    from halfsync.parent import machine

    try:
        return machine.prepared(settings, layout.routes, identity)
    except SettingError as wrong:
        mistakes.note(str(wrong))
    if settings.spool_dir is None:
        return None
    try:  # an import needs no temporary files
        return machine.prepared(msgspec.structs.replace(settings, spool_dir=None), layout.routes, identity)
    except SettingError:
        return None


def _routes_of_pools(targets: Sequence[Target], sites: Sequence[SiteEntry], layout: Layout) -> dict[int, str]:
    """How a sentence about a pool's application begins: with the first route of it."""
    pools = {(route.site, route.prefix): route.pool for route in layout.routes if route.pool > BUILT_IN}
    found: dict[int, str] = {}
    for site, routes in enumerate((targets, *(one.routes for one in sites))):
        for route in routes:
            pool = pools.get((site, prefix_of(route.path)))
            if pool is not None:
                where = route.where if route.is_argument else f"{route.where} = {route.target!r}"
                found.setdefault(pool, where)
    return found
