"""The table `headers` of a site or route: which fields of responses are set, added or removed."""

from __future__ import annotations

import re
from typing import Any

from halfsync.http.header_rules import HeaderRule
from halfsync.settings.errors import SettingError
from halfsync.settings.keys import one_of
from halfsync.settings.places import Place

_KEYS = ("set", "add", "remove")
_EXAMPLE = '{ set = { "X-Frame-Options" = "DENY" }, remove = ["Server"] }'
_OF_FRAMING = frozenset(
    ("connection", "content-length", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def header_rules(table: Any, where: Place) -> tuple[HeaderRule, ...]:
    """Raises SettingError."""
    if not isinstance(table, dict):
        raise SettingError(f"{where} must be a table with set, add or remove, such as {_EXAMPLE}.")
    for key in table:
        if key not in _KEYS:
            where.note(f"{where.at(key)} has no key {key}{one_of(key, _KEYS)}")
    removed = table.get("remove", [])
    removed = [removed] if isinstance(removed, str) else removed
    if not isinstance(removed, list):
        raise SettingError(f"{where.at('remove')}: remove must be a list of names, not {removed!r}.")
    rules: dict[str, HeaderRule] = {}
    for name in removed:
        with where.noted():
            _add(rules, HeaderRule(_name(name, where.at("remove"))), where.at("remove"))
    for key in ("set", "add"):
        for name, value in _pairs(table, key, where):
            at = where.at(key).at(name)
            with where.noted():
                _add(rules, HeaderRule(_name(name, at), _values(value, f"{at}: {name}"), key == "add"), at)
    return tuple(rules.values())


def _add(rules: dict[str, HeaderRule], rule: HeaderRule, at: Place) -> None:
    if rule.name.lower() in rules:
        raise SettingError(f"{at}: {rule.name} is there twice.")
    rules[rule.name.lower()] = rule


def _pairs(table: dict[str, Any], key: str, where: Place) -> list[tuple[str, Any]]:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise SettingError(f"{where.at(key)}: {key} must be a table of names and values, not {found!r}.")
    return list(found.items())


def _name(name: Any, where: Place) -> str:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise SettingError(f"{where}: {name!r} can't be the name of a header field.")
    if name.lower() in _OF_FRAMING:
        raise SettingError(f"{where}: {name} is the server's own; it can't be changed.")
    return name


def _values(value: Any, where: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str) or not re.fullmatch(r"[!-~](?:[\t -~]*[!-~])?|", one):
            raise SettingError(f"{where} must be a text of ASCII characters, not {one!r}.")
    return tuple(values)


def in_table(rules: tuple[HeaderRule, ...]) -> dict[str, Any]:
    """The table that means these rules."""
    found: dict[str, Any] = {}
    for rule in rules:
        if not rule.values:
            found.setdefault("remove", []).append(rule.name)
        else:
            values: Any = list(rule.values) if len(rule.values) > 1 else rule.values[0]
            found.setdefault("add" if rule.keeps else "set", {})[rule.name] = values
    return found
