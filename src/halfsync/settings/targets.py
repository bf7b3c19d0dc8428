"""What is to be served, as the user wrote it: targets, and the tables of routes in the TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from http import HTTPStatus
from typing import Any

from halfsync.http.header_rules import HeaderRule
from halfsync.settings.error_pages import PageEntry, page_entries
from halfsync.settings.errors import SettingError
from halfsync.settings.headers import header_rules
from halfsync.settings.places import Place
from halfsync.settings.rows import BY_NAME, ROWS
from halfsync.settings.value_checks import wrong_values
from halfsync.settings.values import from_toml


class Does(Enum):
    """What a route does, by the key of its table."""

    TARGET = ""  # a lone text: an application, a folder or a file, which is to be found out
    APP = "app"
    FOLDER = "folder"
    FILE = "file"
    REDIRECT = "redirect"
    RESPOND = "respond"
    STATUS = "status_page"
    ERROR = "status"


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


FOR_FOLDERS = tuple(row.name for row in ROWS if row.of_routes == "folders")
FOR_FILES = tuple(row.name for row in ROWS if row.of_routes in ("files", "folders"))
OWN_OF_ROUTES = tuple(row.name for row in ROWS if row.of_routes)
"""The settings that routes, and sites as well, may have a value of their own for."""

_KINDS = tuple(does.value for does in Does if does.value)
_ROUTE_KEYS = (*_KINDS, "type", "headers", "error_pages", *OWN_OF_ROUTES)
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
            found.append(_toml_target(path, value, where.table(path, f".{path!r}")))
    return tuple(found)


def _toml_target(path: str, value: Any, where: Place) -> Target:
    if isinstance(value, str):
        return Target(path, value, str(where))
    if not isinstance(value, dict):
        raise SettingError(
            f'{where} must be a target such as "app:app" or "./static", or a table such as '
            '{ app = "app:app", threads = 2 }.'
        )
    does = _does(value, where)
    check_keys(value, _ROUTE_KEYS, where)
    own = own_settings(value, where)
    looks: dict[str, Any] = {
        "headers": header_rules(value.get("headers", {}), where.table("headers", ": headers")),
        "error_pages": page_entries(
            value.get("error_pages", {}), where.table("error_pages", ": error_pages")
        ),
    }
    if does in (Does.APP, Does.FOLDER, Does.FILE):
        for key in ("status", "type"):
            if key in value:
                raise SettingError(f"{where.at(key)}: {key} is not for {does.value}.")
        return Target(path, _text(value, does.value, where), str(where), does, own, **looks)
    return replace(_fixed(path, value, where, does, own), **looks)


def check_keys(table: Mapping[str, Any], known: Sequence[str], where: Place) -> None:
    """Note each key of a site's or route's table that is none."""
    for key in table:
        if key in known:
            continue
        with where.noted():
            if key in BY_NAME:
                why = "is for the whole server; it stands at the top of the file"
                if BY_NAME[key].of_sites:
                    why = "is not for a single route; it stands in a site or at the top of the file"
                raise SettingError(f"{where.at(key)}: {key} {why}.")
            raise SettingError(f"{where.at(key)} has no setting {key}{did_you_mean(key, known)}")


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


def _does(value: Mapping[str, Any], where: Place) -> Does:
    kinds = [name for name in _SAYS_WHAT if name in value]
    if len(kinds) > 1:
        raise SettingError(f"{where} has both {kinds[0]} and {kinds[1]}: a route does one thing.")
    if kinds:
        return Does(kinds[0])
    if "status" in value:
        return Does.ERROR
    if "target" in value:
        raise SettingError(f"{where}: target is now called app, folder or file.")
    raise SettingError(
        f"{where} must say what is served: {', '.join(_SAYS_WHAT)}; or status = 404 for an error."
    )


def _fixed(path: str, value: Mapping[str, Any], where: Place, does: Does, own: Mapping[str, Any]) -> Target:
    if "type" in value and does is not Does.RESPOND:
        raise SettingError(f"{where.at('type')}: type is for respond.")
    if does is Does.STATUS:
        if value["status_page"] is not True or "status" in value:
            raise SettingError(f"{where}: status_page must be true, and stand without a status.")
        return Target(path, "status page", str(where), does, own)
    named = f"{where.at('status')}: status"
    if does is Does.REDIRECT:
        status = _status(value.get("status", 302), named, REDIRECTS, "one of 301, 302, 303, 307 and 308")
        return Target(path, _location(value, where), str(where), does, own, status)
    if does is Does.ERROR:
        errors = [status.value for status in HTTPStatus if status >= 400]
        status = _status(value["status"], named, errors, "the number of an error, such as 404, 410 or 403")
        return Target(path, "", str(where), does, own, status)
    return _respond(path, value, where, own)


def _respond(path: str, value: Mapping[str, Any], where: Place, own: Mapping[str, Any]) -> Target:
    given = value["respond"]
    usual = range(200, 600)
    if isinstance(given, int) and not isinstance(given, bool):
        if "status" in value or "type" in value:
            raise SettingError(f"{where}: respond must be a text where status or type is given, not {given}.")
        status = _status(given, f"{where.at('respond')}: respond", usual, "a text or a status")
        return Target(path, "", str(where), Does.RESPOND, own, status)
    named = f"{where.at('status')}: status"
    status = _status(value.get("status", 200), named, usual, "a number from 200 to 599")
    text = _text(value, "respond", where)
    if status in BODILESS and text:
        raise SettingError(f"{where}: a response with status {status} has no text.")
    kind = _text(value, "type", where) if "type" in value else "text/plain; charset=utf-8"
    if not re.fullmatch("[ -~]+", kind):
        raise SettingError(f"{where}: type must be a media type such as application/json, not {kind!r}.")
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
    unknown = [one for one in _VARIABLE.findall(text) if one not in VARIABLES]
    if unknown:
        raise SettingError(
            f"{where}: redirect: {unknown[0]} is none of {', '.join(VARIABLES)}"
            + did_you_mean(unknown[0], VARIABLES).replace(";", " -")
        )
    if text.startswith("/$path"):
        raise SettingError(
            f"{where}: redirect: $path has its own slash, and two of them would name a host: write "
            f"{text[1:]!r}, not {text!r}."
        )
    if not re.fullmatch(r"(?:https?://(?:\$host|[^\s/?#$]+)|/(?!/)|\$path)[!-~]*", text):
        raise SettingError(
            f"{where}: redirect must be a path such as /new$path, or an address such as "
            f"https://$host$path$query, in ASCII, not {text!r}."
        )
    return text


def _text(value: Mapping[str, Any], key: str, where: Place) -> str:
    found = value[key]
    if not isinstance(found, str) or "\0" in found:
        raise SettingError(f"{where.at(key)}: {key} must be a text, not {found!r}.")
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known."""
    import difflib  # not at the start: no name is wrong as a rule

    close = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "."
