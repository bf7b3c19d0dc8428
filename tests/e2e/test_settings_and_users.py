"""Settings as a user meets them: what is said, what is wrong, and who the processes run as."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest

from halfsync.parent import machine, privileges
from halfsync.settings.table import Settings
from tests.command_line import command
from tests.e2e.harness import APPS, SOURCES, serving


def halfsync(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: one for key, one in os.environ.items() if not key.startswith("HALFSYNC_")}
    given = {"PWD": str(folder), "PYTHONPATH": f"{SOURCES}{os.pathsep}{APPS}", **environment}
    return command(folder, *arguments, environment={**inherited, **given})


# --- looking ---------------------------------------------------------------------------------------


def test_check_config_finds_everything_fine(tmp_path):
    (tmp_path / "public").mkdir()
    found = halfsync(tmp_path, "story:app", "/public=./public", "--check-config")
    assert (found.returncode, found.stderr) == (0, "")
    assert "fine" in found.stdout


def test_print_config_shows_each_value_and_its_origin_and_can_be_read_again(tmp_path):
    (tmp_path / "halfsync.toml").write_text(
        "threads = 3\nworkers = 2\nlease = 5\n[routes]\n'/' = 'story:app'\n"
    )
    found = halfsync(tmp_path, "-c", "halfsync.toml", "--threads", "5", "--print-config", WEB_CONCURRENCY="4")
    assert found.returncode == 0
    rows = dict(line.split("  # ", 1) for line in found.stdout.splitlines() if "  # " in line)
    origins = {row.partition(" ")[0]: origin for row, origin in rows.items()}
    assert origins["backlog"] == "default"
    assert "halfsync.toml" in origins["lease"]
    assert "WEB_CONCURRENCY" in origins["workers"]
    assert origins["threads"] == "command line"
    read = tomllib.loads(found.stdout)
    assert (read["threads"], read["workers"], read["lease"]) == (5, 4, 5)
    (tmp_path / "again.toml").write_text(found.stdout)
    again = halfsync(tmp_path, "-c", "again.toml", "--print-config")
    assert tomllib.loads(again.stdout) == read


def test_help_and_version(tmp_path):
    assert "--threads" in halfsync(tmp_path, "--help").stdout
    assert re.match(r"halfsync \d", halfsync(tmp_path, "--version").stdout)


# --- what is wrong ---------------------------------------------------------------------------------

WRONG = {
    "nothing to serve": ([], "nothing to serve"),
    "no such folder": (["./nowhere"], "./nowhere"),
    "no such module": (["nowhere:app"], "nowhere"),
    "no such name": (["story:nothing"], "nothing"),
    "not callable": (["story:MIB"], "MIB"),
    "a module alone": (["harness_of_nothing"], "no folder and no module 'harness_of_nothing'"),
    "a factory that is none": (["story:nothing()"], "nothing"),
    "two of one path": (["story:app", "story:create_app()"], "served at"),
    "a path without slash": (["static=./static"], "'/static="),
    "an unknown option": (["story:app", "--thread", "4"], "--thread"),
    "a word for a number": (["story:app", "--threads", "many"], "threads"),
    "a number out of bounds": (["story:app", "--threads", "0"], "threads"),
    "a bad address": (["story:app", "-b", "127.0.0.1:99999"], "bind"),
    "no such address": (["story:app", "-b", "203.0.113.7:0"], "203.0.113.7"),
    "no such user": (["story:app", "--user", "nobody-at-all"], "nobody-at-all"),
    "no such config": (["-c", "nowhere.toml"], "nowhere.toml"),
    "a bad log format": (["story:app", "--access-logformat", "%Z"], "%Z"),
    "a log that can't be": (["story:app", "--access-logfile", "no/where/access"], "no/where/access"),
    "no such folder to go to": (["story:app", "--chdir", "nowhere"], "nowhere"),
    "no folder for spools": (["story:app", "--spool-dir", "/nowhere"], "/nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence_and_status_2(tmp_path, case):
    arguments, named = WRONG[case]
    bind = [] if "-b" in arguments else ["-b", "127.0.0.1:0"]
    found = halfsync(tmp_path, *bind, *arguments)
    assert found.returncode == 2, found.stderr
    assert named in found.stderr
    # Where it listens is said before anything is imported.
    lines = [line for line in found.stderr.splitlines() if " parent INFO listening at " not in line]
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("halfsync: ")
    assert found.stdout == ""


@pytest.mark.parametrize("more", [(), ("--preload",), ("--check-config",)], ids=["start", "preload", "check"])
def test_an_import_that_fails_shows_the_applications_traceback_and_none_of_ours(tmp_path, more):
    (tmp_path / "broken.py").write_text("def load():\n    return {}['key']\n\n\nload()\n")
    found = halfsync(tmp_path, "-b", "127.0.0.1:0", "broken:app", "-w", "2", *more)
    assert found.returncode == 2
    assert found.stderr.count("Traceback (most recent call last)") == 1
    assert "return {}['key']" in found.stderr
    assert "KeyError: 'key'" in found.stderr
    assert str(SOURCES) not in found.stderr
    assert found.stderr.strip().splitlines()[-1].startswith("halfsync: ")
    assert "'broken:app'" in found.stderr.strip().splitlines()[-1]


def test_an_address_in_use_is_said(tmp_path):
    with serving(tmp_path, "story:app") as server:
        found = halfsync(tmp_path, "-b", f"127.0.0.1:{server.port}", "story:app")
        assert found.returncode == 2
        assert "in use" in found.stderr
        assert server.get("/hello").status == 200


def test_a_wrong_key_of_the_file_is_named_with_the_likely_one(tmp_path):
    (tmp_path / "halfsync.toml").write_text("thread = 3\n")
    found = halfsync(tmp_path, "-c", "halfsync.toml", "story:app")
    assert found.returncode == 2
    assert "no setting thread; did you mean threads?" in found.stderr
    assert "halfsync.toml" in found.stderr


# --- users -----------------------------------------------------------------------------------------


@pytest.fixture
def open_folder():
    """A folder that others may enter (pytest's own are closed to them)."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


OWN = """
import os  # loaded already: this user may not be able to read Python's own library

def app(environ, start):
    if environ["PATH_INFO"] == "/user":
        start("200 OK", [])
        return [f"{os.geteuid()} {os.getegid()} ".encode()]
    start("200 OK", [])
    return (b"x" * 100_000 for _ in range(30))
"""


def identity(pid: int) -> tuple[set[int], set[int], set[int]]:
    """Real, effective and saved user and group, and further groups."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    uids, gids, groups = (set(map(int, rows[name].split())) for name in ("Uid", "Gid", "Groups"))
    return uids, gids, groups


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_pump_and_workers_run_as_nobody_and_serve_and_log(open_folder, preload):
    nobody = pwd.getpwnam("nobody")
    (open_folder / "own.py").write_text(OWN)
    (open_folder / "public").mkdir()
    (open_folder / "public/file").write_text("a file\n")
    (open_folder / "public/closed").write_text("SECRET\n")
    (open_folder / "public/closed").chmod(0o600)
    arguments = ("own:app", "/public=./public", "--user", "nobody", "--access-logfile", "access", *preload)
    with serving(open_folder, *arguments) as server:
        assert server.get("/user").body == b"%d %d " % (nobody.pw_uid, nobody.pw_gid)
        children = [pid for pid in server.processes() if pid != server.process.pid]
        assert len(children) == (4 if preload else 3)
        for pid in children:
            uids, gids, groups = identity(pid)
            assert uids == {nobody.pw_uid}
            assert gids == {nobody.pw_gid}
            assert 0 not in groups
        assert server.get("/public/file").body == b"a file\n"
        assert server.get("/public/closed").status == 404
        large = server.get("/large")  # by way of a spool
        assert len(large.body) == 3_000_000
        server.until(lambda: (open_folder / "access").read_text().count("GET") == 4)
        server.signal(signal.SIGUSR1)
        server.until_logged("the access log is reopened")
        server.get("/user")
        server.until(lambda: (open_folder / "access").read_text().count("GET") == 5)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
def test_the_next_workers_and_the_next_pump_are_nobody_too(open_folder):
    nobody = pwd.getpwnam("nobody")
    (open_folder / "own.py").write_text(OWN)
    with serving(open_folder, "own:app", "--user", "nobody") as server:
        for victim in (server.pump, server.workers("own:app")[0]):
            os.kill(victim, 9)
        server.until_logged("was killed by SIGKILL", 2)
        assert server.get("/user").body.startswith(b"%d " % nobody.pw_uid)
        assert identity(server.pump)[0] == {nobody.pw_uid}


WHO = """
import os
raise RuntimeError(f"the user {os.getuid()}")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
def test_check_config_imports_applications_as_the_user_that_they_will_run_as(open_folder):
    """Root finds in good order what the user can't even read; and it is no code for root."""
    nobody = pwd.getpwnam("nobody").pw_uid
    (open_folder / "own.py").write_text(WHO)
    found = halfsync(open_folder, "own:app", "--user", "nobody", "--check-config")
    assert (found.returncode, f"RuntimeError: the user {nobody}\n" in found.stderr) == (2, True)
    open_folder.chmod(0o700)
    found = halfsync(open_folder, "own:app", "--user", "nobody", "--check-config")
    sentence = f"no module 'own' in {open_folder} (which the user {nobody} may not read) or on Python's path."
    assert (found.returncode, sentence in found.stderr) == (2, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_user_that_may_not_read_pythons_own_modules_is_told(open_folder, monkeypatch, capfd, mode):
    """As where root has a Python in its own folder."""
    modules = open_folder / "modules"
    modules.mkdir(mode)
    (modules / "os.py").touch()
    monkeypatch.setattr(os, "__file__", str(modules / "os.py"))
    settings = Settings(user="nobody")
    machine.prepared(settings, (), privileges.identity(settings))
    assert (f"may not read Python's own modules in {modules}" in capfd.readouterr().err) == (mode == 0o700)


STRANGE_MODULE = """
import os
open(f"imported-{os.getpid()}", "w").close()
raise ImportError("somebody else's")
"""


def test_modules_in_the_current_folder_are_not_imported_by_the_server_itself(tmp_path):
    """It may be root's, and the folder somebody's who can put any module there, also while it serves. The
    application's modules are found there, as ever."""
    (tmp_path / "app.py").write_text("import beside\nfrom story import app\n")
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "halfsync.toml").write_text('[routes]\n"/" = "app:app"\n')
    names = ("argparse", "difflib", "grp", "pwd", "secrets", "select", "tomllib", "traceback", "msgspec")
    for name in names:
        (tmp_path / f"{name}.py").write_text(STRANGE_MODULE)
    with serving(tmp_path, "--config", "halfsync.toml") as server:
        assert server.get("/hello").body == b"hello\n"
        (old,) = server.workers("app:app")
        server.signal(signal.SIGHUP)
        server.until_gone([old])
        assert server.get("/hello").body == b"hello\n"
        assert not (tmp_path / f"imported-{server.process.pid}").exists()
        assert not (tmp_path / f"imported-{server.pump}").exists()
