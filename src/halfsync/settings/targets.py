"""What is to be served, as the user wrote it: targets, and the tables of routes in the TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from halfsync.http.header_rules import HeaderRule
from halfsync.settings.error_pages import PageEntry, page_entries
from halfsync.settings.errors import SettingError
from halfsync.settings.headers import header_rules
from halfsync.settings.keys import (
    OWN_OF_ROUTES,
    Does,
    check_route_keys,
    did_you_mean,
    names_what_it_does,
)
from halfsync.settings.places import Place
from halfsync.settings.rows import BY_NAME, ROWS
from halfsync.settings.value_checks import wrong_values
from halfsync.settings.values import from_toml


@dataclass(frozen=True)
class Target:
    """What to serve somewhere, as the user wrote it; `layout` finds out what it is."""

    path: str  # "/" or "/static"
    target: str  # "app:app", "./static", "/new$path", "pong"
    where: str = field(compare=False)  # for sentences: "target '/static=./static'"
    does: Does = Does.TARGET
    own: Mapping[str, Any] = field(default_factory=dict)  # settings of its own, checked
    status: int = 0  # of a response that needs no worker
    content_type: str = ""
    headers: tuple[HeaderRule, ...] = ()
    error_pages: tuple[PageEntry, ...] = ()
    is_argument: bool = field(default=False, compare=False)  # of the command line


FOR_FOLDERS = tuple(row.name for row in ROWS if row.of_routes == "folders")
FOR_FILES = tuple(row.name for row in ROWS if row.of_routes in ("files", "folders"))
_SAYS_WHAT = [does.value for does in Does if does not in (Does.TARGET, Does.ERROR)]

REDIRECTS = (301, 302, 303, 307, 308)
BODILESS = (204, 205, 304)


def toml_targets(table: Any, where: Place) -> tuple[Target, ...]:
    """The routes in a table [routes] of a TOML file. Raises SettingError if it is none."""
    if not isinstance(table, dict):
        raise SettingError(f'{where} must be a table, such as [routes] with "/" = "app:app" in it.')
    found: list[Target] = []
    for path, value in table.items():
        with where.noted():
            target = _toml_target(path, value, where.table(path, f".{path!r}"))
            if target is not None:
                found.append(target)
    return tuple(found)


def _toml_target(path: str, value: Any, where: Place) -> Target | None:
    """None: what it is has been noted as a misspelt key. Raises SettingError."""
    if isinstance(value, str):
        return Target(path, value, str(where))
    if not isinstance(value, dict):
        raise SettingError(
            f'{where} must be a target such as "app:app" or "./static", or a table such as '
            '{ app = "app:app", threads = 2 }.'
        )
    check_route_keys(value, where)
    own = own_settings(value, where)
    looks: dict[str, Any] = {}
    for key, read in (("headers", header_rules), ("error_pages", page_entries)):
        with where.noted():
            looks[key] = read(value.get(key, {}), where.table(key, f": {key}"))
    does = _does(value, where)
    if does is None:
        return None
    if does in (Does.APP, Does.FOLDER, Does.FILE):
        for key in ("status", "type"):
            if key in value:
                where.note(f"{where.at(key)}: {key} is not for {does.value}.")
        return Target(path, _text(value, does.value, where), str(where), does, own, **looks)
    return replace(_fixed(path, value, where, does, own), **looks)


def own_settings(table: Mapping[str, Any], where: Place) -> dict[str, Any]:
    """Those of a site's or route's table. Raises SettingError."""
    own: dict[str, Any] = {}
    for name in table:
        if name in OWN_OF_ROUTES:
            with where.noted():
                own[name] = from_toml(BY_NAME[name], table[name], f"{where.at(name)}: {name}")
    for name, sentence in wrong_values(own):
        where.note(f"{where.at(name)}: {sentence}")
    return own


def _does(value: Mapping[str, Any], where: Place) -> Does | None:
    """None: a key that is none means to say it. Raises SettingError."""
    kinds = [name for name in _SAYS_WHAT if name in value]
    if len(kinds) > 1:
        raise SettingError(f"{where} has both {kinds[0]} and {kinds[1]}: a route does one thing.")
    if kinds:
        return Does(kinds[0])
    if "status" in value:
        return Does.ERROR
    if any(map(names_what_it_does, value)):
        return None
    raise SettingError(
        f"{where} must say what is served: {', '.join(_SAYS_WHAT)}; or status = 404 for an error."
    )


def _fixed(path: str, value: Mapping[str, Any], where: Place, does: Does, own: Mapping[str, Any]) -> Target:
    if "type" in value and does is not Does.RESPOND:
        where.note(f"{where.at('type')}: type is for respond.")
    if does is Does.STATUS:
        if value["status_page"] is not True or "status" in value:
            at = where.at("status_page")
            raise SettingError(f"{at}: status_page must be true, and stand without a status.")
        return Target(path, "status page", str(where), does, own)
    named = f"{where.at('status')}: status"
    if does is Does.REDIRECT:
        status = 0
        with where.noted():
            status = _status(value.get("status", 302), named, REDIRECTS, "one of 301, 302, 303, 307 and 308")
        return Target(path, _location(value, where), str(where), does, own, status)
    if does is Does.ERROR:
        errors = [status.value for status in HTTPStatus if status >= 400]
        status = _status(value["status"], named, errors, "the number of an error, such as 404, 410 or 403")
        return Target(path, "", str(where), does, own, status)
    return _respond(path, value, where, own)


def _respond(path: str, value: Mapping[str, Any], where: Place, own: Mapping[str, Any]) -> Target:
    given, at = value["respond"], where.at("respond")
    usual = range(200, 600)
    if isinstance(given, int) and not isinstance(given, bool):
        if "status" in value or "type" in value:
            raise SettingError(f"{at}: respond must be a text where status or type is given, not {given}.")
        status = _status(given, f"{at}: respond", usual, "a text or a status")
        return Target(path, "", str(where), Does.RESPOND, own, status)
    named = f"{where.at('status')}: status"
    status = _status(value.get("status", 200), named, usual, "a number from 200 to 599")
    text = _text(value, "respond", where)
    if status in BODILESS and text:
        raise SettingError(f"{at}: a response with status {status} has no text.")
    kind = _text(value, "type", where) if "type" in value else "text/plain; charset=utf-8"
    if not re.fullmatch("[ -~]+", kind):
        at = where.at("type")
        raise SettingError(f"{at}: type must be a media type such as application/json, not {kind!r}.")
    return Target(path, text, str(where), Does.RESPOND, own, status, kind)


def _status(given: Any, where: str, known: Iterable[int], expected: str) -> int:
    """`where` ends with the key's name."""
    if isinstance(given, bool) or not isinstance(given, int) or given not in known:
        raise SettingError(f"{where} must be {expected}, not {given!r}.")
    return given


_VARIABLE = re.compile(r"\$\w*")
VARIABLES = ("$host", "$path", "$query")


def _location(value: Mapping[str, Any], where: Place) -> str:
    text = _text(value, "redirect", where)
    at = where.at("redirect")
    unknown = [one for one in _VARIABLE.findall(text) if one not in VARIABLES]
    if unknown:
        raise SettingError(
            f"{at}: redirect: {unknown[0]} is none of {', '.join(VARIABLES)}"
            + did_you_mean(unknown[0], VARIABLES).replace(";", " -")
        )
    if text.startswith("/$path"):
        raise SettingError(
            f"{at}: redirect: $path has its own slash, and two of them would name a host: write "
            f"{text[1:]!r}, not {text!r}."
        )
    if not re.fullmatch(r"(?:https?://(?:\$host|[^\s/?#$]+)|/(?!/)|\$path)[!-~]*", text):
        raise SettingError(
            f"{at}: redirect must be a path such as /new$path, or an address such as "
            f"https://$host$path$query, in ASCII, not {text!r}."
        )
    return text


def _text(value: Mapping[str, Any], key: str, where: Place) -> str:
    found = value[key]
    if not isinstance(found, str) or "\0" in found:
        raise SettingError(f"{where.at(key)}: {key} must be a text, not {found!r}.")
    return found
