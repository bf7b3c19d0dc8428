"""Which keys the tables of sites and routes may have, and what is said of one that is none or stands in the
wrong table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from halfsync.settings.places import Place
from halfsync.settings.rows import BY_NAME, ROWS


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


OWN_OF_ROUTES = tuple(row.name for row in ROWS if row.of_routes)
"""The settings that routes, and sites as well, may have a value of their own for."""

_OWN_OF_SITES = tuple(row.name for row in ROWS if row.of_sites)
OWN_TLS = tuple(name for name in _OWN_OF_SITES if name not in ("bind", *OWN_OF_ROUTES))
"""What is shown to clients in a handshake, so that sites may have their own of it, and routes may not (see
site_tls.py)."""

ONLY_OF_ROUTES = tuple(does.value for does in Does if does.value)
ROUTE_KEYS = (*ONLY_OF_ROUTES, "type", "headers", "error_pages", *OWN_OF_ROUTES)
SITE_KEYS = ("hosts", "routes", "headers", "error_pages", *_OWN_OF_SITES)

PROXYING = "proxying to other servers is not supported; halfsync serves applications and files, or redirects."
_OTHER_WORDS = {
    **dict.fromkeys(("proxy", "proxy_pass", "reverse_proxy", "upstream"), f": {PROXYING}"),
    **dict.fromkeys(("root", "alias", "directory", "dir", "static"), "; did you mean folder?"),
    **dict.fromkeys(("application", "wsgi", "asgi"), "; did you mean app?"),
    **dict.fromkeys(("return", "rewrite"), "; did you mean redirect?"),
    "target": ": target is now called app, folder or file.",
}
"""What other servers call it, as the end of a sentence."""


def check_route_keys(table: Mapping[str, Any], where: Place) -> None:
    """Note each key of a route's table that is none."""
    for key in table:
        if key in ROUTE_KEYS:
            continue
        at = where.at(key)
        if key in _OWN_OF_SITES:
            why = "is not for a single route; it stands in a site or at the top of the file"
            at.note(f"{at}: {key} {why}.")
        elif key == "hosts":
            at.note(f'{at}: {key} is for a site: it stands in the table of one, [sites."name"].')
        elif key in BY_NAME:
            at.note(f"{at}: {key} {_FOR_THE_SERVER}.")
        else:
            at.note(f"{at} has no setting {key}{_OTHER_WORDS.get(key) or did_you_mean(key, ROUTE_KEYS)}")


def check_site_keys(table: Mapping[str, Any], where: Place) -> None:
    """Note each key of a site's table that is none."""
    for key in table:
        if key in SITE_KEYS:
            continue
        at = where.at(key)
        if key == "acme_hosts":
            why = "is for the default site; the certificate of this one is for its hosts"
            at.note(f"{at}: {key} {why}.")
        elif key in BY_NAME:
            at.note(f"{at}: {key} {_FOR_THE_SERVER}.")
        elif key in ONLY_OF_ROUTES:
            at.note(f"{at}: {key}{for_a_route(key)}")
        else:
            at.note(f"{at} has no setting {key}{did_you_mean(key, SITE_KEYS)}")


def means_routes(key: str) -> bool:
    """Whether a key of a site's table that is none means its routes."""
    return key in ONLY_OF_ROUTES or (key not in SITE_KEYS and closest(key, SITE_KEYS) == "routes")


_FOR_THE_SERVER = "is for the whole server; it stands at the top of the file"


def for_a_route(key: str) -> str:
    """The end of a sentence about a key of ONLY_OF_ROUTES that stands elsewhere."""
    return f' is for a route: it stands in the table of one, such as "/" = {{ {_EXAMPLES[key]} }}.'


_EXAMPLES = {
    "app": 'app = "app:app"',
    "folder": 'folder = "./public"',
    "file": 'file = "./robots.txt"',
    "redirect": 'redirect = "/new"',
    "respond": 'respond = "pong"',
    "status_page": "status_page = true",
    "status": "status = 404",
}


def names_what_it_does(key: str) -> bool:
    """Whether a key that is none means one of ONLY_OF_ROUTES, as far as `check_route_keys` can tell."""
    if key in BY_NAME:
        return False
    return key in _OTHER_WORDS or closest(key, ROUTE_KEYS) in ONLY_OF_ROUTES


def one_of(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is none of a few: it suggests one, or has all."""
    close = closest(name, known)
    return f"; did you mean {close}?" if close else f": it may be {', '.join(known[:-1])} or {known[-1]}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known."""
    close = closest(name, known)
    return f"; did you mean {close}?" if close else "."


def closest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like it; "" if none is."""
    import difflib  # not at the start: no name is wrong as a rule

    close = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1)
    return close[0] if close else ""
