"""Handlers that do not end, with a real server: in Python, in C, and while they hold the interpreter lock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Server, serving

APPLICATION = """
import asyncio, os, re, time
from halfsync import HandlerTimeout

def app(environ, start):
    name = environ["PATH_INFO"].strip("/")
    if name == "python":
        try:
            while True:
                pass
        except HandlerTimeout:
            open("cleaned", "w").close()
            raise
    if name == "c":
        time.sleep(1000)
    if name == "lock":
        re.match("(a+)+$", "a" * 64 + "b")
    start("200 OK", [])
    return [str(os.getpid()).encode()]

async def loop(scope, receive, send):
    path = scope["path"]
    try:
        if path.endswith("/waits") or path.endswith("/swallows"):
            await asyncio.sleep(1000)
    except asyncio.CancelledError:
        open("cancelled", "w").close()
        if path.endswith("/waits"):
            raise
        await asyncio.sleep(1000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""

SETTINGS = """
threads = 4
graceful_timeout = 1
lifespan = "off"
handler_grace = 1

[routes]
"/" = "slow:app"
"/hang" = { app = "slow:app", handler_timeout = 1 }
"/loop" = "slow:loop"
"/loop/hang" = { app = "slow:loop", handler_timeout = 1 }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("deadlines")
    (folder / "slow.py").write_text(APPLICATION)
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder) as server:
        yield server


def pid_of(server: Server, path: str) -> int:
    """Of the worker that serves now."""

    def served() -> int:
        answer = server.get(path)
        return int(answer.body) if answer.status == 200 else 0

    return server.until(served)


def since(server: Server, length: int) -> str:
    return server.log()[length:]


def test_one_that_runs_in_python_gets_an_exception_and_can_clean_up(server):
    before, length = pid_of(server, "/"), len(server.log())
    assert server.get("/hang/python").status == 504
    server.until((server.folder / "cleaned").exists)
    server.until(
        lambda: "GET /hang/python from 127.0.0.1 was ended by HandlerTimeout" in since(server, length)
    )
    server.until(lambda: pid_of(server, "/") != before)  # when another one was ready
    server.until_gone([before])
    said = since(server, length)
    assert "GET /hang/python from 127.0.0.1 passed its deadline; its thread is here:" in said
    assert re.search(r'File ".*slow\.py", line \d+, in app', said)
    assert f"[{before}] had a handler that was interrupted (handler_timeout) and is replaced." in said
    assert "(handler_grace)" not in said


@pytest.mark.parametrize("name", ["c", "lock"])
def test_one_that_never_runs_in_python_costs_its_worker(server, name):
    """Also if nothing else of that process can run: not even what reads the pump's messages there."""
    before, length = pid_of(server, "/"), len(server.log())
    assert server.get(f"/hang/{name}").status == 504
    assert pid_of(server, "/")
    server.until_gone([before])
    said = since(server, length)
    assert f"worker {before} of slow:app: past its deadline: GET '/hang/{name}'" in said
    assert f"worker {before} of slow:app: GET '/hang/{name}' goes on " in said
    _, killed, stacks = said.partition(
        f"[{before}] did not exit in time (graceful_timeout, 1 s); it is killed."
    )
    assert killed
    assert re.search(r'File ".*slow\.py", line \d+ in app\n', stacks), "where it is, whoever has the lock"
    assert pid_of(server, "/") != before


def test_a_task_of_a_loop_is_cancelled_and_its_worker_stays(server):
    (server.folder / "cancelled").unlink(missing_ok=True)
    before, length = pid_of(server, "/loop"), len(server.log())
    assert server.get("/loop/hang/waits").status == 504
    server.until((server.folder / "cancelled").exists)
    server.until(lambda: "GET '/loop/hang/waits' ended within" in since(server, length))
    assert pid_of(server, "/loop") == before


def test_one_that_swallows_its_cancellation_costs_its_worker(server):
    before, length = pid_of(server, "/loop"), len(server.log())
    assert server.get("/loop/hang/swallows").status == 504
    server.until_gone([before])
    said = since(server, length)
    assert "GET '/loop/hang/swallows' goes on " in said
    assert pid_of(server, "/loop") != before
