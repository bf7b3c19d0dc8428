"""The status page, in its forms, of a server that does something."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import certificates
from tests.e2e.harness import Server, request, serving
from tests.e2e.test_control import said

APPLICATION = """
import time
from pathlib import Path
def app(environ, start):
    while environ["PATH_INFO"] == "/slow" and not Path("go").exists():
        time.sleep(0.02)
    start("404 Not Found" if environ["PATH_INFO"] == "/missing" else "200 OK", [])
    return [b"fine"]
"""

LOOP = """
import asyncio
from pathlib import Path
async def app(scope, receive, send):
    while scope["type"] == "http" and "slow" in scope["path"] and not Path("go").exists():
        await asyncio.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
"""

SETTINGS = """
[routes]
"/" = { app = "app:app", workers = 2, threads = 3 }
"/loop" = "loop:app"
"/public" = { folder = "public", lease = 3600 }
"/status" = { status_page = true }
"/gone" = { status = 410 }
"/hidden" = { status_page = true, allow = ["192.0.2.0/24"] }
"""

HITS = "lease_slow_hits" if "HALFSYNC_TEST_TRANSPORT" in os.environ else "lease_hits"
"""What most responses that leases give are counted as. On the hot path, what a read gave is looked up as it
is: that serves where a read gives all that has come."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("status")
    (folder / "app.py").write_text(APPLICATION)
    (folder / "loop.py").write_text(LOOP)
    (folder / "halfsync.toml").write_text(SETTINGS)
    (folder / "public").mkdir()
    (folder / "public/a.txt").write_text("a" * 1000)
    (folder / "public/b.txt").write_text("b" * 1000)
    with serving(folder) as running:
        # It serves when the first worker of each application does.
        running.until(lambda: idle_ones(running) == 2 * 3 + 4 + 1)
        yield running


def idle_ones(server: Server) -> int:
    """Threads, and places in event loops."""
    return "".join(one["letters"] for one in found(server)["workers"]).count("_")


def found(server: Server) -> dict[str, Any]:
    answer = server.get("/status?json")
    assert answer.status == 200
    assert answer["Content-Type"] == "application/json"
    return dict(json.loads(answer.body))


def test_what_is_counted_is_what_was_done(server):
    before = found(server)
    with server.client() as client:
        for target, status in (("/", 200), ("/x", 200), ("/missing", 404)):
            for _ in range(10):
                assert client.ask(target).status == status
        for _ in range(20):
            assert client.ask("/public/a.txt").status == 200
    after = found(server)

    def more(*keys: str) -> int:
        new: Any = after
        old: Any = before
        for key in keys:
            new, old = new.get(key, {}), old.get(key, {})
        return int(new or 0) - int(old or 0)

    # The page's own request before this one is the one that is counted beside them.
    assert more("requests") == 51
    assert more("responses", "404") == 10
    assert more("responses", "200") + more("lease_hits") == 41
    assert more(HITS) >= 10
    assert more("connections_accepted") == 2
    assert 20 * 1000 < more("bytes_sent") < 40_000
    [app], [app_before] = (
        [one for one in of["handlers"] if one["pool"] == "app:app"] for of in (after, before)
    )
    assert sum(app["times"]) - sum(app_before["times"]) == 30
    assert app["seconds"] > app_before["seconds"]


def test_threads_that_work_are_letters_and_requests_that_run_are_listed(server):
    go: Path = server.errors.parent / "go"
    with server.client() as client:
        client.send(request("/slow?<b>"))
        server.until(lambda: "W" in "".join(one["letters"] for one in found(server)["workers"]))
        workers = [one for one in found(server)["workers"] if one["pool"] == "app:app"]
        assert sorted("".join(sorted(one["letters"])) for one in workers) == ["W__", "___"]
        [slot] = [slot for one in workers for slot in one["slots"] if slot["letter"] == "W"]
        assert (slot["request"], slot["host"], slot["client"]) == (
            "GET '/slow?<b>'",
            "story.test",
            "127.0.0.1",
        )
        assert all((slot["seconds"] or 0) >= 0 for one in workers for slot in one["slots"])
        [task] = [task for one in workers for task in one["tasks"]]
        assert task["request"] == "GET '/slow?<b>'"
        assert (task["host"], task["client"]) == ("story.test", "127.0.0.1")
        page = server.get("/status")
        assert page["Content-Type"] == "text/html; charset=utf-8"
        text = page.body.decode()
        assert "&lt;b&gt;" in text
        assert re.search(r'<b class="W" title="GET &#x27;/slow\?&lt;b&gt;&#x27; for \d+\.\d s">W</b>', text)
        assert "<td>127.0.0.1</td><td>story.test</td><td>GET &#x27;/slow?&lt;b&gt;&#x27;</td>" in text
        assert "<b>" not in text
        go.touch()
        assert client.answer().status == 200
    go.unlink()


class Checked(HTMLParser):
    """Every element is closed, and nothing is loaded from anywhere."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not {"src", "style", "onclick"} & {name for name, _ in attrs}
        for name, value in attrs:
            assert name != "href" or str(value).startswith("?")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(server):
    page = server.get("/status")
    checked = Checked()
    checked.feed(page.body.decode())
    assert checked.open == []
    assert {"table", "h2"} <= set(checked.seen)
    assert not {"img", "link", "iframe"} & set(checked.seen)
    assert "prefers-color-scheme: dark" in page.body.decode()
    # The one script is the one that the policy lets run.
    [script] = re.findall("<script>(.*?)</script>", page.body.decode(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page["Content-Security-Policy"] == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src 'self'"
    )
    assert page["Cache-Control"] == "no-store"
    assert b'http-equiv="refresh" content="7"' in server.get("/status?refresh=7").body


def test_the_documentation_names_all_members_of_the_json_and_no_other(server):
    server.get("/")
    page = (Path(__file__).parents[2] / "docs/reference/status-json.md").read_text()
    rows = dict(re.findall(r"^\| (`.*`) \| (.*) \|$", page, re.MULTILINE))
    members = {name for names in rows for name in re.findall(r"`([a-z_]+)`", names)}
    seen = found(server)
    assert members == set(seen)
    for name in ("pools", "handlers"):
        assert {*re.findall(r"`([a-z_]+)`", rows[f"`{name}`"])} == set(seen[name][0])
    assert {*re.findall(r"`([a-z_]+)`", rows["`workers`"])} == set(seen["workers"][0])
    worker = next(one for one in seen["processes"] if one["role"] == "worker")
    assert {*re.findall(r"`([a-z_]+)`", rows["`processes`"])} == set(worker)


def test_as_mod_status_has_it(server):
    server.get("/status")  # it may be the server's first
    server.until(lambda: idle_ones(server) == 11)  # what the test before has asked is over
    lines = dict(line.split(": ", 1) for line in server.get("/status?auto").body.decode().splitlines())
    assert int(lines["Total Accesses"]) > 0
    assert int(lines["IdleWorkers"]) == 2 * 3 + 4 + 1
    assert lines["BusyWorkers"] == "0"
    assert lines["Scoreboard"] == "_" * 11


def test_tasks_of_an_event_loop(server):
    go: Path = server.errors.parent / "go"
    clients = [server.client() for _ in range(3)]
    for client in clients:
        client.send(request("/loop/slow"))

    def letters() -> str:
        [worker] = [one for one in found(server)["workers"] if one["pool"] == "loop:app"]
        return str(worker["letters"])

    server.until(lambda: letters() == "WWW_")
    lines = dict(line.split(": ", 1) for line in server.get("/status?auto").body.decode().splitlines())
    assert (lines["BusyWorkers"], lines["GracefulWorkers"]) == ("3", "0")
    go.touch()
    for client in clients:
        assert client.answer().status == 200
        client.close()
    server.until(lambda: letters() == "_")
    go.unlink()


def test_as_prometheus_reads_it(server):
    assert server.get("/").status == server.get("/status").status == 200  # they may be the server's first
    answer = server.get("/status/metrics")
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    assert server.get("/status?metrics").status == 200
    families = {one.name: one for one in text_string_to_metric_families(answer.body.decode())}
    assert all(name.startswith("halfsync_") and one.documentation for name, one in families.items())
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for one in families.values()
        for sample in one.samples
    }
    assert values["halfsync_pool_threads", "app:app"] == 6
    assert values["halfsync_responses_total", "200"] > 0
    assert values["halfsync_processes", "app:app", "worker", "working"] == 2
    assert families["halfsync_responses"].type == "counter"
    histogram = families["halfsync_handler_seconds"]
    assert histogram.type == "histogram"
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in histogram.samples
        if sample.name.endswith("_bucket") and sample.labels["pool"] == "app:app"
    ]
    assert buckets == sorted(buckets)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1] == (math.inf, values["halfsync_handler_seconds_count", "app:app"])
    assert buckets[-1][1] > 0


def test_requests_that_are_refused_are_counted_by_reason(server):
    before = found(server)["refused"]
    assert server.get("/hidden").status == 403
    assert server.get("/status/dance").status == 404
    assert server.get("/" + "x" * 10_000).status == 414
    assert server.get("/", "Content-Length: x").status == 400
    assert server.get("/gone").status == 410, "which is what that route is for, and no refusal"
    after = found(server)["refused"]
    more = {reason: count - before.get(reason, 0) for reason, count in after.items()}
    assert {reason: count for reason, count in more.items() if count} == {
        "allow": 1,
        "not_found": 1,
        "limit_request_line": 1,
        "malformed": 1,
    }
    page = server.get("/status").body.decode()
    assert "<td>limit_request_line</td>" in page
    assert 'halfsync_refused_total{reason="allow"}' in server.get("/status/metrics").body.decode()


def test_connections_that_are_closed_are_counted_by_reason(server):
    before = found(server)["connections_closed"]
    assert server.get("/", "Connection: close").status == 200
    with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHo")  # and leaves

    def is_counted(reason: str) -> bool:
        return bool(found(server)["connections_closed"].get(reason, 0) > before.get(reason, 0))

    server.until(lambda: is_counted("answered") and is_counted("client_disconnected"))
    assert "<td>client_disconnected</td>" in server.get("/status").body.decode()
    metrics = server.get("/status/metrics").body.decode()
    assert 'halfsync_connections_closed_total{reason="answered"}' in metrics


def test_what_leases_save(server):
    before = found(server)
    with server.client() as client:
        for _ in range(20):
            assert client.ask("/public/b.txt").status == 200
    after = found(server)

    def more(name: str) -> int:
        return int(after[name]) - int(before[name])

    assert more("lease_hits") + more("lease_slow_hits") + more("lease_misses") == 20
    assert more("lease_misses") >= 1
    assert more(HITS) > 10


def test_processes_with_their_generation(server):
    rows = [one for one in found(server)["processes"] if one.get("pool") == "app:app"]
    assert [(one["role"], one["state"], one["generation"]) for one in rows] == [("worker", "working", 0)] * 2
    assert all(one["memory"] > 1_000_000 for one in rows)
    assert found(server)["certificates"] == []


def test_certificates_and_when_they_expire(tmp_path):
    """One that expires soon is marked."""
    expires = datetime.now(UTC) + timedelta(days=2, hours=23, minutes=30)
    names = certificates.write(tmp_path, certificates.issued("soon.test", not_after=expires))
    (tmp_path / "halfsync.toml").write_text(
        f'bind = "https://127.0.0.1:0"\ncertfile = "{names[0]}"\nkeyfile = "{names[1]}"\n'
        '[routes]\n"/status" = { status_page = true }\n'
        '[sites."soon.test"]\n[sites."soon.test".routes]\n"/" = { respond = "x" }\n'
    )
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        port = int(server.addresses[0].rpartition(":")[2])
        context = certificates.client_context(checks=False)
        with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as secure:
            secure.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            page = b"".join(iter(lambda: secure.recv(65536), b"")).decode()
    assert f"<td>{expires:%Y-%m-%d}</td><td class=alarm>2 d 23 h</td>" in page


def test_who_may_see_it(server):
    assert server.get("/hidden").status == 403
    forwarded = "X-Forwarded-For: 198.51.100.7"
    assert server.get("/status", forwarded).status == 403
    assert server.get("/hidden", "X-Forwarded-For: 192.0.2.9").status == 200


def test_it_is_only_to_be_read(server):
    assert server.get("/status", method="HEAD").status == 200
    assert server.get("/status", method="POST", body=b"x").status == 405
    assert server.get("/status?dance").status == 404
    assert server.get("/status/dance").status == 404


TWO_SIZES = """
control_socket = "control"
[routes]
"/" = { app = "app:app", threads = 2 }
"/b" = { app = "app:app", threads = 3 }
"/c" = { app = "app:app", threads = 2 }
"/status" = { status_page = true }
[sites."other.test".routes]
"/b" = { app = "app:app", threads = 5 }
"""


def test_pools_of_one_application_have_names_of_their_own(tmp_path):
    """Prometheus does not take a sample twice, and nobody could tell whose threads these are."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "halfsync.toml").write_text(TWO_SIZES)
    names = {"app:app": 2, "app:app at /b": 3, "app:app at /b (2)": 5}
    with serving(tmp_path) as server:
        samples = [
            (sample.name, *sorted(sample.labels.items()))
            for one in text_string_to_metric_families(server.get("/status/metrics").body.decode())
            for sample in one.samples
        ]
        assert [one for one in samples if samples.count(one) > 1] == []
        pools = [one for one in found(server)["pools"] if one["pool"] != "built-in"]
        assert {one["pool"] for one in pools} == set(names)

        def letters() -> int:
            return server.get("/status").body.count(b'<b class="idle">_</b>')

        # of the built-in pool, and in the legend, too; as soon as all workers have joined
        server.until(lambda: letters() == sum(names.values()) + 4 + 1)
        scaled = json.loads(said(server, "--json", "scale", "2", "app:app at /b"))
        assert scaled["pools"] == [{"pool": "app:app at /b", "size": 2}]
        scaled = json.loads(said(server, "--json", "scale", "1", "app:app"))
        assert {one["pool"]: one["size"] for one in scaled["pools"]} == dict.fromkeys(names, 1)


def test_it_is_plotted(server):
    """Two points are ten seconds apart; what is there by then is shown."""
    server.until(lambda: b"<polyline" in server.get("/status").body)
