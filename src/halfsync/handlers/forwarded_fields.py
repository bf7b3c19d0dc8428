"""X-Forwarded fields and Forwarded in an environ: what a trusted peer says of its client takes effect, and
what anybody else says is removed (see http/forwarded.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from halfsync.http.forwarded import FIELDS, FORWARDED, HOST, PORT, PREFIX, PROTO, Trust, named_clients
from halfsync.logs.error import log

Environ = dict[str, object]

KEYS = {name: "HTTP_" + name.upper().replace("-", "_") for name in FIELDS}
"""Of the environ, by field."""
_HOST = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+=:@-]+)+/?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def has_forwarded_fields(environ: Environ) -> bool:
    """Whether a request has any such field, to be believed or removed."""
    return any(key in environ for key in KEYS.values())


def apply_forwarded_fields(trust: Trust, environ: Environ, peer: str) -> None:
    """Have the environ say what a trusted peer says of its client."""
    fields = {name: str(environ[key]) for name, key in KEYS.items() if key in environ}
    client = trust.client(peer, named_clients(fields))
    if client != peer:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client, "0"  # its port is not known
    value = {name: fields[name].rpartition(",")[2].strip() for name in trust.fields if name in fields}
    if FORWARDED in value:
        _, said = trust.nearest(peer, fields[FORWARDED])
        value = {**value, PROTO: said.get("proto", ""), HOST: said.get("host", "")}
    _set_place(environ, value)
    prefix = value.get(PREFIX, "")
    if _PREFIX.fullmatch(prefix):
        environ["SCRIPT_NAME"] = prefix.rstrip("/") + str(environ.get("SCRIPT_NAME", ""))


def remove_forwarded_fields(trust: Trust, environ: Environ, peer: str) -> None:
    """Have the environ say nothing of what a peer that is not trusted has sent."""
    found = [name for name, key in KEYS.items() if environ.pop(key, None) is not None]
    if not trust.has_warned:
        trust.has_warned = True
        log(
            "warning",
            f"{found[0]} came from {peer}, which is not in forwarded_allow_ips: such fields are removed. "
            "(Said once.)",
        )


def _set_place(environ: Environ, value: Mapping[str, str]) -> None:
    """Scheme, host and port, as the client used them."""
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


def _port_in(host: str) -> str:
    _, colon, port = host.rpartition(":")
    return port if colon and port.isdigit() else ""
