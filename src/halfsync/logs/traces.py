"""Spans of requests (`traces`), made of their log records and sent to a collector by OTLP over HTTP.

The span's place is in the record's header section, where the pump has put it (pump/traces.py): in
traceparent, and in two lines that no client can send, `:parent` and `:scheme`. Attributes are those of
OpenTelemetry's semantic conventions for HTTP servers, and some of our own. A thread of OpenTelemetry's
collects and sends.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from halfsync.http.forwarded import PROTO, Trust, named_clients
from halfsync.http.request import path_and_query
from halfsync.http.request_ids import FIELD, are_enabled
from halfsync.logs.error import log
from halfsync.logs.letters import Fields, RequestLine, ending, fields_in, host_of, named_host
from halfsync.settings.table import Settings
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import LogRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
PACKAGE = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
LAST_SECONDS = 2.0
"""For what is not sent yet when the worker ends."""
_PLACE = re.compile(
    rb"\r\ntraceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-01\r\n(?:X-Request-ID: [^\r\n]*\r\n)?"
    rb":parent: ([0-9a-f]{16})?\r\n:scheme: (https?)\r\n\r\n\Z"
)
"""How the header section of a request ends that is recorded. Lines that begin with a colon are the pump's."""
_PORTS = {"http": 80, "https": 443}


def is_installed() -> bool:
    try:
        return find_spec(PACKAGE) is not None
    except (ImportError, ValueError):
        return False


class RequestSpans:
    """Imports OpenTelemetry, which takes half a second: only where there are traces."""

    def __init__(self, settings: Settings, trust: Trust) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from halfsync import __version__
        from halfsync.logs.trace_failures import tell_of

        tell_of("opentelemetry")
        self._make = ReadableSpan
        self._trust = trust
        named = {} if _is_named(os.environ) else {"service.name": settings.name}
        self._resource = Resource.create(named)
        self._scope = InstrumentationScope("halfsync", __version__)
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint_of(settings.traces_endpoint)))

    def __call__(self, records: list[LogRecord]) -> None:
        for record in records:
            try:
                span = self._span(record)
                if span is not None:
                    self._processor.on_end(span)
            except Exception as error:  # noqa: BLE001 - a span less, and all the others as they should be
                log("error", f"A span can't be made: {error!r:.500}")

    def end(self) -> None:
        """Send what is there, if that does not take long."""
        last = threading.Thread(target=self._processor.force_flush, daemon=True)
        last.start()
        last.join(LAST_SECONDS)

    def _span(self, record: LogRecord) -> ReadableSpan | None:
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.span import TraceState
        from opentelemetry.trace.status import Status, StatusCode

        place = _PLACE.search(record.head)
        if place is None:  # it is not to be recorded, or was refused before it had one
            return None
        trace, here, caller = (int(one or b"0", 16) for one in place.groups()[:3])
        first, _, rest = record.head.partition(b"\r\n")
        line = RequestLine(first)
        fields = fields_in(rest, line.authority)
        sampled = TraceFlags(TraceFlags.SAMPLED)
        state = TraceState.from_header([fields["tracestate"]]) if "tracestate" in fields else None
        context = SpanContext(trace, here, is_remote=False, trace_flags=sampled, trace_state=state)
        above = SpanContext(trace, caller, is_remote=True, trace_flags=sampled) if caller else None
        scheme = place[4].decode()
        failed = error_of(record)
        begun = int(record.when * 1e9)
        method = line.method if line.method in METHODS else "HTTP"
        return self._make(
            name=method,
            context=context,
            parent=above,
            resource=self._resource,
            attributes=attributes_of(record, line, fields, self._trust, scheme),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=begun,
            end_time=begun + record.total_us * 1000,
            instrumentation_scope=self._scope,
        )


def error_of(record: LogRecord) -> str:
    """What went wrong on our side, or with the connection; "" if nothing did."""
    if record.status >= 500:
        return str(record.status)
    try:
        reason = CloseReason(record.ending)
    except ValueError:
        return ""
    return reason.name.lower() if reason.is_error else ""


def attributes_of(
    record: LogRecord, line: RequestLine, fields: Fields, trust: Trust, scheme: str
) -> dict[str, Any]:
    """By the semantic conventions (HTTP spans, server; 1.23 and later)."""
    peer = record.client.partition(" ")[0]
    named = named_clients(fields)
    if trust.believes_peer(peer) and PROTO in trust.fields:
        said = fields.get(PROTO, "").rpartition(",")[2].strip().lower()
        scheme = said if said in _PORTS else scheme
    path, query = path_and_query(line.target) if line.target != "-" else ("", "")
    found: dict[str, Any] = {
        "http.request.method": line.method if line.method in METHODS else "_OTHER",
        "url.scheme": scheme,
        "url.path": path,
        "network.protocol.version": "2" if line.protocol == "HTTP/2.0" else line.protocol[5:],
        "http.response.body.size": record.body_bytes,
        "halfsync.ending": ending(record.ending),
    }
    if line.method not in METHODS:
        found["http.request.method_original"] = line.method
    if query:
        found["url.query"] = query
    if record.status:
        found["http.response.status_code"] = record.status
    if named_host(fields):
        host = host_of(fields)
        port = (named_host(fields) or "").rpartition(":")[2]
        found["server.address"] = host.strip("[]")
        found["server.port"] = int(port) if port.isdecimal() else _PORTS.get(scheme, 80)
    if peer:
        found["network.peer.address"] = peer
        found["client.address"] = trust.client(peer, named) if named else peer
    if "user-agent" in fields:
        found["user_agent.original"] = fields["user-agent"]
    if failed := error_of(record):
        found["error.type"] = failed
    if record.queue_us >= 0:
        found["halfsync.queue.duration"] = record.queue_us / 1e6
    if record.handler_us >= 0:
        found["halfsync.handler.duration"] = record.handler_us / 1e6
    if are_enabled() and FIELD in fields:
        found["halfsync.request_id"] = fields[FIELD]
    return found


def endpoint_of(setting: str) -> str | None:
    """None: what the environment says (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT), or
    this machine's port 4318."""
    if not setting:
        return None
    scheme, _, rest = setting.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}/{path or 'v1/traces'}"


def _is_named(environ: Mapping[str, str]) -> bool:
    return "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
