"""Requests that end their worker, and workers that the pump gives up."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.e2e.harness import AT_ONCE, freeze, request, serving

APP = """
import gc, os, signal, threading

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/die":
        os.kill(os.getpid(), int(environ["QUERY_STRING"]))
        threading.Event().wait(60)
    if path == "/exit":
        os._exit(0)
    if path == "/babble":
        from halfsync.worker.threads import Threads
        [threads] = [one for one in gc.get_objects() if isinstance(one, Threads)]
        threads._tasks.send(b"no message")
        threading.Event().wait(60)
    if path == "/wait":
        open("here", "w").close()
        while not os.path.exists("go"):
            threading.Event().wait(0.005)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("poison", ["/die?11", "/die?6", "/die?7", "/exit"])
def test_a_request_that_ends_its_worker_ends_no_other(tmp_path, poison):
    """5 of them: 5 workers, one after the other, each with 502; an innocent one beside them is well."""
    (tmp_path / "poison.py").write_text(APP)
    with serving(tmp_path, "poison:app", "-w", "2", "--threads", "1") as server:
        server.until(lambda: len(server.workers("poison:app")) == 2)
        for _ in range(5):
            assert server.get(poison).status == 502
            assert server.get("/").status == 200
        died = r"worker\(poison:app\) \[\d+\] (?:was killed|exited)"
        server.until_logged(died, 5)
        assert len(re.findall(died, server.log())) == 5


def test_what_was_killed_from_outside_is_tried_again_unless_it_is_not_wanted(tmp_path):
    (tmp_path / "poison.py").write_text(APP)
    for options, expected in (((), 200), (("--no-retry",), 502)):
        for name in ("here", "go"):
            (tmp_path / name).unlink(missing_ok=True)
        with serving(tmp_path, "poison:app", *options) as server, server.client() as client:
            client.send(request("/wait"))
            server.until((tmp_path / "here").exists)
            (worker,) = server.workers("poison:app")
            freeze(worker)
            (tmp_path / "go").touch()
            os.kill(worker, signal.SIGKILL)
            assert client.answer().status == expected


def test_a_worker_that_the_pump_gives_up_is_replaced_at_once(tmp_path):
    """What came from it was no message: it is killed, another takes its place, and what it had begun is told
    so. (It would hang for a minute.)"""
    (tmp_path / "poison.py").write_text(APP)
    with serving(tmp_path, "poison:app", "--threads", "2") as server:
        for _ in range(3):
            (first,) = server.workers("poison:app")
            with server.client(seconds=AT_ONCE) as client:
                assert client.ask("/babble").status == 502
                assert int(client.ask("/").body) != first
            server.until_gone([first])
            server.until_logged(rf"worker {first} of poison:app sent a malformed message")
        server.tracebacks = -1
