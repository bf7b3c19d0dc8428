"""The number of workers follows the load."""

from __future__ import annotations

import re
import signal

from tests.e2e.harness import Client, Crowd, request, serving

APPLICATION = """
import os, time
from pathlib import Path
def app(environ, start):
    while environ["PATH_INFO"] == "/slow" and not Path("go").exists():
        time.sleep(0.02)
    start("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def test_workers_come_with_the_load_and_go_without_it(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    options = ("--threads", "1", "--max-workers", "5", "--min-spare", "1", "--max-spare", "2", "--preload")
    with serving(tmp_path, "app:app", *options) as server:
        clients = [server.client() for _ in range(4)]
        for client in clients:
            client.send(request("/slow"))
        server.until(lambda: len(server.workers("app:app")) == 5)
        assert server.get("/quick").status == 200, "one thread is to spare"
        grown = re.findall(r"app:app: (\d) worker process(?:es)? more, (\d) from now on", server.log())
        assert grown == [("1", "2"), ("2", "4"), ("1", "5")]
        (tmp_path / "go").touch()
        assert len({client.answer().body for client in clients}) == 4
        for client in clients:
            client.close()
        server.until(lambda: len(server.workers("app:app")) == 2)
        server.until_logged("app:app: 1 worker process fewer, 2 from now on: 3 threads are idle")


def test_ttin_moves_the_bounds_and_a_reload_keeps_the_number(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    options = ("--threads", "1", "--max-workers", "2", "--min-spare", "1", "--max-spare", "9")
    with serving(tmp_path, "app:app", *options) as server:
        server.signal(signal.SIGTTIN)
        server.until(lambda: len(server.workers("app:app")) == 2)
        clients: list[Client] = [server.client() for _ in range(2)]
        for client in clients:
            client.send(request("/slow"))
        server.until(lambda: len(server.workers("app:app")) == 3)
        (tmp_path / "go").touch()
        for client in clients:
            assert client.answer().status == 200
            client.close()
        old = server.workers("app:app")
        server.signal(signal.SIGHUP)
        server.until(lambda: len(set(server.workers("app:app")) - set(old)) == 3)
        server.until_gone(old)


LEAKING = """
import os
kept = []
def app(environ, start):
    if environ["SCRIPT_NAME"] == "/leak":
        kept.append(os.urandom(64 << 20))
    start("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def test_old_workers_and_large_ones_are_replaced_and_no_request_is_lost(tmp_path):
    """Two applications, each with a limit of its own."""
    (tmp_path / "app.py").write_text(LEAKING)
    (tmp_path / "other.py").write_text(APPLICATION)
    (tmp_path / "halfsync.toml").write_text(
        '[routes]\n"/" = { app = "other:app", workers = 2, max_worker_age = "1 s" }\n'
        '"/leak" = { app = "app:app", max_worker_memory = "100 MiB" }\n'
    )
    with serving(tmp_path, "-c", "halfsync.toml") as server:

        def judge(answer):
            assert (answer.status, answer.whole) == (200, True)
            return "right"

        large = server.workers("app:app")
        for _ in range(2):
            assert server.get("/leak").status == 200
        with Crowd(server, ["/"], judge) as crowd:
            server.until_logged(
                r"worker\(other:app\) \[\d+\] is \d+ s old \(max_worker_age\) and is replaced", 3
            )
            server.until_logged(
                rf"{large[0]}\] has 1\d\d MiB of resident memory \(max_worker_memory\), \d+ s"
            )
        assert not crowd.wrong
        assert not crowd.broken
        server.until(lambda: len(server.workers("app:app")) == 1)
        assert server.workers("app:app") != large
        retired = server.log().count("(max_worker_age)")
        ready = len(re.findall(r"worker\(other:app\) \[\d+\] is ready", server.log()))
        assert ready >= retired + 2
