"""The environ of a request (PEP 3333).

What can be known once for a route and listener is in a dictionary that is copied; names of fields are
translated once; and what a head said that was read before is kept by its very bytes. Programs that call an
interface send the same head again and again: to copy what it said costs 0.3 µs, to read it again 2 and more.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from halfsync.handlers.errors import ErrorStream
from halfsync.handlers.forwarded_fields import (
    apply_forwarded_fields,
    has_forwarded_fields,
    remove_forwarded_fields,
)
from halfsync.handlers.wsgi_iterables import FileWrapper
from halfsync.handlers.wsgi_response import Invocation
from halfsync.handlers.wsgi_tunnel import TunnelMaker, may_switch
from halfsync.http.forwarded import Trust
from halfsync.http.request import RequestBody, authority_of, decoded, path_and_query, without_cookie
from halfsync.http.request_ids import without_id
from halfsync.plan.plan import Listener, PoolPlan, RoutePlan
from halfsync.tls.facts import variables
from halfsync.wire.messages import Task

Environ = dict[str, Any]

READ_SIZE = 64 * 1024
"""Bytes of a body that are read at once, if the application asks for less."""

MAX_SEEN = 512
MAX_SEEN_HEAD = 1024
"""Heads, and bytes of each, that are kept with what they say."""


class Environs:
    """Of the requests of one route."""

    def __init__(
        self,
        route: RoutePlan,
        pool: PoolPlan,
        listeners: Sequence[Listener],
        trust: Trust | None,
        is_client_gone: Callable[[], bool],
    ) -> None:
        """`trust`: whose X-Forwarded fields are believed; None: nobody's. `is_client_gone`: of the request
        that the calling thread handles, so that all have the same function."""
        self._trust = trust
        self._is_client_gone = is_client_gone
        self._prefix = route.prefix.encode().decode("latin-1")
        self._bases = [self._base(pool, listener) for listener in listeners]
        # By listener: heads that were read before, and what they said.
        self._seen: list[dict[bytes, Environ]] = [{} for _ in listeners]
        # Where the fast path looks by itself. It has no HEAD, and nothing over TLS, where each connection has
        # facts of its own.
        self.seen_in_clear: list[dict[bytes, Environ]] = [{} for _ in listeners]
        self._in_clear = [listener.scheme != "https" for listener in listeners]

    def _base(self, pool: PoolPlan, listener: Listener) -> Environ:
        """What is the same in every request of this route and listener."""
        secure = listener.scheme == "https"
        return {
            "SCRIPT_NAME": self._prefix,
            "SERVER_SOFTWARE": "halfsync",
            # Never empty (PEP 3333); on a unix socket nobody knows, and HTTP_HOST is what counts.
            "SERVER_NAME": listener.host or "localhost",
            "SERVER_PORT": str(listener.port or (443 if secure else 80)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": listener.scheme,
            **({"HTTPS": "on"} if secure else {}),
            "wsgi.errors": _errors,
            "wsgi.multithread": pool.threads > 1,
            "wsgi.multiprocess": pool.processes > 1,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,  # reading to the end is safe, whatever CONTENT_LENGTH says
            "wsgi.file_wrapper": FileWrapper,
            "halfsync.client_gone": self._is_client_gone,
        }

    def of(self, task: Task, spool: RequestBody | None, invocation: Invocation) -> Environ:
        """The environ of a request, whose body is in `spool` or in the task."""
        seen = self._seen[task.listener]
        head, cookie, request_id = task.head, None, ""
        found = seen.get(head)
        if found is None:
            head, request_id = without_id(head)
            head, cookie = without_cookie(head)
            if cookie is not None or request_id:
                found = seen.get(head)
        if found is not None and not task.body_size:
            environ = found.copy()
            if cookie is not None:
                environ["HTTP_COOKIE"] = cookie
            if request_id:
                environ["HTTP_X_REQUEST_ID"] = request_id
            environ["REMOTE_ADDR"] = task.client
            environ["REMOTE_PORT"] = PORTS[task.client_port]
            environ["halfsync.lease"] = invocation.ask_lease
        else:
            environ = self._first_environ(task, head, invocation)
        if task.tls:
            environ.update(variables(task.tls))
        if spool is not None:
            environ["wsgi.input"] = io.BufferedReader(spool, READ_SIZE)
        else:
            environ["wsgi.input"] = BytesIO(task.body) if task.body else BytesIO()
        return environ

    def _first_environ(self, task: Task, head: bytes, invocation: Invocation) -> Environ:
        """Of a head that was not read before. It is kept if it may come again and says all there is."""
        environ = self._read(task)
        by_proxy = self._trust is not None and has_forwarded_fields(environ)
        # Kept without any cookie: it is each client's own.
        if (
            not task.body_size
            and len(head) <= MAX_SEEN_HEAD
            and b"cookie" not in head.lower()
            and not by_proxy
            and "HTTP_UPGRADE" not in environ
        ):
            seen = self._seen[task.listener]
            if len(seen) >= MAX_SEEN:
                seen.clear()
                self.seen_in_clear[task.listener].clear()
            seen[head] = kept = environ.copy()
            kept.pop("HTTP_COOKIE", None)
            kept.update(_EACH)
            if self._in_clear[task.listener] and kept["REQUEST_METHOD"] != "HEAD":
                self.seen_in_clear[task.listener][head] = kept
        environ["REMOTE_ADDR"] = task.client
        environ["REMOTE_PORT"] = str(task.client_port)
        environ["halfsync.lease"] = invocation.ask_lease
        if "HTTP_UPGRADE" in environ and may_switch(environ):
            environ["halfsync.tunnel"] = TunnelMaker(environ["HTTP_UPGRADE"])
            environ["gunicorn.socket"] = invocation.give_socket()
        if by_proxy:
            self._believe(environ, task, invocation)
        return environ

    def _believe(self, environ: Environ, task: Task, invocation: Invocation) -> None:
        """The request has X-Forwarded fields."""
        assert self._trust is not None
        if self._trust.believes_peer(task.client):
            apply_forwarded_fields(self._trust, environ, task.client)
        else:
            # A lease would be the same for requests of a trusted peer with the same fields.
            environ["halfsync.lease"] = invocation.refuse_lease
            remove_forwarded_fields(self._trust, environ, task.client)

    def _read(self, task: Task) -> Environ:
        """What the head says, and the size of the body."""
        environ = self._bases[task.listener].copy()
        lines = str(task.head, "latin-1").split("\r\n")
        method, target, protocol = lines[0].split(" ")
        path, query = path_and_query(target)
        if "%" in path:
            path = decoded(path)
        if self._prefix:
            path = self._below(environ, path)
        environ["REQUEST_METHOD"] = method
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = query
        environ["REQUEST_URI"] = environ["RAW_URI"] = target
        environ["SERVER_PROTOCOL"] = protocol
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            key = _KEYS[name]
            if key in environ:
                environ[key] += ("; " if key == "HTTP_COOKIE" else ", ") + value.strip(" \t")
            elif key:
                environ[key] = value.strip(" \t")
        if target[:1] != "/" and (authority := authority_of(target)):
            environ["HTTP_HOST"] = authority
        if task.body_size > 0 or "CONTENT_LENGTH" in environ:  # -1: it comes in chunks
            environ["CONTENT_LENGTH"] = str(task.body_size)
        return environ

    def _below(self, environ: Environ, path: str) -> str:
        """The path without the route's prefix."""
        if path.startswith(self._prefix):
            return path[len(self._prefix) :]
        environ["SCRIPT_NAME"] = ""
        return path


_errors = ErrorStream()


class _Keys(dict[str, str]):
    """Field name as received -> key in the environ; "" for a field that the application does not
    see: one with an underscore (it would be taken for the one with a hyphen), and
    Transfer-Encoding (the body is decoded, CONTENT_LENGTH says its size)."""

    MAX = 1024

    def __missing__(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        if "_" in name or key == "TRANSFER_ENCODING":
            key = ""
        elif key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        if len(self) < self.MAX and len(name) <= 64:
            self[name] = key
        return key


_KEYS = _Keys()


class _Ports(dict[int, str]):
    """A client's port as the environ has it."""

    MAX = 1024

    def __missing__(self, port: int) -> str:
        if len(self) >= self.MAX:
            self.clear()
        self[port] = text = str(port)
        return text


PORTS = _Ports()

_EACH = dict.fromkeys(("REMOTE_ADDR", "REMOTE_PORT", "halfsync.lease", "wsgi.input"))
"""What differs with each request has its place in what is kept: to put it in does not enlarge the copy, which
would cost as much as the copy."""
