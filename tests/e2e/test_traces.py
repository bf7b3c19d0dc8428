"""Traces: spans of a real server's requests, as a collector gets them by OTLP over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.harness import Answer, Client, pattern, serving, until
from tests.ports import free_port

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")


@dataclass
class Span:
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    status: int
    state: str
    begun: int
    ended: int
    resource: dict[str, Any]
    scope: str
    attributes: dict[str, Any] = field(default_factory=dict)


def plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class Collector(ThreadingHTTPServer):
    """Decodes what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Span] = []
        self.paths: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def take(self, path: str, data: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(data).resource_spans:
            for scope in group.scope_spans:
                for one in scope.spans:
                    self.spans.append(
                        Span(
                            one.name,
                            one.trace_id.hex(),
                            one.span_id.hex(),
                            one.parent_span_id.hex(),
                            one.kind,
                            one.status.code,
                            one.trace_state,
                            one.start_time_unix_nano,
                            one.end_time_unix_nano,
                            plain(group.resource.attributes),
                            scope.scope.name,
                            plain(one.attributes),
                        )
                    )
        self.paths.append(path)

    def span(self, span_id: str) -> Span:
        return until(lambda: [one for one in self.spans if one.id == span_id], told=self.shown)[0]

    def shown(self) -> str:
        return str(self.spans)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        assert self.headers["Content-Type"] == "application/x-protobuf"
        self.server.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory, collector):
    folder = tmp_path_factory.mktemp("traces")
    (folder / "public").mkdir()
    (folder / "public/small").write_bytes(pattern(100))
    arguments = ("--traces", "--traces-endpoint", collector.url, "--name", "shop", "--request-id", "proxy")
    targets = ("story:app", "/asgi=asgis:app", "/files=./public")
    with serving(folder, *targets, *arguments, environment=SOON) as server:
        yield server
        server.tracebacks = -1


def told(answer: Answer) -> tuple[str, str, str]:
    """Trace, span and flags, as the application was told."""
    found = PARENT.fullmatch(json.loads(answer.body)["HTTP_TRACEPARENT"])
    assert found
    return found[1], found[2], found[3]


def test_a_request_that_begins_a_trace(server, collector):
    before = time.time_ns()
    answer = server.get("/environ?a=b", "User-Agent: story/1")
    trace, span_id, flags = told(answer)
    assert flags == "01"
    span = collector.span(span_id)
    assert (span.name, span.trace, span.parent, span.kind, span.status) == ("GET", trace, "", 2, 0)
    assert before - 10**9 < span.begun <= span.ended < time.time_ns() + 10**9
    assert (span.scope, span.resource["service.name"]) == ("halfsync", "shop")
    attributes = span.attributes
    assert 0 <= attributes.pop("halfsync.queue.duration") < 60
    assert 0 < attributes.pop("halfsync.handler.duration") < 60
    assert attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/environ",
        "url.query": "a=b",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.response.body.size": len(answer.body),
        "server.address": "story.test",
        "server.port": 80,
        "network.peer.address": "127.0.0.1",
        "client.address": "127.0.0.1",
        "user_agent.original": "story/1",
        "halfsync.ending": "kept",
        "halfsync.request_id": answer["X-Request-ID"],
    }
    assert set(collector.paths) == {"/v1/traces"}


def test_a_request_of_a_trace_that_a_caller_has_begun(server, collector):
    state = "a=1,b=2"
    parent = f"TraceParent: 00-{TRACE}-{CALLER}-01"
    answer = server.get(
        "/environ", parent, f"tracestate: {state}", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"
    )
    trace, span_id, flags = told(answer)
    assert (trace, flags) == (TRACE, "01")
    assert json.loads(answer.body)["HTTP_TRACESTATE"] == state
    span = collector.span(span_id)
    assert (span.trace, span.parent, span.state) == (TRACE, CALLER, state)
    assert (span.attributes["client.address"], span.attributes["url.scheme"]) == ("192.0.2.7", "https")
    assert span.attributes["network.peer.address"] == "127.0.0.1"


def test_what_a_caller_does_not_record_is_not_recorded(server, collector):
    answer = server.get("/environ", f"traceparent: 00-{TRACE}-{CALLER}-00")
    trace, unrecorded, flags = told(answer)
    assert (trace, flags) == (TRACE, "00")
    collector.span(told(server.get("/environ"))[1])  # which came later
    assert unrecorded not in {span.id for span in collector.spans}


@pytest.mark.parametrize(
    "fields",
    [
        (f"traceparent: ff-{TRACE}-{CALLER}-01",),
        (f"traceparent: 00-{TRACE}-{CALLER}-01-more",),
        (f"traceparent: 00-{TRACE.upper()}-{CALLER}-01",),
        (f"traceparent: 00-{'0' * 32}-{CALLER}-01",),
        (f"traceparent: 00-{TRACE}-{'0' * 16}-01",),
        (f"traceparent: 00-{TRACE}-{CALLER}-1",),
        (f"traceparent: 00-{TRACE}-{CALLER}",),
        ("traceparent:",),
        (f"traceparent: 00-{TRACE}-{CALLER}-01",) * 2,
    ],
)
def test_what_is_no_place_in_a_trace_begins_one(server, collector, fields):
    answer = server.get("/environ", *fields, "tracestate: a=1")
    trace, span_id, _ = told(answer)
    assert trace != TRACE
    assert "HTTP_TRACESTATE" not in json.loads(answer.body)
    assert collector.span(span_id).parent == ""


def test_a_later_version_is_understood_as_far_as_it_is_the_same(server, collector):
    answer = server.get("/environ", f"traceparent: 01-{TRACE}-{CALLER}-03-more")
    assert told(answer)[0] == TRACE
    assert collector.span(told(answer)[1]).parent == CALLER


def spans_at(collector: Collector, path: str, count: int) -> list[Span]:
    def there() -> list[Span]:
        found = [span for span in collector.spans if span.attributes["url.path"] == path]
        return found if len(found) >= count else []

    return until(there, told=lambda: str(collector.spans))


@pytest.mark.parametrize("path", ["/leased", "/files/small", "/asgi/lease"])
def test_leased_responses_count_too(server, collector, path):
    with server.client() as client:
        for _ in range(4):
            assert client.ask(path).status == 200
    spans = spans_at(collector, path, 4)
    assert len({span.trace for span in spans}) == 4
    assert sum("halfsync.handler.duration" in span.attributes for span in spans) < 4


def test_an_asgi_application_is_told_too(server, collector):
    answer = server.get("/asgi/scope", f"traceparent: 00-{TRACE}-{CALLER}-01")
    headers = dict(json.loads(answer.body)["headers"])
    found = PARENT.fullmatch(headers["b:traceparent"].removeprefix("b:"))
    assert found
    assert collector.span(found[2]).parent == CALLER


def test_errors(server, collector):
    assert server.get("/fail").status == 500
    [failed] = spans_at(collector, "/fail", 1)
    assert (failed.status, failed.attributes["error.type"]) == (2, "500")
    assert server.get("/nothing").status == 404
    [missing] = spans_at(collector, "/nothing", 1)
    assert missing.status == 0
    assert "error.type" not in missing.attributes
    assert server.get("/hello?odd", method="PROPFIND").status == 200
    [odd] = [span for span in spans_at(collector, "/hello", 1) if span.attributes.get("url.query") == "odd"]
    assert (odd.name, odd.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert odd.attributes["http.request.method_original"] == "PROPFIND"


def test_with_http2_and_a_body(server, collector):
    with httpx.Client(http1=False, http2=True, base_url=server.url, timeout=60, trust_env=False) as client:
        answer = client.get("/environ", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
        found = PARENT.fullmatch(answer.json()["HTTP_TRACEPARENT"])
        assert found
        span = collector.span(found[2])
        assert (span.parent, span.attributes["network.protocol.version"]) == (CALLER, "2")
        assert client.post("/echo", content=b"x" * 100_000).content == b"x" * 100_000
    [posted] = spans_at(collector, "/echo", 1)
    assert (posted.name, posted.attributes["http.response.body.size"]) == ("POST", 100_000)


def test_a_malformed_request_can_forge_no_span(server, collector):
    forged = f"traceparent: 00-{TRACE}-{'1' * 16}-01\r\n:parent: {CALLER}\r\n:scheme: http\r\n\r\n"
    with server.client() as client:
        client.send(f"GET /forged HTTP/1.1\r\nHost: a\r\n{forged}".encode())
        assert client.answer().status == 400
    collector.span(told(server.get("/environ"))[1])
    assert "1" * 16 not in {span.id for span in collector.spans}


def test_health_checks_have_none(tmp_path):
    with collecting() as collector:
        environment = {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        arguments = ("story:app", "--traces", "--health-bind", f"127.0.0.1:{free_port()}")
        with serving(tmp_path, *arguments, environment=environment) as server:
            for address in server.addresses:
                with Client(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
                    client.ask("/-/healthy")
            last = told(server.get("/environ"))[1]
            collector.span(last)
        assert [span.attributes["server.port"] for span in collector.spans] == [80, 80]


def test_the_ratio_and_the_variables_of_opentelemetry(tmp_path):
    given = f"traceparent: 00-{TRACE}-{CALLER}-0"
    with collecting() as collector:
        environment = {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "ours"}
        arguments = ("story:app", "--traces", "--traces-ratio", "0.5")
        with serving(tmp_path, *arguments, environment=environment) as server:
            with server.client() as client:
                flags = [told(client.ask("/environ"))[2] for _ in range(200)]
                recorded = [told(client.ask("/environ", f"{given}1")) for _ in range(20)]
            assert 40 < flags.count("01") < 160
            assert {flag for _, _, flag in recorded} == {"01"}
        until(lambda: len(collector.spans) == flags.count("01") + 20, told=collector.shown)
        assert {span.resource["service.name"] for span in collector.spans} == {"ours"}


def test_what_was_not_sent_yet_is_sent_at_the_end(tmp_path):
    with collecting() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_PROPAGATORS": "none",
        }
        with serving(tmp_path, "story:app", "--traces", environment=environment) as server:
            trace, span_id, flag = told(server.get("/environ", f"traceparent: 00-{TRACE}-{CALLER}-00"))
            assert (trace != TRACE, flag) == (True, "01")
        assert collector.span(span_id).parent == ""


def test_a_collector_that_is_away_is_told_and_holds_nobody(tmp_path):
    away = f"http://127.0.0.1:{free_port()}"
    environment = {**SOON, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    arguments = ("--traces", "--traces-endpoint", away, "--access-logfile", "access")
    with serving(tmp_path, "story:app", *arguments, environment=environment) as server:
        for _ in range(3):
            assert server.get("/hello").status == 200
        server.until_logged("WARNING Traces: ")
        server.until(lambda: len((tmp_path / "access").read_text().splitlines()) == 3)


def test_off_it_is_a_header_like_any_other_and_a_reload_turns_it_on(tmp_path):
    settings = tmp_path / "app.toml"
    settings.write_text("")
    given = f"00-{TRACE}-{CALLER}-01"
    arguments = ("story:app", "-c", "app.toml")
    with collecting() as collector, serving(tmp_path, *arguments, environment=SOON) as server:
        answer = server.get("/environ", f"traceparent: {given}")
        assert json.loads(answer.body)["HTTP_TRACEPARENT"] == given
        settings.write_text(f'traces = true\ntraces_endpoint = "{collector.url}/own/path"\n')
        server.signal(signal.SIGHUP)
        server.until_logged("configuration is in effect")
        assert collector.span(told(server.get("/environ"))[1]).trace
        assert set(collector.paths) == {"/own/path"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sys.modules['opentelemetry'] = None", "pip install 'halfsync[otel]'"),
        ("sys.argv += ['--traces-endpoint', 'localhost:4318']", "has to begin with http:// or https://"),
    ],
)
def test_mistakes(tmp_path, code, words):
    begin = "import sys; sys.argv = ['halfsync', '.', '--traces']"
    command = [sys.executable, "-c", f"{begin}; {code}; from halfsync.start import main; main()"]
    environment = {**os.environ, "PWD": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
