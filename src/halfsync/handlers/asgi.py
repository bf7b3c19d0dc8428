"""ASGI applications: the handler of a route (ASGI 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from halfsync.handlers.asgi_bodies import ArrivingBody, Body, KeptBody
from halfsync.handlers.asgi_http import HTTPInvocation
from halfsync.handlers.asgi_intercepting import InterceptedASGI
from halfsync.handlers.asgi_response import Application, Line
from halfsync.handlers.asgi_scope import Scopes
from halfsync.handlers.asgi_websocket import LineOfWebSocket, WebSocketInvocation
from halfsync.http.error_pages import ErrorPages
from halfsync.http.forwarded import Trust
from halfsync.http.header_rules import HeaderRules
from halfsync.plan.plan import Listener, RoutePlan
from halfsync.wire.messages import StreamedTask, Task, WebSocketTask


class LineWithCredit(Line, Protocol):
    def ask(self, number: int, size: int) -> None:
        """So many more bytes of this task's body may come."""


class ASGIHandler:
    """The handler of one route."""

    def __init__(
        self,
        application: Application,
        route: RoutePlan,
        listeners: Sequence[Listener],
        trust: Trust | None,
        rules: HeaderRules | None,
        pages: ErrorPages | None,
        state: dict[str, Any] | None,
        certificates: Mapping[str, str],
    ) -> None:
        """`trust`: whose X-Forwarded fields are believed. `rules`: for the headers of responses; `pages`: for
        errors. `state`: what the application has kept in its lifespan. `certificates`: as for Scopes."""
        if route.intercepts and pages is not None:
            application = InterceptedASGI(application, pages)
        self._application = application
        self._rules = rules
        self._pages = pages
        self._shaping = trust.shaping if trust is not None else ()
        self._scopes = Scopes(route, listeners, trust, state, certificates)

    def websocket(self, task: WebSocketTask, began: int, line: LineOfWebSocket) -> WebSocketInvocation:
        """What is to be run for a WebSocket."""
        return WebSocketInvocation(
            self._application,
            self._scopes.of_websocket(task),
            task,
            began,
            line,
            self._rules,
            self._pages,
        )

    def invocation(self, task: Task, descriptor: int, began: int, line: LineWithCredit) -> HTTPInvocation:
        """What is to be run for a request. `descriptor` is that of its body, if that is in a file, and is
        closed by it; else -1."""
        made = HTTPInvocation(
            self._application,
            self._scopes.of(task),
            task,
            began,
            line,
            self._rules,
            self._pages,
            self._shaping,
        )
        if task.body is None:
            made.take_body(self._body(task, descriptor, made, line))
        return made

    @staticmethod
    def _body(task: Task, descriptor: int, made: HTTPInvocation, line: LineWithCredit) -> Body:
        if isinstance(task, StreamedTask):
            return ArrivingBody(task, partial(line.ask, task.number), made.wait)
        return KeptBody(descriptor, task.body_size)
