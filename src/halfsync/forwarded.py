"""What a proxy says of its client in X-Forwarded fields, and from whom that is believed.

Anybody can send these fields, so they count only from peers that are trusted (`forwarded_allow_ips`; a
unix socket's peer always, unless nobody is). Of several proxies each adds the address it was asked from
at the end of X-Forwarded-For. So the client is the last address there that is not a trusted proxy's: what
stands before it is the client's own invention, or nobody's business. Of the other fields the last value
counts, which is that of the nearest proxy.

`*` trusts whoever connects, and no address in the list: with one proxy in front, the client is the last one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

FOR, PROTO, HOST, PORT = FIELDS = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
)
ANYBODY = "*"

_KEYS = {name: "HTTP_" + name.upper().replace("-", "_") for name in FIELDS}
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}

Environ = dict[str, object]


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
        self._keys = tuple(_KEYS[name] for name in self.fields)
        self.believes_peer = lru_cache(4096)(self._believes_peer)
        self.client = lru_cache(4096)(self._client)

    @property
    def shaping(self) -> tuple[str, ...]:
        """Fields that change what a response says (its scheme, host and port), and not only who asked."""
        return tuple(name for name in self.fields if name != FOR)

    def concerns(self, environ: Environ) -> bool:
        """Whether a request has any of the fields."""
        return any(key in environ for key in self._keys)

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

    def _client(self, peer: str, forwarded_for: str) -> str:
        """Who asked: `peer`, or whom it says that it asks for, if it is believed."""
        if FOR not in self.fields or not self.believes_peer(peer):
            return peer
        found = peer
        for text in reversed(forwarded_for.split(",")):
            address = _address(text)
            if address is None:
                break
            found = str(address)
            if not self._is_proxy(address):
                break
        return found

    def apply(self, environ: Environ, peer: str) -> None:
        """Have the environ say what a trusted peer says of its client."""
        value = _last_values(environ, self.fields)
        forwarded_for = environ.get(_KEYS[FOR])
        if isinstance(forwarded_for, str) and (client := self.client(peer, forwarded_for)) != peer:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client, "0"  # its port is not known
        host = value.get(HOST, "")
        if _HOST.fullmatch(host):
            environ["HTTP_HOST"] = host
        scheme = value.get(PROTO, "").lower()
        if scheme in _DEFAULT_PORTS:
            environ["wsgi.url_scheme"] = scheme
            if scheme == "https":
                environ["HTTPS"] = "on"
            else:
                environ.pop("HTTPS", None)
            environ["SERVER_PORT"] = _port_in(str(environ.get("HTTP_HOST", ""))) or _DEFAULT_PORTS[scheme]
        port = value.get(PORT, "")
        if port.isascii() and port.isdigit() and 0 < int(port) <= 65535:
            environ["SERVER_PORT"] = port


def _last_values(environ: Environ, fields: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in fields:
        value = environ.get(_KEYS[name])
        if isinstance(value, str):
            found[name] = value.rpartition(",")[2].strip()
    return found


def _port_in(host: str) -> str:
    _, colon, port = host.rpartition(":")
    return port if colon and port.isdigit() else ""


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
