"""What a proxy says of its client in X-Forwarded fields or in Forwarded (RFC 7239), and from whom that is
believed.

Anybody can send these fields, so they count only from peers that are trusted (`forwarded_allow_ips`; a
unix socket's peer always, unless nobody is). From others they are removed before the application sees them.

Of several proxies each adds the address that its request came from at the end of X-Forwarded-For, or an
element at the end of Forwarded. So the client is the last address there that is not a trusted proxy's: what
stands before it is the client's own invention, or nobody's business. Scheme and host are, in Forwarded, those
of the same element: what the client used. Of the X-Forwarded fields the last value counts, which is that of
the nearest proxy.

`*` trusts whoever connects, and no address in the list: with one proxy in front, the client is the last one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

FOR, PROTO, HOST, PORT, PREFIX, FORWARDED = FIELDS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "forwarded",
)
ANYBODY = "*"

_PAIR = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)="""
    r"""(?:"((?:[^"\\]|\\.)*)"|([^",; \t=]*))[ \t]*(;|$)"""
)
"""RFC 7239 4: a parameter, and what ends it."""
MOST_COMMAS = 64
"""Proxies in a row that are looked at, at most."""


class Trust:
    """Whom to believe, and which fields."""

    def __init__(self, allow: Sequence[str], fields: Sequence[str]) -> None:
        """Addresses and networks, or "*"; names of fields. Raises ValueError with a sentence."""
        unknown = [name for name in fields if name.lower() not in FIELDS]
        if unknown:
            raise ValueError(f"forwarded_headers: {unknown[0]!r} is none of {', '.join(FIELDS)}.")
        self._anybody = ANYBODY in allow
        self._nobody = not allow
        self._networks = [_network(text) for text in allow if text != ANYBODY]
        self.fields = tuple(name.lower() for name in fields) if allow else ()
        self.has_warned = False
        """Whether the log says already that fields of a peer which is not trusted are removed."""
        self.believes_peer = lru_cache(4096)(self._believes_peer)
        self.client = lru_cache(4096)(self._client)

    @property
    def shaping(self) -> tuple[str, ...]:
        """Fields that change what a response says (its scheme, host, port and path), and not only who
        asked."""
        return tuple(name for name in self.fields if name != FOR)

    def _believes_peer(self, peer: str) -> bool:
        """Whether any of its fields is believed. `peer`: its address; "" on a unix socket."""
        return bool(self.fields) and self.trusts(peer)

    def trusts(self, peer: str) -> bool:
        """Whether it is a proxy of ours. `peer`: its address; "" on a unix socket."""
        if self._anybody or not peer:
            return not self._nobody
        address = _address(peer)
        return address is not None and self._is_proxy(address)

    def _is_proxy(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def _client(self, peer: str, named: str) -> str:
        """Who asked: `peer`, or whom it says that it asks for, if it is believed. `named`: see
        `named_clients`."""
        if not self.believes_peer(peer):
            return peer
        forwarded_for, _, forwarded = named.partition("\n")
        if forwarded and FORWARDED in self.fields:
            return self.nearest(peer, forwarded)[0]
        found = peer
        for text in reversed(forwarded_for.split(",") if FOR in self.fields else ()):
            address = _address(text)
            if address is None:
                break
            found = str(address)
            if not self._is_proxy(address):
                break
        return found

    def nearest(self, peer: str, forwarded: str) -> tuple[str, dict[str, str]]:
        """Of Forwarded: the client, and the element that names it, as its proxy wrote it."""
        found, said = peer, {}
        for element in _elements(forwarded):
            said = element
            address = _address(element.get("for", ""))
            if address is None:  # its proxy does not know, or does not say
                break
            found = str(address)
            if not self._is_proxy(address):
                break
        return found, said


def named_clients(fields: Mapping[str, str]) -> str:
    """What the fields (by name in lower case) say of who asks, as `Trust.client` takes it; "" if nothing."""
    forwarded_for, forwarded = fields.get(FOR, ""), fields.get(FORWARDED, "")
    return f"{forwarded_for}\n{forwarded}" if forwarded_for or forwarded else ""


def _elements(forwarded: str) -> Iterator[dict[str, str]]:
    """The elements of a Forwarded field (RFC 7239 4), the last one first, with the names of their parameters
    in lower case.

    Each is the shortest text behind a comma that is one: so whatever a client has put before what a proxy
    adds, an open quotation mark as well, the proxy's own element is found.
    """
    end = len(forwarded)
    for _ in range(MOST_COMMAS):
        comma = forwarded.rfind(",", 0, end)
        while (found := _element(forwarded[comma + 1 : end])) is None and comma >= 0:
            comma = forwarded.rfind(",", 0, comma)
        if found:
            yield found
        if found is None or comma < 0:
            return
        end = comma


def _element(text: str) -> dict[str, str] | None:
    """{} if there is nothing; None if it is no element."""
    found: dict[str, str] = {}
    text = text.strip(" \t")
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None or pair[1].lower() in found or (pair[4] and pair.end() == len(text)):
            return None
        found[pair[1].lower()] = pair[3] if pair[2] is None else re.sub(r"\\(.)", r"\1", pair[2])
        at = pair.end()
    return found


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(
            f"forwarded_allow_ips: {text!r} is neither an address such as 10.0.0.7, nor a network such as "
            "10.0.0.0/8, nor *."
        ) from None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, with or without a port; an IPv4 address also as IPv6 writes it (::ffff:10.0.0.7)."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return found
    if found.scope_id is not None:  # may be any text, and stand in a log
        return None
    return found.ipv4_mapped or found
