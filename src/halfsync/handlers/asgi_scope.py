"""The scope of a request (ASGI HTTP & WebSocket 2.3 for requests, 2.5 for WebSockets).

What a head said that was read before is kept by its very bytes; a request that is the same costs copies. The
dictionary, its list of headers, and the dictionaries in it are the application's own.

Of requests 2.3 is the version that is announced, and `send` after the client has left is as it was until then
(see `HTTPInvocation.send`): with 2.4 Starlette does not listen for the client's leaving while it streams, and
would go on sleeping until it has something to send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from halfsync.handlers.forwarded_fields import apply_forwarded_fields, remove_forwarded_fields
from halfsync.http.forwarded import FIELDS, Trust
from halfsync.http.request import authority_of, decoded, path_and_query
from halfsync.http.request_ids import without_id
from halfsync.plan.plan import Listener, RoutePlan
from halfsync.tls import facts as tls_facts
from halfsync.wire.messages import Task

Scope = dict[str, Any]

ASGI = {"version": "3.0", "spec_version": "2.3"}
ASGI_OF_WEBSOCKET = {"version": "3.0", "spec_version": "2.5"}

MAX_SEEN = 512
MAX_SEEN_HEAD = 1024
"""Heads, and bytes of each, that are kept with what they say."""

_FORWARDED = frozenset(name.encode() for name in FIELDS)


class Scopes:
    """Of the requests of one route."""

    def __init__(
        self,
        route: RoutePlan,
        listeners: Sequence[Listener],
        trust: Trust | None,
        state: dict[str, Any] | None,
        certificates: Mapping[str, str],
    ) -> None:
        """`trust`: whose X-Forwarded fields are believed; None: nobody's. `state`: what the application has
        kept in its lifespan. `certificates`: the server's own, in PEM (see Certificates.shown)."""
        self._trust = trust
        self._prefix = route.prefix
        self._root_path = route.root_path
        self._state = {} if state is None else state
        self._listeners = listeners
        self._certificates = certificates
        self._seen: list[dict[bytes, Scope]] = [{} for _ in listeners]

    def of(self, task: Task) -> Scope:
        """The scope of a request. `scope["extensions"]` has "halfsync.lease" if a lease may be asked for."""
        seen = self._seen[task.listener]
        head, request_id = task.head, ""
        found = seen.get(head)
        if found is None:
            head, request_id = without_id(head)
            found = seen.get(head) if request_id else None
        if found is None:
            found = self._read(task)
            if self._trust is not None and any(name in _FORWARDED for name, _ in found["headers"]):
                return self._completed(self._believe(found, task), task, found["extensions"])
            if request_id:
                del found["headers"][-1]
            if len(head) <= MAX_SEEN_HEAD and b"\r\ncookie" not in head.lower():
                if len(seen) >= MAX_SEEN:
                    seen.clear()
                seen[head] = found
        scope = found.copy()
        scope["asgi"] = ASGI.copy()
        scope["headers"] = found["headers"].copy()
        if request_id:
            scope["headers"].append((b"x-request-id", request_id.encode("latin-1")))
        scope["client"] = (task.client, task.client_port) if task.client else None
        scope["state"] = self._state.copy()
        scope["extensions"] = extensions()
        if task.tls:
            scope["extensions"]["tls"] = self._tls(task.tls)
        return scope

    def of_websocket(self, task: Task) -> Scope:
        """The scope of a WebSocket. (Its head has a nonce in it: there is nothing to remember.)"""
        scope = self._read(task)
        if self._trust is not None and any(name in _FORWARDED for name, _ in scope["headers"]):
            scope = self._believe(scope, task)
        scope = self._completed(scope, task, {"websocket.http.response": {}})
        del scope["method"]
        scope["type"] = "websocket"
        scope["asgi"] = ASGI_OF_WEBSOCKET.copy()
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        named = b",".join(value for name, value in scope["headers"] if name == b"sec-websocket-protocol")
        names = [name.strip(" \t") for name in named.decode("latin-1").split(",")]
        scope["subprotocols"] = list(dict.fromkeys(name for name in names if name))
        return scope

    def _completed(self, scope: Scope, task: Task, extensions: dict[str, Any]) -> Scope:
        scope["state"] = self._state.copy()
        scope["extensions"] = extensions
        if task.tls:
            extensions["tls"] = self._tls(task.tls)
        return scope

    def _tls(self, encoded: bytes) -> dict[str, Any]:
        facts, chain = _facts_and_chain(encoded)
        return {
            "server_cert": self._certificates.get(facts.shown_name),
            "client_cert_chain": [*chain],
            "client_cert_name": None if facts.certificate is None else facts.certificate.subject,
            "client_cert_error": None,  # a connection with one would have been refused
            "tls_version": _VERSIONS.get(facts.version),
            "cipher_suite": facts.cipher_id & 0xFFFF or None,
        }

    def _read(self, task: Task) -> Scope:
        """What the head says, and what is known of the listener."""
        listener = self._listeners[task.listener]
        request_line, *lines = task.head.split(b"\r\n")
        del lines[-2:]
        method, target, protocol = str(request_line, "latin-1").split(" ")
        raw_path, query = path_and_query(target)
        headers = [_field(line) for line in lines]
        if target[:1] != "/" and (authority := authority_of(target)):
            headers = [one for one in headers if one[0] != b"host"]
            headers.insert(0, (b"host", authority.encode("latin-1")))
        path = decoded(raw_path).encode("latin-1").decode("utf-8", "replace")
        prefix = self._prefix if path.startswith(self._prefix) else ""
        return {
            "type": "http",
            "asgi": ASGI.copy(),
            "http_version": "2" if protocol.startswith("HTTP/2") else protocol.removeprefix("HTTP/"),
            "method": method.upper(),
            "scheme": listener.scheme,
            "path": self._root_path + path,
            "raw_path": raw_path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": self._root_path + prefix,
            "headers": headers,
            "client": (task.client, task.client_port) if task.client else None,
            "server": _server(listener),
            "extensions": extensions(),
            "state": None,
        }

    def _believe(self, scope: Scope, task: Task) -> Scope:
        """The request has X-Forwarded fields. They are read as for WSGI applications."""
        assert self._trust is not None
        environ: dict[str, object] = {"wsgi.url_scheme": scope["scheme"], "SCRIPT_NAME": ""}
        for name, value in scope["headers"]:
            key = "HTTP_" + str(name, "latin-1").upper().replace("-", "_")
            text = str(value, "latin-1")
            environ[key] = f"{environ[key]}, {text}" if key in environ else text
        if not self._trust.believes_peer(task.client):
            # A lease would be the same for requests of a trusted peer with the same fields.
            del scope["extensions"]["halfsync.lease"]
            remove_forwarded_fields(self._trust, environ, task.client)
            scope["headers"] = [one for one in scope["headers"] if one[0] not in _FORWARDED]
            return scope
        apply_forwarded_fields(self._trust, environ, task.client)
        scope["scheme"] = environ["wsgi.url_scheme"]
        scope["root_path"] = f"{environ['SCRIPT_NAME']}{scope['root_path']}"
        scope["path"] = f"{environ['SCRIPT_NAME']}{scope['path']}"
        if "REMOTE_ADDR" in environ:
            scope["client"] = (environ["REMOTE_ADDR"], 0)  # its port is not known
        if "HTTP_HOST" in environ:
            host = str(environ["HTTP_HOST"]).encode("latin-1")
            scope["headers"] = [(n, host if n == b"host" else v) for n, v in scope["headers"]]
        return scope


def extensions() -> dict[str, dict[str, Any]]:
    """What the server can do for a request. (A copy that shares the inner dictionaries would cost 0.05 us in
    place of 0.19, and what one request writes to them would be there for all others.)"""
    return {
        "http.response.pathsend": {},
        "http.response.zerocopysend": {},
        "http.response.early_hint": {},
        "http.response.trailers": {},
        "halfsync.lease": {},
    }


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


@lru_cache(tls_facts.MAX_KNOWN)
def _facts_and_chain(encoded: bytes) -> tuple[tls_facts.TLSFacts, tuple[str, ...]]:
    """What a connection has shown, and the client's certificate in PEM. (What a client sends beside it is no
    part of a session: where one is resumed, it is not there.)"""
    facts = tls_facts.decode(encoded)
    return facts, () if facts.certificate is None else (facts.certificate.pem,)


_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def _server(listener: Listener) -> tuple[str, int | None]:
    if listener.port:
        return listener.host, listener.port
    return listener.address.removeprefix("unix:"), None
