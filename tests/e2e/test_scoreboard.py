"""The scoreboard of a running server, through the deaths of its processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from halfsync.commands.ctl import ask
from halfsync.wire.control import ControlRequest
from tests.e2e.harness import Server, frozen, kill, request, serving
from tests.e2e.test_status import LOOP

APPLICATION = """
import mmap
import time
from pathlib import Path
def app(environ, start):
    if environ["PATH_INFO"] == "/begun":
        Path("begun").touch()
    while environ["PATH_INFO"] in ("/slow", "/begun") and not Path("go").exists():
        time.sleep(0.02)
    start("200 OK", [])
    if environ["PATH_INFO"] == "/maps":
        return [Path("/proc/self/maps").read_bytes()]
    return [b"fine"]
"""

SETTINGS = """
control_socket = "control"
[routes]
"/" = { app = "app:app", workers = 2, threads = 3 }
"/loop" = "loop:app"
"/status" = { status_page = true }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("scoreboard")
    (folder / "app.py").write_text(APPLICATION)
    (folder / "loop.py").write_text(LOOP)
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder) as running:
        yield running


def rows(server: Server) -> list[dict[str, Any]]:
    said = json.loads(ask(str(server.errors.parent / "control"), ControlRequest("scoreboard")))
    return list(said["processes"])


def living(server: Server) -> list[dict[str, Any]]:
    return [one for one in rows(server) if "ending" not in one]


def tasks(server: Server) -> list[str]:
    return sorted(task["request"] for one in living(server) for task in one.get("tasks", ()))


def slots(server: Server) -> list[tuple[str, str]]:
    """Of all threads of the application: letter, and request."""
    return sorted(
        (slot["letter"], slot.get("request", ""))
        for one in living(server)
        if one.get("pool") == "app:app"
        for slot in one.get("slots", ())  # a worker has them when it has joined
    )


def status(server: Server) -> dict[str, Any]:
    return dict(json.loads(server.get("/status?json").body))


def counters(server: Server) -> dict[tuple[str, ...], float]:
    """All of Prometheus's, and histograms' parts, which must not go back."""
    families = text_string_to_metric_families(server.get("/status/metrics").body.decode())
    return {
        (sample.name, *map(str, sorted(sample.labels.items()))): sample.value
        for family in families
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


def test_every_process_and_what_it_runs_whatever_dies(server):
    def all_work() -> bool:
        found = living(server)
        roles = sorted(one["role"] for one in found)
        return roles == ["parent", "pump", *["worker"] * 4] and all(
            one["state"] in ("working", "serving") and one["memory"] > 1_000_000 for one in found
        )

    server.until(all_work)
    assert {one["pid"] for one in living(server)} == set(server.processes())
    assert [one["threads"] for one in living(server) if one.get("pool") == "app:app"] == [3, 3]
    clients = [server.client() for _ in range(3)]
    for client, target in zip(clients, ("/slow?a", "/slow?b", "/loop/slow"), strict=True):
        client.send(request(target))
    expected = ["GET '/loop/slow'", "GET '/slow?a'", "GET '/slow?b'"]
    server.until(lambda: tasks(server) == expected)
    [task] = [task for one in living(server) for task in one.get("tasks", ()) if "loop" in task["request"]]
    assert (task["host"], task["client"]) == ("story.test", "127.0.0.1")
    at_work = [("W", "GET '/slow?a'"), ("W", "GET '/slow?b'"), *[("_", "")] * 4]
    assert slots(server) == at_work
    with frozen(server.pump):  # nobody is asked for it
        assert tasks(server) == expected
        assert slots(server) == at_work
        since = [slot["seconds"] for one in living(server) for slot in one.get("slots", ())]
        assert len(since) == 6 + 4, "the built-in worker's are among them"
        assert all(seconds is None or seconds >= 0 for seconds in since)
    [busy, *_] = [
        one["pid"]
        for one in living(server)
        if any("/slow?a" in task["request"] for task in one.get("tasks", ()))
    ]
    kill(busy)
    server.until(
        lambda: (
            [one["ending"] for one in rows(server) if one["pid"] == busy and "ending" in one]
            == ["was killed by SIGKILL"]
        )
    )
    server.until(lambda: len([one for one in living(server) if one.get("pool") == "app:app"]) == 2)
    assert "GET '/loop/slow'" in tasks(server)
    go = server.errors.parent / "go"
    go.touch()
    server.until(lambda: tasks(server) == [])
    server.until(lambda: slots(server) == [("_", "")] * 6)
    for client in clients:
        client.close()
    go.unlink()


def test_counters_go_on_when_the_pump_is_killed(server):
    with server.client() as client:
        for _ in range(50):
            assert client.ask("/").status == 200
    assert server.get("/nowhere\x01").status == 400
    for _ in range(5):
        assert server.get("/loop").status == 200
    before, counted = status(server), counters(server)
    kill(server.pump)
    after = status(server)
    now = counters(server)
    assert {name: value for name, value in counted.items() if now.get(name, 0) < value} == {}
    assert len(counted) > 50
    assert after["pid"] != before["pid"]
    assert after["uptime"] >= before["uptime"]
    # The response that said so may have been sent, and not counted yet, when the pump was killed.
    assert after["requests"] >= before["requests"] >= 56
    assert after["bytes_sent"] >= before["bytes_sent"] > 50 * 40
    assert status(server)["requests"] > before["requests"]
    assert after["connections_accepted"] > before["connections_accepted"]
    assert after["responses"]["400"] == before["responses"]["400"] >= 1
    assert after["refused"]["malformed"] == before["refused"]["malformed"] >= 1
    for pool, pool_before in zip(after["handlers"], before["handlers"], strict=True):
        assert pool == pool_before, "no application has had a request since"
    assert sum(sum(pool["times"]) for pool in after["handlers"]) >= 55


def by_thread(server: Server) -> list[tuple[int, int, int]]:
    """Of the application's threads: their process, requests, and bytes."""
    return [
        (one["pid"], slot["requests"], slot["bytes"])
        for one in living(server)
        if one.get("pool") == "app:app"
        for slot in one.get("slots", ())
    ]


def test_what_each_thread_has_served_is_known_whatever_pump_there_is(server):
    """It is added up to what the processes have served, and nothing of it is lost with a pump."""

    def served() -> tuple[int, int]:
        found = by_thread(server)
        return sum(one[1] for one in found), sum(one[2] for one in found)

    server.until(lambda: len(by_thread(server)) == 6)
    before = served()
    with server.client() as client:
        for _ in range(20):
            assert client.ask("/").body == b"fine"
    expected = (before[0] + 20, before[1] + 80)
    server.until(lambda: served() == expected)
    shown = [slot for one in status(server)["workers"] if one["pool"] == "app:app" for slot in one["slots"]]
    assert (sum(one["requests"] for one in shown), sum(one["bytes"] for one in shown)) == expected
    threads = by_thread(server)
    assert "id=threads><summary>As a table" in server.get("/status").body.decode()
    with frozen(server.pump):
        assert by_thread(server) == threads
    kill(server.pump)
    assert server.get("/").status == 200
    server.until(lambda: served() == (expected[0] + 1, expected[1] + 4))
    assert all(now >= then for now, then in zip(by_thread(server), threads, strict=True))


def test_a_request_is_shown_as_soon_as_it_runs(server):
    """Not only when it has been running for a while: a first look is enough (unless the pump of a very busy
    machine takes a second to write it)."""
    folder = server.errors.parent
    at_first_look = 0
    for number in range(5):
        (folder / "begun").unlink(missing_ok=True)
        with server.client() as client:
            client.send(request(f"/begun?{number}"))
            server.until((folder / "begun").exists)
            at_first_look += ("W", f"GET '/begun?{number}'") in slots(server)
            (folder / "go").touch()
            assert client.answer().status == 200
            (folder / "go").unlink()
    assert at_first_look >= 3
    server.until(lambda: tasks(server) == [])


def test_an_application_does_not_have_it_in_its_memory(server):
    """A worker that scribbles over its memory can't change what the status page says."""
    name = "/dev/zero (deleted)"  # of anonymous memory that is shared: proc_pid_maps(5)
    pump = Path(f"/proc/{server.pump}/maps").read_text()
    assert name in pump
    assert name not in server.get("/maps").body.decode()


def test_a_reload_is_a_new_generation_and_what_it_serves_is_counted_whatever_pump_there_is(server):
    workers = [one for one in living(server) if one["role"] == "worker"]
    before = {one["pid"] for one in workers}
    generation = 1 + max(one["generation"] for one in workers)
    os.kill(server.process.pid, signal.SIGHUP)
    server.until(
        lambda: (
            [one["generation"] for one in living(server) if one.get("pool") == "app:app"] == [generation] * 2
            and not before & {one["pid"] for one in living(server)}
        )
    )
    ended = [one for one in rows(server) if one["pid"] in before]
    assert {one["ending"] for one in ended} == {"exited with status 0"}

    def served() -> int:
        return sum(one["requests"] for one in living(server) if one.get("pool") == "app:app")

    assert served() == 0
    with server.client() as client:
        for _ in range(30):
            assert client.ask("/").status == 200
    server.until(lambda: served() == 30)
    kill(server.pump)
    assert server.get("/").status == 200
    server.until(lambda: served() == 31)
