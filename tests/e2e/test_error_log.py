"""The error log as a file: everything goes there, and USR1 has it opened again by all processes."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from tests.e2e.harness import Client, Server, links, serving, until
from tests.e2e.test_settings_and_users import halfsync

APPLICATION = """
import os, sys
print("imported", file=sys.stderr, flush=True)
def app(environ, start):
    word = environ["PATH_INFO"]
    print("printed", word, file=sys.stderr, flush=True)
    environ["wsgi.errors"].write(f"written {word}\\n")
    if word == "/raise":
        raise ValueError("raised")
    start("200 OK", [])
    return [str(os.getpid()).encode()]
"""


class Logged(Server):
    """Its log is the file."""

    def log(self) -> str:
        try:
            return (self.folder / "logs/errors").read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_all_processes_write_to_the_file_and_open_it_again(tmp_path, preload):
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "logs").mkdir()
    file, moved = tmp_path / "logs/errors", tmp_path / "logs/errors.1"
    server = Logged(
        tmp_path, ("-b", "127.0.0.1:0", "app:app", "--error-logfile", "logs/errors", *preload), {}
    )
    server.tracebacks = -1
    try:
        server.wait_until_it_serves()
        assert server.get("/one").status == 200
        assert server.get("/raise").status == 500
        server.until_logged("ValueError: raised")
        for words in ("imported", "printed /one", "written /one", r"pump \[\d+\] is started"):
            assert re.search(words, file.read_text()), words
        port, worker = server.port, server.workers("app:app")[0]
        file.rename(moved)
        server.signal(signal.SIGUSR1)
        server.until_logged("the error log is reopened")
        server.until(lambda: not any(str(moved) in links(pid) for pid in server.processes()))
        before = moved.stat().st_size
        ask(port, "/raise")
        server.until_logged("ValueError: raised")
        server.until_logged("printed /raise")
        assert "written /raise" in file.read_text()
        os.kill(worker, signal.SIGKILL)
        server.until_logged(r"worker\(app:app\) \[\d+\] was killed by SIGKILL")
        until(lambda: ask(port, "/three") == 200)
        server.until_logged("printed /three")
        assert moved.stat().st_size == before  # nobody has the old file any more
        server.stop()
    finally:
        server.kill()
    assert server.errors.read_text() == ""


def ask(port: int, target: str) -> int:
    with Client(("127.0.0.1", port)) as client:
        return client.ask(target).status


def test_a_mistake_is_reported_to_the_person_and_logged(tmp_path):
    (tmp_path / "app.py").write_text("1 / 0\n")
    found = halfsync(tmp_path, "-b", "127.0.0.1:0", "app:app", "--error-logfile", "errors")
    assert found.returncode == 2
    assert found.stderr.strip().splitlines()[-1].startswith("halfsync: Target 'app:app': its import failed")
    assert "ZeroDivisionError" in (tmp_path / "errors").read_text()


def test_a_file_that_can_not_be_written_is_reported(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    for more in ((), ("--check-config",)):
        found = halfsync(tmp_path, "-b", "127.0.0.1:0", "app:app", "--error-logfile", "no/where", *more)
        assert found.returncode == 2
        assert "halfsync: error_logfile: the file no/where can't be written" in found.stderr


def test_as_json_every_line_of_the_servers_is_an_object(tmp_path):
    """From a reload on, in all processes; what the application prints is its own."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "halfsync.toml").write_text('[routes]\n"/" = "app:app"\n')
    with serving(tmp_path, "-c", "halfsync.toml", "--log-level", "debug") as server:
        server.tracebacks = -1
        (tmp_path / "halfsync.toml").write_text('log_format = "json"\n[routes]\n"/" = "app:app"\n')
        server.signal(signal.SIGHUP)
        server.until_logged("the reload is over", 2)
        before = len(server.log())
        assert server.get("/raise").status == 500
        server.until_logged("ValueError: raised")
        os.kill(server.pump, signal.SIGKILL)
        server.until_logged("pump .* is started", 2)
        assert server.get("/two").status == 200
        server.until_logged("printed /two")
        lines = server.log()[before:].splitlines()
        own = [json.loads(line) for line in lines if line.startswith("{")]
        assert {"printed /raise", "written /raise", "printed /two", "written /two"} == set(lines) - {
            line for line in lines if line.startswith("{")
        }
        (failure,) = [one for one in own if "ValueError" in one["message"]]
        assert (failure["level"], failure["process"]) == ("error", "worker(app:app)")
        assert "Traceback" in failure["message"]
        assert any("SIGKILL" in one["message"] for one in own)
