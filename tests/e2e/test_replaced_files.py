"""The server's own files are replaced while it runs, as `pip install -U` does: none of its processes gets a
part of another version, whenever it is forked. Another version comes with an upgrade alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.e2e.harness import SOURCES, Server, kill, serving_by_command
from tests.e2e.test_control import said

ASYNCHRONOUS = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"asynchronous"})
"""

SYNCHRONOUS = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"synchronous"]
"""

SETTINGS = """
bind = "127.0.0.1:0"
control_socket = "control"
pid = "pid"
[routes]
"/" = "asynchronous:app"
"/synchronous" = "synchronous:app"
"/files" = "./files"
"""

NEXT = "9.9.9"


def replace(package: Path, *, broken: bool) -> None:
    """By another version, or by one of which nothing can be imported."""
    shutil.rmtree(package)
    shutil.copytree(SOURCES / "halfsync", package, ignore=shutil.ignore_patterns("__pycache__"))
    if broken:
        for path in package.rglob("*.py"):
            path.write_text("raise RuntimeError('a part of another version')\n", "utf-8")
        return
    top = package / "__init__.py"
    top.write_text(re.sub('__version__ = ".*"', f'__version__ = "{NEXT}"', top.read_text("utf-8")), "utf-8")


def serves_all(server: Server, asynchronous: bytes = b"asynchronous") -> None:
    assert server.get("/").body == asynchronous
    assert server.get("/synchronous").body == b"synchronous"
    assert server.get("/files/one").body == b"1"


def test_no_process_gets_a_part_of_another_version(tmp_path):
    package = tmp_path / "site" / "halfsync"
    shutil.copytree(SOURCES / "halfsync", package)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_text("1")
    (tmp_path / "asynchronous.py").write_text(ASYNCHRONOUS)
    (tmp_path / "synchronous.py").write_text(SYNCHRONOUS)
    (tmp_path / "halfsync.toml").write_text(SETTINGS)
    environment = {"PYTHONPATH": str(package.parent)}
    with serving_by_command(tmp_path, bind=False, environment=environment) as server:
        serves_all(server)
        replace(package, broken=True)
        # each process dies, and another is forked
        pools = ("built-in", "asynchronous:app", "synchronous:app")
        pids = [pid for pool in pools for pid in server.workers(pool)]
        assert len(pids) == len(pools)
        kill(*pids, server.pump)
        server.until(lambda: all(server.workers(pool) for pool in pools))
        serves_all(server)
        # new code of an application needs no new code of the server
        (tmp_path / "asynchronous.py").write_text(ASYNCHRONOUS.replace('b"asyn', 'b"more asyn'))
        said(server, "reload")
        serves_all(server, b"more asynchronous")
        replace(package, broken=False)
        assert said(server, "upgrade").startswith(f"Upgraded: halfsync {NEXT}")
        serves_all(server, b"more asynchronous")
