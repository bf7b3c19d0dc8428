"""The tables [sites."name"] of the TOML file, as the user wrote them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halfsync.http.header_rules import HeaderRule
from halfsync.settings.error_pages import PageEntry, page_entries
from halfsync.settings.errors import SettingError
from halfsync.settings.headers import header_rules
from halfsync.settings.keys import OWN_TLS, check_site_keys, means_routes
from halfsync.settings.places import Place
from halfsync.settings.rows import BY_NAME
from halfsync.settings.targets import Target, own_settings, toml_targets
from halfsync.settings.values import from_toml


@dataclass(frozen=True)
class SiteEntry:
    """One of them; `layout` works it out."""

    name: str
    hosts: tuple[str, ...]  # lower case, without a trailing dot
    bind: tuple[str, ...]
    routes: tuple[Target, ...]
    own: Mapping[str, Any]  # settings of its own, checked
    tls: Mapping[str, Any]  # those of TLS
    headers: tuple[HeaderRule, ...]
    error_pages: tuple[PageEntry, ...]
    places: Mapping[str, str] = field(compare=False)  # of its keys, with a colon and a space behind
    where: str = field(compare=False)  # for sentences: 'halfsync.toml: sites."blog.example"'


def toml_sites(table: Any, where: Place) -> tuple[SiteEntry, ...]:
    """The sites in the table [sites] of a TOML file. Raises SettingError if it is none."""
    if not isinstance(table, dict):
        raise SettingError(f'{where}: sites must be tables, such as [sites."blog.example"].')
    found: list[SiteEntry] = []
    for name, value in table.items():
        with where.noted():
            found.append(_site(name, value, where.table(name, f'sites."{name}"')))
    return tuple(found)


def _site(name: str, table: Any, where: Place) -> SiteEntry:
    if not isinstance(table, dict):
        raise SettingError(f'{where} must be a table, such as [sites."{name}"].')
    check_site_keys(table, where)
    if table.get("routes", {}) == {} and not any(means_routes(key) for key in table):
        where.note(
            f"{where} serves nothing, for it has no routes: name what it serves in "
            f'[sites."{name}".routes], such as "/" = "app:app".'
        )
    bind: list[str] = []
    hosts: tuple[str, ...] = (name,)
    routes: tuple[Target, ...] = ()
    headers: tuple[HeaderRule, ...] = ()
    pages: tuple[PageEntry, ...] = ()
    tls: dict[str, Any] = {}
    with where.noted():
        bind = from_toml(BY_NAME["bind"], table.get("bind", []), f"{where.at('bind')}: bind")
    with where.noted():
        hosts = _hosts(name, table.get("hosts", [name]), where.at("hosts"))
    with where.noted():
        routes = toml_targets(table.get("routes", {}), where.table("routes", ".routes"))
    with where.noted():
        headers = header_rules(table.get("headers", {}), where.table("headers", ": headers"))
    with where.noted():
        pages = page_entries(table.get("error_pages", {}), where.table("error_pages", ": error_pages"))
    for key in [key for key in OWN_TLS if key in table]:
        with where.noted():
            tls[key] = from_toml(BY_NAME[key], table[key], f"{where.at(key)}: {key}")
    own = own_settings(table, where)
    places = {key: f"{where.at(key)}: " for key in table}
    return SiteEntry(name, hosts, tuple(bind), routes, own, tls, headers, pages, places, str(where))


def _hosts(name: str, value: Any, where: Place) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise SettingError(f'{where}: hosts must be a list of names, such as ["{name}", "*.{name}"].')
    found = []
    for one in given:
        with where.noted():
            found.append(_host(one, where))
    return tuple(found) or (name,)


_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


def _host(text: str, where: Place) -> str:
    host = text.lower().removesuffix(".")
    if host == "*":
        raise SettingError(
            f"{where}: hosts can't have '*': requests for all other hosts go to the [routes] at the top."
        )
    if _NAME.fullmatch(host) or _is_ipv6(host):
        return host
    if not host.isascii():
        try:
            meant = host.encode("idna").decode()
        except UnicodeError:
            meant = ""
        if meant:
            raise SettingError(f"{where}: hosts: {text!r} is {meant!r} in a request; write it so.")
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and _NAME.fullmatch(name):
        raise SettingError(f"{where}: hosts: {text!r} must not have a port; `bind` says where it is served.")
    raise SettingError(f"{where}: hosts: {text!r} is neither a host's name nor of the form *.name.")


def _is_ipv6(host: str) -> bool:
    if not (host.startswith("[") and host.endswith("]")):
        return False
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
