"""What can stand in an access log line: Apache's letters, and our own. `formats` says what they are."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

import msgspec

from halfsync.http import request_ids
from halfsync.http.forwarded import named_clients
from halfsync.http.request import authority_of, fields_of, path_and_query
from halfsync.wire.closes import CloseReason

ENDINGS = {int(reason): reason.name.lower() for reason in CloseReason}


class RequestLine:
    """It may be anything, also cut off in the middle: it is logged as it came."""

    def __init__(self, line: bytes) -> None:
        self.line = str(line, "latin-1") or "-"
        parts = self.line.split(" ")
        self._is_whole = len(parts) == 3
        self.method, self.target, self.protocol = parts if self._is_whole else ("-", "-", "-")

    @property
    def path(self) -> str:
        return path_and_query(self.target)[0] if self._is_whole else "-"

    @property
    def query(self) -> str:
        return path_and_query(self.target)[1] if self._is_whole else ""

    @property
    def authority(self) -> str:
        return authority_of(self.target) if self._is_whole else ""


Fields = dict[str, str]

_AUTHORITY = ":authority"
"""In Fields: the host of a target in absolute form. No field has such a name."""


def fields_in(lines: bytes, authority: str) -> Fields:
    """Of the head after the request line, by lower-case name."""
    fields = fields_of(line for line in str(lines, "latin-1").split("\r\n") if line)
    if authority:
        fields[_AUTHORITY] = authority
    return fields


def user_of(fields: Fields) -> str:
    scheme, _, value = fields.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "-"
    try:
        user = base64.b64decode(value.strip(), validate=True).partition(b":")[0]
    except binascii.Error:
        return "-"
    return str(user, "latin-1") or "-"


def host_of(fields: Fields) -> str:
    return _host_and_port(fields)[0] or "-"


def port_of(fields: Fields) -> str:
    return _host_and_port(fields)[1] or "80"


def request_id_of(fields: Fields) -> str | None:
    """None, if requests have no ids here (`request_id`)."""
    return fields.get(request_ids.FIELD) if request_ids.are_enabled() else None


def named_host(fields: Fields) -> str | None:
    """What the request is for: the host of an absolute target wins over Host (RFC 9112 3.2.2)."""
    return fields.get(_AUTHORITY) or fields.get("host")


def _host_and_port(fields: Fields) -> tuple[str, str]:
    value = named_host(fields) or ""
    host, colon, port = value.rpartition(":")
    if not colon or port.endswith("]"):
        return value, ""
    return host, port


# --- the items of a format ------------------------------------------------------------------------


class Item(msgspec.Struct, frozen=True):
    """A piece of a format: constant text, or something of the request line, or of its fields, or an
    expression over the record `r` and, for %t, `stamp`."""

    text: str = ""
    of_line: Callable[[RequestLine], str] | None = None
    of_fields: Callable[[Fields], str] | None = None
    expression: str = ""
    cookie: bool = False
    is_site: bool = False
    is_client: bool = False
    is_name: bool = False  # of the client: its host's name where names are looked up


PEER = Item(expression="r.client or '-'")
CLIENT_BY_PROXY = Item(
    of_fields=named_clients,
    expression="(client(r.client, {f}) if {f} else r.client) or '-'",
)
"""In place of an item that is the client's address, where there may be a proxy: `{f}` is the name of what
`of_fields` gives."""


_DIRECTIVE = re.compile(r"%(?:[0-9,!]*)(?:\{(?P<name>[^}]*)\})?(?P<last>[<>])?(?P<letter>.)", re.DOTALL)


def items_of(source: str) -> list[Item]:
    items = []
    at = 0
    for match in _DIRECTIVE.finditer(source):
        items.append(Item(text=source[at : match.start()]))
        items.append(_item(match[0], match["letter"], match["name"]))
        at = match.end()
    if "%" in source[at:]:
        raise ValueError(f"The log format {source!r} ends in the middle of a directive.")
    items.append(Item(text=source[at:]))
    return [item for item in items if item != Item()]


def _item(directive: str, letter: str, name: str | None) -> Item:
    if re.match(r"%[0-9,!]", directive):
        raise ValueError(
            f"The log format's {directive!r} has a condition on the status; there are none here."
        )
    if name is None:
        if letter in SIMPLE:
            return SIMPLE[letter]
    elif letter == "i" and name:
        return field_item(name)
    elif letter == "a" and name == "c":
        return PEER
    elif letter == "t":
        return _time_item(name)
    elif letter == "T" and name in UNITS:
        return Item(expression=UNITS[name])
    elif letter == "x" and name in OWN:
        return OWN[name]
    elif letter == "e" and name == "UNIQUE_ID":  # mod_unique_id
        return SIMPLE["L"]
    raise ValueError(f"The log format has {directive!r}, which is not known.")


def field_item(name: str) -> Item:
    lower = name.lower()
    return Item(of_fields=lambda fields: escape(fields.get(lower) or "-"), cookie=lower == "cookie")


def _time_item(form: str) -> Item:
    form = form.removeprefix("begin:")
    if form.startswith("end:"):
        raise ValueError("The log format has a time 'end:', which is not known; %D says how long it took.")
    if form in _FRACTIONS:
        return Item(expression=_FRACTIONS[form])
    return Item(expression=f"strftime({form!r}, localtime(r.when))")


_FRACTIONS = {
    "sec": "int(r.when)",
    "msec": "int(r.when * 1000)",
    "usec": "int(r.when * 1000000)",
    "msec_frac": "f'{int(r.when * 1000) % 1000:03}'",
    "usec_frac": "f'{int(r.when * 1000000) % 1000000:06}'",
}
UNITS = {"us": "r.total_us", "ms": "r.total_us // 1000", "s": "r.total_us // 1000000"}

SIMPLE = {
    "%": Item(text="%"),
    "h": Item(expression="r.client or '-'", is_client=True, is_name=True),
    "a": Item(expression="r.client or '-'", is_client=True),
    "l": Item(text="-"),
    "u": Item(of_fields=lambda fields: escape(user_of(fields))),
    "t": Item(expression="stamp"),
    "r": Item(of_line=lambda line: escape(line.line)),
    "m": Item(of_line=lambda line: escape(line.method)),
    "U": Item(of_line=lambda line: escape(line.path)),
    "q": Item(of_line=lambda line: escape("?" + line.query if line.query else "")),
    "H": Item(of_line=lambda line: escape(line.protocol)),
    "s": Item(expression="r.status or '-'"),
    "b": Item(expression="r.body_bytes or '-'"),
    "B": Item(expression="r.body_bytes"),
    "O": Item(expression="r.wire_bytes"),
    "D": Item(expression="r.total_us"),
    "T": Item(expression="r.total_us // 1000000"),
    "v": Item(of_fields=lambda fields: escape(host_of(fields))),
    "V": Item(of_fields=lambda fields: escape(host_of(fields))),
    "p": Item(of_fields=lambda fields: escape(port_of(fields))),
    "L": Item(of_fields=lambda fields: escape(request_id_of(fields) or "-")),
    "P": Item(expression="getpid()"),
    "k": Item(expression="r.request_count"),
    "X": Item(expression="connection(r.ending)"),
}

OWN = {
    "queue": Item(expression="r.queue_us if r.queue_us >= 0 else '-'"),
    "handler": Item(expression="r.handler_us if r.handler_us >= 0 else '-'"),
    "total": Item(expression="r.total_us"),
    "ending": Item(expression="ending(r.ending)"),
    "site": Item(
        of_fields=lambda fields: named_host(fields) or "", expression="site(listener, {f})", is_site=True
    ),
}


def ending(number: int) -> str:
    return ENDINGS.get(number) or str(number)


def connection(number: int) -> str:
    """Apache's %X."""
    if number == CloseReason.KEPT:
        return "+"
    return "X" if number not in ENDINGS or CloseReason(number).is_error else "-"


_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 256)]}
_ESCAPES |= {ord('"'): '\\"', ord("\\"): "\\\\", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 13: "\\r"}
_PLAIN = re.compile(r"[ !#-\[\]-~]*").fullmatch


def escape(text: str) -> str:
    """As Apache does (ap_escape_logitem), so that it can stand between quotes in a line."""
    return text if _PLAIN(text) else text.translate(_ESCAPES)
