"""`max_requests`: workers are replaced, one at a time, and no request notices."""

from __future__ import annotations

import re
import time

import pytest

from tests.e2e.harness import LONG, Crowd, serving

APPLICATION = """
import os
from pathlib import Path
if Path("broken").exists():
    raise RuntimeError("this code does not import")
def app(environ, start):
    start("200 OK", [])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_replaced_and_no_request_is_lost(tmp_path, workers, preload):
    (tmp_path / "app.py").write_text(APPLICATION)
    options = ("-w", str(workers), "--max-requests", "50", "--max-requests-jitter", "10")
    with serving(tmp_path, "app:app", *options, *preload) as server:
        pids = set()

        def judge(answer):
            assert (answer.status, answer.whole) == (200, True)
            pids.add(answer.body)
            return "right"

        with Crowd(server, ["/"] * 4, judge) as crowd:
            server.until_logged(r"has served \d+ requests \(max_requests\) and is replaced", 4 * workers)
        assert not crowd.wrong
        assert not crowd.broken
        served = [int(one) for one in re.findall(r"has served (\d+) requests", server.log())]
        assert min(served) >= 50
        assert len(pids) > 3
        server.until(lambda: len(server.workers("app:app")) == workers)


def test_a_worker_goes_on_until_its_successor_is_ready(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    with serving(tmp_path, "app:app", "--max-requests", "3") as server:
        first = server.get("/").body
        (tmp_path / "broken").touch()
        server.tracebacks = -1
        deadline = time.monotonic() + LONG
        while "this code does not import" not in server.log():
            assert server.get("/").body == first
            assert time.monotonic() < deadline
        assert "(max_requests) and is replaced" not in server.log()
        (tmp_path / "broken").unlink()
        server.until(lambda: server.get("/").body != first)


def test_files_do_not_count(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public/a").write_text("a")
    with serving(tmp_path, "./public", "--max-requests", "2", "--lease", "0") as server:
        before = server.processes()
        for _ in range(10):
            assert server.get("/a").body == b"a"
        assert server.processes() == before
