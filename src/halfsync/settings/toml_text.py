"""Values as the TOML file would have them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from halfsync.http.header_rules import HeaderRule
from halfsync.settings import error_pages, headers
from halfsync.settings.error_pages import PageEntry
from halfsync.settings.keys import Does
from halfsync.settings.sites import SiteEntry
from halfsync.settings.targets import Target


def in_toml(value: Any) -> str:
    """A value as the TOML file would have it; "" for none, which the file understands."""
    if value is None:
        return '""'
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {in_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name)


def target_in_toml(target: Target) -> str:
    if target.does is Does.TARGET:
        return in_toml(target.target)
    if target.does is Does.RESPOND and not target.content_type:
        return in_toml({"respond": target.status, **target.own, **_looks(target.headers, target.error_pages)})
    said: dict[str, Any] = {} if target.does is Does.ERROR else {target.does.value: target.target}
    if target.status:
        said["status"] = target.status
    if target.content_type:
        said["type"] = target.content_type
    return in_toml({**said, **target.own, **_looks(target.headers, target.error_pages)})


def _looks(rules: tuple[HeaderRule, ...], pages: tuple[PageEntry, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"headers": headers.in_table(rules)} if rules else {}
    return {**found, "error_pages": error_pages.in_table(pages)} if pages else found


def looks_in_toml(rules: tuple[HeaderRule, ...], pages: tuple[PageEntry, ...]) -> list[str]:
    return [f"{name} = {in_toml(value)}" for name, value in _looks(rules, pages).items()]


def sites_in_toml(sites: Sequence[SiteEntry]) -> list[str]:
    """Lines: their tables."""
    lines: list[str] = []
    for site in sites:
        table = f"sites.{in_toml(site.name)}"
        lines += ["", f"[{table}]", f"hosts = {in_toml(list(site.hosts))}"]
        if site.bind:
            lines.append(f"bind = {in_toml(list(site.bind))}")
        own = {**site.own, **site.tls, **_looks(site.headers, site.error_pages)}
        lines += [f"{name} = {in_toml(value)}" for name, value in own.items()]
        lines += [f"[{table}.routes]", *routes_in_toml(site.routes)]
    return lines


def routes_in_toml(targets: Sequence[Target]) -> list[str]:
    return [f"{in_toml(one.path)} = {target_in_toml(one)}" for one in targets]
