"""gunicorn's way of writing an access log format: `%(h)s %(l)s "%(r)s"`, translated item by item.

Nearly each of its atoms is one of Apache's letters. Those that differ: `q` has no question mark, `f` and
`a` are Referer and User-Agent, `M` is milliseconds, `L` seconds with their fraction, `p` a process id in
angle brackets. (Here the process is the one that writes the log.)
"""

from __future__ import annotations

import re

from halfsync.logs.letters import SIMPLE, UNITS, Item, escape, field_item

_ATOM = re.compile(r"%(?:\((?P<atom>[^)]*)\)(?P<conversion>[^a-zA-Z]*[a-zA-Z])?|(?P<percent>%))")

_SPECIAL = {
    "q": Item(of_line=lambda line: escape(line.query)),
    "f": field_item("referer"),
    "a": field_item("user-agent"),
    "M": Item(expression=UNITS["ms"]),
    "L": Item(expression="f'{r.total_us / 1000000:.6f}'"),
    "p": Item(expression="f'<{getpid()}>'"),
}
_VARIABLES = {
    "REMOTE_ADDR": SIMPLE["h"],
    "REQUEST_METHOD": SIMPLE["m"],
    "PATH_INFO": SIMPLE["U"],
    "QUERY_STRING": _SPECIAL["q"],
    "SERVER_PROTOCOL": SIMPLE["H"],
    "RAW_URI": Item(of_line=lambda line: escape(line.target)),
    "CONTENT_TYPE": field_item("content-type"),
    "CONTENT_LENGTH": field_item("content-length"),
}


def is_gunicorns(source: str) -> bool:
    return "%(" in source


def items_of(source: str) -> list[Item]:
    """Raises ValueError with a sentence that says what is wrong with it."""
    items = []
    at = 0
    for match in _ATOM.finditer(source):
        items.append(Item(text=_text(source[at : match.start()], source)))
        items.append(SIMPLE["%"] if match["percent"] else _item(match[0], match["atom"], match["conversion"]))
        at = match.end()
    items.append(Item(text=_text(source[at:], source)))
    return [item for item in items if item != Item()]


def _text(text: str, source: str) -> str:
    if "%" in text:
        raise ValueError(f"The log format {source!r} has a '%' that begins no directive such as %(h)s.")
    return text


def _item(directive: str, atom: str, conversion: str | None) -> Item:
    if conversion != "s":
        raise ValueError(f"The log format has {directive!r}; a directive of this kind ends with )s.")
    if atom in _SPECIAL:
        return _SPECIAL[atom]
    if atom in _GUNICORNS_LETTERS:
        return SIMPLE[atom]
    braced = re.fullmatch(r"\{([^}]+)\}([ioe])", atom)
    if braced is not None:
        return _braced(directive, braced[1], braced[2])
    raise ValueError(f"The log format has {directive!r}, which is not known.")


_GUNICORNS_LETTERS = frozenset("hlutrsmUHbBTD")


def _braced(directive: str, name: str, kind: str) -> Item:
    if kind == "i":
        return field_item(name)
    if kind == "o":
        raise ValueError(f"The log format has {directive!r}: fields of the response are not logged here.")
    if name in _VARIABLES:
        return _VARIABLES[name]
    if name.startswith("HTTP_"):
        return field_item(name.removeprefix("HTTP_").replace("_", "-"))
    raise ValueError(f"The log format has {directive!r}: the application's environ is not known to the log.")
