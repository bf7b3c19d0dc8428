"""halfsyncctl and the control socket, with a real server behind it."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halfsync.parent.service.control_socket import MOST_CLIENTS
from halfsync.wire.control import MAX_LINE
from tests.e2e.harness import LONG, Server, request, serving

APPLICATION = """
import time
from pathlib import Path
if Path("broken").exists():
    raise RuntimeError("this code does not import")
def app(environ, start):
    while environ["PATH_INFO"] == "/slow" and not Path("go").exists():
        time.sleep(0.02)
    start("200 OK", [])
    return [b"fine"]
"""

SETTINGS = """
control_socket = "control"
access_logfile = "access.log"
[routes]
"/" = { app = "app:app", threads = 2 }
"/public" = { folder = "public", lease = 3600 }
"""


def ctl(
    server: Server, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "halfsync.commands.ctl", *arguments],
        cwd=server.errors.parent,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        check=False,
    )


def said(server: Server, *arguments: str) -> str:
    done = ctl(server, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def as_json(server: Server, *arguments: str) -> dict[str, Any]:
    found = json.loads(said(server, "--json", *arguments))
    assert found.pop("ok") is True
    return dict(found)


def folder_with(folder: Path) -> Path:
    (folder / "app.py").write_text(APPLICATION)
    (folder / "halfsync.toml").write_text(SETTINGS)
    (folder / "public").mkdir()
    (folder / "public/a.txt").write_text("a")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(folder_with(tmp_path_factory.mktemp("control"))) as running:
        yield running


def test_status_and_what_runs_now(server):
    with server.client() as client, server.client() as idle:
        assert idle.ask("/").body == b"fine"
        client.send(request("/slow?secret=1"))
        server.until(lambda: "GET '/slow" in said(server, "workers"))
        found = as_json(server, "status")
        assert found["pid"] == server.process.pid
        assert found["phase"] == "serving"
        assert found["addresses"] == [server.url]
        [pool] = [one for one in found["pools"] if one["pool"] == "app:app"]
        assert (pool["size"], pool["working"], pool["threads"], pool["retiring"]) == (1, 1, 2, 0)
        [load] = [one for one in found["pump"]["pools"] if one["pool"] == "app:app"]
        assert (load["busy"], load["threads"], load["waiting"]) == (1, 2, 0)
        assert found["pump"]["connections"] == {"busy": 1, "idle": 1}
        assert found["pump"]["requests_in_flight"] == {"working": 1}
        text = said(server, "status")
        assert re.search(r"app:app +1 of 1 +2 +1 +0 ", text), text
        assert "connections: 1 busy, 1 idle" in text
        processes = as_json(server, "workers")["processes"]
        assert {one["role"]: one["pid"] for one in processes}["pump"] == server.pump
        assert all(one["memory"] > 1_000_000 for one in processes)
        listed = as_json(server, "connections")
        assert listed["total"] == 2
        states = {one["state"]: one for one in listed["connections"]}
        assert states["busy"]["request"] == "GET '/slow?secret=1'"
        assert states["idle"]["requests"] == 1
        assert "127.0.0.1" in said(server, "connections")
        (server.errors.parent / "go").touch()
        assert client.answer().body == b"fine"


def test_leases_are_listed(server):
    assert server.get("/public/a.txt").body == b"a"
    server.until(lambda: as_json(server, "leases")["total"] == 1)
    [lease] = as_json(server, "leases")["leases"]
    assert (lease["method"], lease["target"], lease["status"], lease["length"]) == (
        "GET",
        "/public/a.txt",
        200,
        1,
    )
    assert "/public/a.txt" in said(server, "leases")


def test_scale(server):
    assert "app:app: 3 worker processes from now on." in said(server, "scale", "3", "app:app")
    server.until(lambda: len(server.workers("app:app")) == 3)
    assert as_json(server, "scale", "1") == {"pools": [{"pool": "app:app", "size": 1}]}
    server.until(lambda: len(server.workers("app:app")) == 1)
    wrong = ctl(server, "scale", "2", "other:app")
    assert wrong.returncode == 1
    assert wrong.stderr == "halfsyncctl: There is no application 'other:app'; there is app:app.\n"


def test_reopen(server):
    log = server.errors.parent / "access.log"
    log.rename(log.with_name("old"))
    assert said(server, "reopen") == "The logs are reopened.\n"
    assert log.exists()


def test_a_reload_is_waited_for_and_a_failure_is_told(server):
    folder = server.errors.parent
    before = server.workers("app:app")
    assert said(server, "reload") == "Reloaded.\n"
    server.until_gone(before)
    server.tracebacks = -1
    (folder / "broken").touch()
    failed = ctl(server, "reload")
    assert failed.returncode == 1
    assert re.fullmatch(r"halfsyncctl: .*app:app.*this code does not import.*\n", failed.stderr), (
        failed.stderr
    )
    (folder / "broken").unlink()
    settings = folder / "halfsync.toml"
    settings.write_text("workerz = 2\n" + SETTINGS)
    failed = ctl(server, "-s", "control", "reload")
    assert failed.returncode == 1
    assert "there is no setting workerz; did you mean workers?" in failed.stderr
    settings.write_text(SETTINGS)
    assert ctl(server, "reload").returncode == 0
    assert server.get("/").body == b"fine"


def test_the_socket_is_its_owners_alone(server):
    assert stat.S_IMODE((server.errors.parent / "control").stat().st_mode) == 0o600


def test_where_the_socket_is_found(server, tmp_path):
    path = str(server.errors.parent / "control")
    assert said(server, "-s", path, "status")
    assert ctl(server, "status", environment={"HALFSYNC_CONTROL_SOCKET": path}).returncode == 0
    wrong = ctl(server, "-s", "nowhere", "status")
    assert (wrong.returncode, wrong.stderr) == (2, "halfsyncctl: No server listens at 'nowhere'.\n")
    (tmp_path / "other.toml").write_text("workers = 2\n")
    wrong = ctl(server, "-c", str(tmp_path / "other.toml"), "status")
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("other.toml has no control_socket.\n")
    assert ctl(server, "dance").returncode == 2


class Talk:
    """A client of the socket itself."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(LONG)
        self.socket.connect(str(server.errors.parent / "control"))
        self.lines = self.socket.makefile("rb")

    def ask(self, line: bytes) -> dict[str, Any]:
        self.socket.sendall(line + b"\n")
        return dict(json.loads(self.lines.readline()))

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"nonsense", "This is no request"),
        (b"{}", "This is no request"),
        (b'{"command": "dance"}', "This is no request"),
        (b'{"command": "status", "more": 1}', "This is no request"),
        (b'{"command": "scale"}', "scale needs a number"),
        (b'{"command": "scale", "number": 0}', "scale needs a number"),
        (b'{"command": "scale", "number": 99999}', "scale needs a number"),
        (b"\xff\xfe", "This is no request"),
        (b"[" * 10_000, "This is no request"),
    ],
)
def test_what_is_no_request(server, line, sentence):
    """One connection survives it."""
    talk = Talk(server)
    found = talk.ask(line)
    assert found["ok"] is False
    assert sentence in found["error"]
    assert talk.ask(b'{"command": "status"}')["ok"] is True
    talk.close()


def test_clients_that_do_not_keep_to_it(server):
    """Too much, half a request, a sudden end, and too many of them: the next one is served."""
    talk = Talk(server)
    talk.socket.sendall(b"x" * (MAX_LINE + 2))
    assert b"bytes at most" in talk.lines.readline()
    assert talk.lines.read() == b""
    talk.close()
    talk = Talk(server)
    talk.socket.sendall(b'{"command": "status"}\n' * 50)
    talk.close()
    crowd = [Talk(server) for _ in range(MOST_CLIENTS)]
    for one in crowd:
        one.socket.sendall(b'{"comm')
    crowd[0].close()
    assert said(server, "status")
    for one in crowd[1:]:
        one.close()
    assert server.get("/").body == b"fine"


def test_several_requests_in_one_packet_get_their_responses_in_order(server):
    talk = Talk(server)
    talk.socket.sendall(b'{"command": "leases"}\n{"command": "workers"}\n{"command": "dance"}\n')
    first, second, third = (json.loads(talk.lines.readline()) for _ in range(3))
    assert "leases" in first
    assert "processes" in second
    assert third["ok"] is False
    talk.close()


def test_stop_and_the_socket_is_gone(tmp_path):
    with serving(folder_with(tmp_path)) as server:
        assert said(server, "stop") == "Stopping; requests in flight may take 30 s.\n"
        assert server.ends() == 0
        assert not (tmp_path / "control").exists()
        assert "halfsyncctl stop: stopping; requests in flight may take 30 s." in server.log()


def test_a_socket_that_can_not_be_made_is_told(tmp_path):
    folder_with(tmp_path)
    (tmp_path / "control").write_text("a file")
    command = [sys.executable, "-m", "halfsync", "-b", "127.0.0.1:0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "control_socket 'control': " in done.stderr
