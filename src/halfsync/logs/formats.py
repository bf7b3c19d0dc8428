r"""Access log formats: compiled once into a function that renders a batch of records.

Formats are `common`, `combined`, `json`, or a string with Apache's letters (mod_log_config):

    %h %a      the client's address, which a trusted proxy may say;  %{c}a  the peer's itself
               (%h is its host's name, if `hostname_lookups` is on)
    %l         "-"
    %u         the user of basic authorization     %t         [23/Nov/2026:10:00:00 +0000]
    %{F}t      time by strftime(3) format F, or sec, msec, usec, msec_frac, usec_frac
    %r %m %U %q %H   request line, method, path, query (with ?), protocol
    %s %>s     status                              %b %B      bytes of the body ("-" or 0 for none)
    %O         bytes that the socket took, with head and framing
    %D %T      time in all, in microseconds; in seconds.   %{ms}T %{us}T %{s}T: in that unit
    %{Name}i   a field of the request              %v %V      the host that the client named
    %p         the port that the client named, or 80      %P  process id of the log's writer
    %L         the request's id (%{UNIQUE_ID}e also means it), or "-"
    %k         requests before on this connection  %X         X aborted, + kept, - closed
    %%         a percent sign

or with gunicorn's atoms, as in %(h)s (see `atoms`),

and with our own, in microseconds ("-" if no handler was asked):

    %{queue}x    from the whole request to the handler's begin
    %{handler}x  in the handler
    %{total}x    as %D
    %{site}x     the name of the site, or "-" for the default one
    %{ending}x   how it ended: the close reason's name in lower case, such as kept, client_disconnected

`json` gives an object a line, with the keys time, client, user, method, target, protocol, status,
body_bytes, wire_bytes, referer, user_agent, host, queue_us, handler_us, total_us, ending, request_count,
request_id, client_name.

How it is made fast: the items fall into three kinds. What depends on nothing is text in a template.
What depends on the request's head only is rendered together, and remembered by the head, or at least
by its field lines. Time is rendered once a second. What remains, some numbers, is put in by one
formatting expression. All that is Python source, compiled once. A record of `combined` takes 1 µs if its
head is known, 3 if it is new (of `json`: 4 and 6).

Escaping is Apache's: a quote as \", a backslash as \\, other controls and everything beyond ASCII as
\n, \t or \xhh. So no field can end a line or a quoted item. JSON is escaped by msgspec, and here what it
lets through: DEL and the C1 controls (U+0080 to U+009F), which are commands to some terminals.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from halfsync.http.forwarded import FOR, FORWARDED, Trust, named_clients
from halfsync.logs import atoms, letters
from halfsync.logs.letters import (
    CLIENT_BY_PROXY,
    Item,
    RequestLine,
    connection,
    ending,
    fields_in,
    named_host,
    request_id_of,
    user_of,
)
from halfsync.logs.names import Names
from halfsync.logs.sites import SiteNames
from halfsync.wire.messages import LogRecord

Render = Callable[[list[LogRecord]], bytes]

NAMED = {
    "common": '%h %l %u %t "%r" %>s %b',
    "combined": '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"',
}

MAX_REMEMBERED = 2048
"""Heads whose items are remembered."""
MAX_HEAD = 2048
"""Bytes of a head that is remembered; longer ones are rendered each time."""


def items_in(access_logformat: str) -> list[Item]:
    """Of a format with Apache's letters, or with gunicorn's `%(h)s`. Raises ValueError."""
    source = NAMED.get(access_logformat, access_logformat)
    return atoms.items_of(source) if atoms.is_gunicorns(source) else letters.items_of(source)


def compile_format(
    access_logformat: str,
    trust: Trust | None = None,
    sites: SiteNames | None = None,
    names: Names | None = None,
) -> Render:
    """The function that renders records in this format. Raises ValueError with a sentence that says
    what is wrong with it. `trust`: which proxies' word on their client is believed; None: no one's. `sites`:
    None: there is the default one alone. `names`: where clients have names, in place of their addresses."""
    by_proxy = trust is not None and not {FOR, FORWARDED}.isdisjoint(trust.fields)
    if access_logformat == "json":
        return _JSON(trust if by_proxy else None, names).render
    items = [_of_client(item, names, by_proxy=by_proxy) for item in items_in(access_logformat)]
    return _Compiled(items, trust, sites, names).render


def _of_client(item: Item, names: Names | None, *, by_proxy: bool) -> Item:
    found = CLIENT_BY_PROXY if item.is_client and by_proxy else item
    if item.is_name and names is not None:
        found = replace(found, expression=f"name({found.expression})")
    return found


def needs_times(access_logformat: str) -> bool:
    """Whether it has a duration. The pump takes none if not: that saves a look at the clock a record."""
    if access_logformat == "json":
        return True
    items = items_in(access_logformat)
    return any("_us" in item.expression for item in items)


def needs_cookie(access_logformat: str) -> bool:
    """Whether it has the request's cookies. If not, heads without them serve as well, and better:
    they repeat."""
    items = [] if access_logformat == "json" else items_in(access_logformat)
    return any(item.cookie for item in items)


def needs_site(access_logformat: str) -> bool:
    """Whether it has the names of sites."""
    items = [] if access_logformat == "json" else items_in(access_logformat)
    return any(item.is_site for item in items)


# --- rendering ------------------------------------------------------------------------------------


class _Compiled:
    """A format as a function. Used by one thread at a time."""

    def __init__(
        self, items: list[Item], trust: Trust | None, sites: SiteNames | None, names: Names | None
    ) -> None:
        self._trust = trust
        self._name = names.name if names is not None else None
        self._sites = sites or SiteNames([], [])
        self._of_line = [item.of_line for item in items if item.of_line is not None]
        self._of_fields = [item.of_fields for item in items if item.of_fields is not None]
        self._heads: dict[bytes, tuple[str, ...]] = {}
        self._blocks: dict[bytes, tuple[str, ...]] = {}  # field lines, which repeat where heads do not
        self.render = self._compile(items)

    def _compile(self, items: list[Item]) -> Render:
        """For `combined`, this makes:

        def render(records):
            lines = []
            second = -1
            for r in records:
                if r.when // 1 != second:
                    second = r.when // 1
                    stamp = clock(second)
                l0, f0, f1, f2, = find(r.head) or parts(r.head)
                lines.append('%s - %s %s "%s" ...' % (r.client or '-', f0, stamp, l0, ...))
            return "".join(lines).encode("ascii", "backslashreplace")
        """
        line_names = [f"l{number}" for number in range(len(self._of_line))]
        field_names = [f"f{number}" for number in range(len(self._of_fields))]
        names = "".join(f"{name}, " for name in line_names + field_names)
        template = "".join(item.text.replace("%", "%%") or "%s" for item in items) + "\n"
        values = _values(items, iter(line_names), iter(field_names))
        source = "def render(records):\n    lines = []\n    second = -1\n    for r in records:\n"
        if any(item.expression == "stamp" for item in items):
            source += "        if r.when // 1 != second:\n"
            source += "            second = r.when // 1\n            stamp = clock(second)\n"
        if any(item.is_site for item in items):
            source += "        peer, _, listener = r.client.partition(' ')\n"
            values = values.replace("r.client", "peer")
        if names:
            source += f"        {names} = find(r.head) or parts(r.head)\n"
        source += f"        lines.append({template!r} % ({values}))\n"
        source += '    return "".join(lines).encode("ascii", "backslashreplace")\n'
        scope: dict[str, object] = {
            "client": self._trust.client if self._trust is not None else None,
            "clock": _clock,
            "connection": connection,
            "ending": ending,
            "find": self._heads.get,
            "getpid": os.getpid,
            "localtime": time.localtime,
            "name": self._name,
            "parts": self._parts,
            "site": self._sites.name,
            "strftime": time.strftime,
        }
        exec(source, scope)
        render: Render = scope["render"]  # type: ignore[assignment]
        return render

    def _parts(self, head: bytes) -> tuple[str, ...]:
        first, _, rest = head.partition(b"\r\n")
        line = RequestLine(first)
        parts = tuple([render(line) for render in self._of_line])
        if self._of_fields:
            if authority := line.authority:
                parts += self._parts_of_fields(rest, authority)
            else:
                parts += self._blocks.get(rest) or self._remembered_parts(rest)
        _remember(self._heads, head, parts)
        return parts

    def _parts_of_fields(self, block: bytes, authority: str) -> tuple[str, ...]:
        fields = fields_in(block, authority)
        return tuple([render(fields) for render in self._of_fields])

    def _remembered_parts(self, block: bytes) -> tuple[str, ...]:
        parts = self._parts_of_fields(block, "")
        _remember(self._blocks, block, parts)
        return parts


def _values(items: list[Item], lines: Iterator[str], fields: Iterator[str]) -> str:
    """What is put into the template: names and expressions, in the format's order."""
    values = ""
    for item in items:
        if item.of_line is not None:
            values += next(lines) + ", "
        elif item.of_fields is not None:
            name = next(fields)
            values += (item.expression.replace("{f}", name) or name) + ", "
        elif item.expression:
            values += item.expression + ", "
    return values


def _remember(table: dict[bytes, tuple[str, ...]], key: bytes, parts: tuple[str, ...]) -> None:
    if len(key) <= MAX_HEAD:
        if len(table) >= MAX_REMEMBERED:
            table.clear()
        table[key] = parts


def _clock(second: float) -> str:
    """%t. Month names are English whatever the locale says."""
    local = time.localtime(second)
    return time.strftime(f"[%d/{_MONTHS[local.tm_mon - 1]}/%Y:%H:%M:%S %z]", local)


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class _Line(msgspec.Struct):
    """The keys of `json`, in order."""

    time: str
    client: str
    user: str | None
    method: str
    target: str
    protocol: str
    status: int
    body_bytes: int
    wire_bytes: int
    referer: str | None
    user_agent: str | None
    host: str | None
    queue_us: int | None
    handler_us: int | None
    total_us: int
    ending: str
    request_count: int
    request_id: str | None
    client_name: str | None


_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")
"""In UTF-8: the controls that JSON allows unescaped. They can stand in strings only."""


def _as_escape(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode())


class _JSON:
    def __init__(self, trust: Trust | None, names: Names | None) -> None:
        self._trust = trust
        self._names = names
        self._encoder = msgspec.json.Encoder()

    def render(self, records: list[LogRecord]) -> bytes:
        lines = self._encoder.encode_lines([_line(record, self._trust, self._names) for record in records])
        return _CONTROLS.sub(_as_escape, lines)


def _line(r: LogRecord, trust: Trust | None, names: Names | None) -> _Line:
    first, _, rest = r.head.partition(b"\r\n")
    request = RequestLine(first)
    fields = fields_in(rest, request.authority)
    user = user_of(fields)
    client, named = r.client, named_clients(fields)
    if trust is not None and named:
        client = trust.client(client, named)
    micro = int(r.when * 1_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micro // 1_000_000))
    return _Line(
        f"{stamp}.{micro % 1_000_000:06}Z",
        client,
        user if user != "-" else None,
        request.method,
        request.target,
        request.protocol,
        r.status,
        r.body_bytes,
        r.wire_bytes,
        fields.get("referer"),
        fields.get("user-agent"),
        named_host(fields),
        r.queue_us if r.queue_us >= 0 else None,
        r.handler_us if r.handler_us >= 0 else None,
        r.total_us,
        ending(r.ending),
        r.request_count,
        request_id_of(fields),
        _name_beside(client, names),
    )


def _name_beside(client: str, names: Names | None) -> str | None:
    name = names.name(client) if names is not None else client
    return name if name != client else None
