"""What is wrong with a configuration beyond the words of its settings: with formats, addresses, files, users,
and what `--check-config` looks at besides."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from halfsync.http.forwarded import Trust
from halfsync.plan.layout import Layout
from halfsync.plan.plan import Plan, SitePlan
from halfsync.plan.schemes import scheme_of
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.site_tls import SiteTLS
from halfsync.settings.sites import SiteEntry
from halfsync.settings.sources import Loaded
from halfsync.settings.store_url import parse_store_url
from halfsync.settings.table import Settings
from halfsync.settings.targets import Target
from halfsync.system import early_signals

WRONG = 2
"""Exit status when a setting or a target is wrong."""


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
        if where and not where.startswith(("http://", "https://")):
            raise SettingError(f"traces_endpoint: {where!r} has to begin with http:// or https://.")
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


def check_addresses(addresses: Sequence[str], sites: Sequence[SiteEntry], mistakes: Mistakes) -> bool:
    """Whether all of them are addresses. `sites` have some of them for themselves."""
    from halfsync.parent.listeners import parse

    wheres = {address: site.places.get("bind", "") for site in sites for address in site.bind}
    before = len(mistakes.found)
    for address in addresses:
        try:
            parse(address)
        except SettingError as wrong:
            mistakes.note(f"{wheres.get(address, '')}{wrong}")
    return len(mistakes.found) == before


def check_reach(
    settings: Settings, sites: Sequence[SitePlan], tls: Sequence[SiteTLS], mistakes: Mistakes
) -> None:
    from halfsync.parent import listeners

    with mistakes.noted():
        listeners.check_reach(settings, sites, mistakes)
        certified = [one.name for one in tls if one.certfile]
        listeners.check_certified(settings, sites, certified, mistakes)


def ineffective(loaded: Loaded, settings: Settings, targets: Sequence[Target], layout: Layout) -> list[str]:
    """Sentences about settings that have no effect."""
    from halfsync.plan.without_effect import without_effect

    has_tls = any(scheme_of(address, settings) == "https" for address in layout.addresses(settings))
    return without_effect(loaded, settings, targets, layout, has_tls)


def look_at_files(loaded: Loaded, tls: Sequence[SiteTLS], mistakes: Mistakes) -> None:
    """At those that settings name, whatever is wrong elsewhere. What is doubtful is printed."""
    from halfsync.parent.reload import certificates

    notes: list[str] = []
    with mistakes.noted():
        certificates.close(certificates.read([one for one in tls if not one.acme or is_there(one)], notes))
    for note in notes:
        click.echo(note)
    for name in ("access_logfile", "error_logfile", "pid"):
        with mistakes.noted():
            check_writable(name, getattr(loaded.settings, name))


def is_there(site: SiteTLS) -> bool:
    return os.path.exists(site.certfile[0])


def look_at_machine(loaded: Loaded, layout: Layout, mistakes: Mistakes) -> None:
    """Users, and what the machine must have."""
    from halfsync.parent import machine, privileges

    with mistakes.noted():
        privileges.identity(loaded.settings)
    with mistakes.noted():
        machine.check_descriptors(loaded.settings, layout.pools)


def look_at_listeners(
    loaded: Loaded, layout: Layout, tls: Sequence[SiteTLS], mistakes: Mistakes, *, all_tls: bool
) -> None:
    """At what depends on the addresses, whatever is wrong elsewhere. `all_tls`: `tls` lacks none that is
    wrong."""
    from halfsync.parent import listeners
    from halfsync.parent.reload import acme_files

    addresses = layout.addresses(loaded.settings)
    with mistakes.noted():
        listeners.note_wrong(loaded.settings, addresses, layout.only_with_tls, layout.demanding, mistakes)
    with mistakes.noted():
        acme_files.check_packages(tls)
    schemes = [scheme_of(address, loaded.settings) for address in addresses]
    if all_tls and "https" in schemes and not any(one.certfile for one in tls):
        mistakes.note("bind has an https:// address, but there is no certificate: name one with certfile.")


def check_writable(name: str, path: str | None) -> None:
    from halfsync.logs.target import is_target

    if path is None or path == "-" or is_target(path):
        return
    place = path if os.path.lexists(path) else os.path.dirname(os.path.abspath(path))
    if not os.access(place, os.W_OK):
        raise SettingError(f"{name}: the file {path} can't be written.")


def check(loaded: Loaded, layout: Layout) -> int:
    """`--check-config`, when no setting is wrong: all but binding, since the server may be running."""
    from halfsync.logs.error import keep_descriptor, tell
    from halfsync.parent import machine, privileges
    from halfsync.parent.main import entry_points
    from halfsync.parent.reload.config_check import check_applications

    early_signals.let_in()  # applications are imported now
    settings = loaded.settings
    keep_descriptor()
    identity = privileges.identity(settings)
    settings = machine.prepared(settings, layout.routes, identity)
    plan = Plan(settings, layout.routes, layout.pools, ())
    failures = check_applications(plan, identity, entry_points(machine.scoreboard()))
    for failure in failures:
        tell(failure.traceback + f"halfsync: {failure.sentence}")
    if failures:
        return WRONG
    click.echo("The configuration is fine.")
    return 0
