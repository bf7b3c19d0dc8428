"""WSGI applications (PEP 3333): the handler of a route.

The road of a trivial request is short on purpose: its environ is a copy (wsgi_environ.py), its response's
head is remembered (wsgi_response.py), and a response of one small piece needs no Replier
(`WSGIHandler.quick`). What else an application returns is sent piece by piece, or from a file
(wsgi_iterables.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import Any

from halfsync.exceptions import HandlerTimeout
from halfsync.handlers.wsgi_environ import PORTS, Environ, Environs
from halfsync.handlers.wsgi_intercepting import InterceptedWSGI
from halfsync.handlers.wsgi_iterables import send
from halfsync.handlers.wsgi_response import OVER, Invocation, invocation_of
from halfsync.http.error_pages import ErrorPages
from halfsync.http.forwarded import Trust
from halfsync.http.request import RequestBody, request_named
from halfsync.http.request_ids import said
from halfsync.http.response import SLIGHT, SMALL, ClientDisconnectedError, Replier, Responder, internal_error
from halfsync.logs.error import failure, log
from halfsync.plan.plan import Listener, PoolPlan, RoutePlan
from halfsync.system.primitives import time
from halfsync.wire.messages import Task

Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

_now = time.monotonic_ns


class WSGIHandler:
    """The handler of one route."""

    def __init__(
        self,
        application: Application,
        route: RoutePlan,
        pool: PoolPlan,
        listeners: Sequence[Listener],
        trust: Trust | None = None,
        is_client_gone: Callable[[], bool] = bool,
    ) -> None:
        """`trust`: whose X-Forwarded fields are believed; None: nobody's. `is_client_gone`: of the request
        that the calling thread handles."""
        if route.intercepts and route.error_pages:
            application = InterceptedWSGI(application, ErrorPages(route.error_pages))
        self._application = application
        Invocation.shaping = trust.shaping if trust is not None else ()
        believed = trust if trust is not None and trust.fields else None
        self._environs = Environs(route, pool, listeners, believed, is_client_gone)
        self._seen = self._environs.seen_in_clear

    def quick(self, task: Task, began: int, responder: Responder) -> int:
        """The fast path: a request without a spooled body, whose response is one small piece as it is. What
        turns out to be anything else goes on as in `__call__`; nothing has been sent of it by then.

        Gives the time when it ended, or 0 if a Replier was used (see `worker.threads.Quick`).
        """
        invocation = Invocation()  # as in `invocation_of`, which would cost a call
        invocation.replier_made = None
        invocation.responder = responder
        invocation.task = task
        invocation.began = began
        invocation.head = None
        try:
            found = self._seen[task.listener].get(task.head)
            if found is None or task.body_size:
                environ = self._environs.of(task, None, invocation)
            else:  # as in `Environs.of`
                environ = found.copy()
                environ["REMOTE_ADDR"] = task.client
                environ["REMOTE_PORT"] = PORTS[task.client_port]
                environ["halfsync.lease"] = invocation.ask_lease
                environ["wsgi.input"] = BytesIO()
            application = self._application  # called as an attribute, it is looked up among methods first
            result = application(environ, invocation.start_response)
            head: Any = invocation.head  # a Head, or None
            if type(result) is list and len(result) == 1 and head is not None:
                piece = result[0]
                if (
                    type(piece) is bytes
                    and ((size := len(piece)) == head.length or head.length < 0)
                    and size <= SMALL
                    and invocation.replier_made is None
                    and not head.bodiless
                    and (found is not None or invocation.method != "HEAD")  # of which none is found
                ):
                    invocation.replier_made = OVER
                    responder.sent += size
                    if size > SLIGHT:
                        return responder.outbox.whole(task.number, head, piece, began)
                    put_small = responder.put_small  # as above
                    ended = _now()
                    put_small((head, task.number, piece, ended - began))
                    return ended
            send(invocation, result)
        except ClientDisconnectedError:
            _abort(invocation.replier)
        except HandlerTimeout:
            if invocation.replier_made is OVER:  # it came when that had been set, and nothing was sent
                invocation.replier_made = None
            _timed_out(task, invocation.replier)
        except BaseException:  # noqa: BLE001
            if not _has_conversed(invocation):
                _fail(task, invocation.replier)
        return 0

    def __call__(self, task: Task, spool: RequestBody | None, replier: Replier) -> None:
        invocation = invocation_of(task, replier)
        try:
            environ = self._environs.of(task, spool, invocation)
            send(invocation, self._application(environ, invocation.start_response))
        except ClientDisconnectedError:
            _abort(replier)
        except HandlerTimeout:
            _timed_out(task, replier)
        except BaseException:  # noqa: BLE001
            if not _has_conversed(invocation):
                _fail(task, replier)


# --- when it goes wrong ---------------------------------------------------------------------------


def _abort(replier: Replier) -> None:
    if replier.begun and not replier.ended:
        replier.abort()


def _timed_out(task: Task, replier: Replier) -> None:
    """It was interrupted. The client has its response; what is said here is that the handler has ended."""
    replier.end_if_child()
    log("info", f"{request_named(task.head, task.client)} was ended by HandlerTimeout.")
    if replier.begun:
        _abort(replier)
    else:
        replier.own(*internal_error(task.head))


def _has_conversed(invocation: Invocation) -> bool:
    """In an exception handler: whether that is only how a library that has used `gunicorn.socket` ends."""
    if invocation.socket is None or not invocation.socket.has_client:
        return False
    invocation.replier.end_if_child()
    invocation.socket.end()
    error = sys.exception()
    # Behind a generator, such as one of middleware, it is a RuntimeError (PEP 479).
    return isinstance(error, StopIteration) or isinstance(error and error.__cause__, StopIteration)


def _fail(task: Task, replier: Replier) -> None:
    """The application raised. The client gets 500 if nothing was sent, else a broken connection."""
    replier.end_if_child()
    line = str(task.head.partition(b"\r\n")[0], "latin-1").rpartition(" ")[0].partition("?")[0]
    when = "after" if replier.ended else "while sending" if replier.begun else "before"
    log("error", f"Exception {when} the response to {line}{said(task.head)}:\n{failure(skip=1)}")
    if replier.begun:
        _abort(replier)
    else:
        replier.own(*internal_error(task.head))
