"""Settings that those who come from gunicorn expect, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import LONG, Server, serving, until

APPLICATION = """
import json, os, sys
try:
    import lib_of_shop
except ImportError:
    lib_of_shop = None
def app(environ, start):
    start("200 OK", [])
    where = getattr(lib_of_shop, "WHERE", None)
    return [json.dumps({"pid": os.getpid(), "where": where, "path": sys.path[:3]}).encode()]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    return tmp_path


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("shop", {"shop", "shop pump", "shop worker", "shop template"}),
        ("a-name-that-is-long", {"a-name-that-is-", "a-name-tha pump", "a-name-t worker", "a-name template"}),
    ],
)
def test_processes_are_called_by_the_name(folder, name, titles):
    with serving(folder, "app:app", "--name", name, "--preload") as server:
        server.until(lambda: {title(pid) for pid in server.processes()} == titles)


def test_the_default_name_is_ours(folder):
    with serving(folder, "app:app") as server:
        titles = {"halfsync", "halfsync pump", "halfsync worker"}
        server.until(lambda: {title(pid) for pid in server.processes()} == titles)


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_pythonpath_is_first_and_starts_from_the_folder(folder, preload):
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "lib_of_shop.py").write_text(f"WHERE = {name!r}\n")
    (folder / "lib_of_shop.py").write_text("WHERE = 'here'\n")
    with serving(folder, "app:app", "--pythonpath", "one,two", *preload) as server:
        found = json.loads(server.get("/").body)
        assert found["where"] == "one"
        assert found["path"] == [str(folder / "one"), str(folder / "two"), str(folder)]
    with serving(folder, "app:app", *preload) as server:
        assert json.loads(server.get("/").body)["where"] == "here"


def test_check_config_has_the_pythonpath_too(folder):
    (folder / "lib").mkdir()
    (folder / "lib/inside.py").write_text("def app(environ, start): ...\n")
    command = [sys.executable, "-m", "halfsync", "inside:app", "--check-config"]
    assert (
        subprocess.run(command, cwd=folder, capture_output=True, timeout=2 * LONG, check=False).returncode
        == 2
    )
    command += ["--pythonpath", "lib"]
    assert (
        subprocess.run(command, cwd=folder, capture_output=True, timeout=2 * LONG, check=False).returncode
        == 0
    )


def test_two_servers_share_a_port_with_reuse_port_and_not_without(folder):
    with serving(folder, "app:app", "--reuse-port") as first:
        address = f"127.0.0.1:{first.port}"
        refused = Server(folder, ("app:app", "-b", address), {})
        assert refused.ends() == 2
        assert "in use" in refused.log()
        with serving(folder, "app:app", "-b", address, "--reuse-port", bind=False):
            pids: set[int] = set()

            def both() -> bool:
                pids.add(json.loads(first.get("/").body)["pid"])
                return len(pids) == 2

            until(both)


def test_critical_says_nothing_and_levels_may_be_capitals(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "halfsync", "app:app", "-b", "unix:sock", "--log-level", "CRITICAL"],
        cwd=folder,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    until((folder / "sock").exists)
    process.terminate()
    assert process.communicate(timeout=2 * LONG)[1] == b""
    assert process.returncode == 0


def test_a_start_with_the_usual_file_says_so(folder):
    (folder / "halfsync.toml").write_text("bind = '127.0.0.1:0'\n[routes]\n'/' = 'app:app'\n")
    with serving(folder, bind=False) as server:
        assert server.get("/").status == 200
        assert (
            "INFO No target and no file is named, so the settings are those of ./halfsync.toml."
            in server.log()
        )


def test_what_has_no_effect_is_logged_at_the_start(folder):
    with serving(folder, "app:app", "--worker-connections", "1000", "-t", "30") as server:
        assert (
            "INFO --worker-connections has no effect: idle and slow clients hold no thread;" in server.log()
        )
