"""What is logged, and where."""

from typing import Annotated, Literal

from halfsync.settings.table.about import Level, about
from halfsync.settings.table.processes import Processes


class Logging(Processes, frozen=True, kw_only=True):
    log_level: Annotated[
        Level, about("Logging", "The least severe messages to write to standard error.", metavar="LEVEL")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"],
        about(
            "Logging",
            "How the error log is written: as text, whose levels have colours on a terminal (unless NO_COLOR "
            "is set), or as one JSON object a line. What applications write is left as it is.",
            metavar="FORMAT",
        ),
    ] = "text"
    error_logfile: Annotated[
        str | None,
        about(
            "Logging",
            "Write the error log to this file in place of standard error; what applications write to "
            "standard error goes there too. - is standard error. Or send it to syslog, as in "
            "syslog:server=unix:/dev/log,facility=local7,tag=halfsync (those are the defaults; "
            "server=HOST:PORT is UDP, server=tcp://HOST:PORT TCP), or to systemd's journal: journald.",
            metavar="FILE",
        ),
    ] = None
    access_logfile: Annotated[
        str | None,
        about(
            "Logging",
            "Write a line for each request to this file; - is standard output. Or send it to syslog or the "
            "journal: see `error_logfile`; severity= is for this log.",
            metavar="FILE",
        ),
    ] = None
    access_logformat: Annotated[
        str,
        about(
            "Logging",
            "Format of the access log: common, combined, json, or a format string with Apache's letters.",
            metavar="FORMAT",
        ),
    ] = "combined"
    request_id: Annotated[
        Literal["off", "proxy", "client", "own"],
        about(
            "Logging",
            "Give each request an id, which stands in its header X-Request-ID, in that of its response, and "
            "in both logs. proxy: the one that a proxy in `forwarded_allow_ips` has sent, a new one if there "
            "is none. client: the same, whoever has sent it. own: always a new one. off: the header is "
            "passed on as any other. It costs processor time: with ids no two requests are alike, so none "
            "takes the fast path.",
            metavar="MODE",
        ),
    ] = "off"
    hostname_lookups: Annotated[
        Literal["off", "on", "double"],
        about(
            "Logging",
            "Look the names of clients up for the access log: %h is the name then, and %a stays the address "
            "(in JSON, there is client_name). double: only names that lead back to the address count. "
            "Lookups hold up neither requests nor responses; a line waits for its names for 5 seconds at "
            "most. For busy servers there is 'halfsync logresolve' afterwards.",
            metavar="MODE",
        ),
    ] = "off"
    traces: Annotated[
        bool,
        about(
            "Logging",
            "Send a span of each request to an OpenTelemetry collector, by OTLP over HTTP. Applications find "
            "it in the request's traceparent. The variables OTEL_... count where no setting says otherwise. "
            "It costs processor time, as `request_id` does. Needs packages: pip install 'halfsync[otel]'.",
        ),
    ] = False
    traces_endpoint: Annotated[
        str,
        about(
            "Logging",
            "Where the collector is, such as http://localhost:4318 (/v1/traces is added if there is no "
            "path). By default OTEL_EXPORTER_OTLP_ENDPOINT says it, or it is this machine's port 4318.",
            metavar="URL",
        ),
    ] = ""
    traces_ratio: Annotated[
        float,
        about(
            "Logging",
            "Share of the traces that begin here which are recorded, from 0 to 1. Of others, the caller has "
            "decided.",
            least=0,
            most=1,
        ),
    ] = 1.0
