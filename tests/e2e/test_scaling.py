"""The number of workers follows the load."""

from __future__ import annotations

import re
import signal

from tests.e2e.harness import Client, request, serving

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
