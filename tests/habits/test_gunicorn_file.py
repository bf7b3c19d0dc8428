"""A gunicorn.conf.py is read, for what has a counterpart; what has none is reported."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tomllib
from pathlib import Path

import pytest

from halfsync.habits import gunicorn
from halfsync.settings.errors import SettingError
from halfsync.settings.sources import load
from tests.e2e.harness import Server, serving, until
from tests.habits.test_command_lines import halfsync

EXAMPLE = Path(__file__).with_name("example.conf.py")
HOOKS = ["post_fork", "pre_fork", "pre_exec", "when_ready", "worker_int", "worker_abort", "ssl_context"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop.py").write_text(
        "def app(environ, start):\n    start('200 OK', [])\n    return [b'the shop']\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("syslog = True\nerrorlog = '-'", "syslog:"),
        ("syslog = True\nsyslog_addr = 'udp://[::1]:514'\nsyslog_facility = 'user'", None),
        ("syslog = False\nerrorlog = 'errors'", "errors"),
        ("errorlog = 'errors'\nsyslog = False", "errors"),
    ],
)
def test_syslog(folder, text, expected):
    (folder / "gunicorn.conf.py").write_text(text)
    found = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--print-config")
    said = tomllib.loads(found.stdout)["error_logfile"]
    assert said == (expected or "syslog:server=[::1]:514,facility=user"), found.stderr


def test_what_has_a_counterpart_counts(folder):
    shutil.copy(EXAMPLE, folder / "gunicorn.conf.py")
    found = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--print-config")
    printed = tomllib.loads(found.stdout)
    expected = {
        "bind": ["127.0.0.1:8000"],
        "workers": 3,
        "threads": 1,
        "handler_timeout": 30,
        "keep_alive": 2,
        "env": ["SHOP=open,all day"],
        "umask": "0o27",
        "control_socket": "control",
        "control_socket_mode": "0o660",
        "access_logfile": "-",
        "error_logfile": "-",
    }
    assert {name: printed[name] for name in expected} == expected
    assert "# gunicorn.conf.py" in found.stdout


def test_hooks_are_named_one_sentence_each_and_what_is_off_is_not(folder):
    shutil.copy(EXAMPLE, folder / "gunicorn.conf.py")
    found = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--check-config")
    assert (found.returncode, found.stderr) == (0, "")
    *notes, fine = found.stdout.splitlines()
    assert fine == "The configuration is fine."
    assert [note.split(" ")[1] for note in notes] == ["worker_connections", *HOOKS]
    for note in notes[1:]:
        assert re.match(r"gunicorn\.conf\.py: \w+ is not called: there are no hooks: .*\.$", note)


def test_the_example_converted_is_toml_that_means_the_same(folder):
    shutil.copy(EXAMPLE, folder / "gunicorn.conf.py")
    converted = halfsync(folder, "convert", "gunicorn.conf.py")
    assert (converted.returncode, converted.stderr) == (0, "")
    (folder / "halfsync.toml").write_text(converted.stdout)
    by_file = load({}, {}, str(folder / "halfsync.toml")).settings
    printed = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--print-config").stdout
    (folder / "printed.toml").write_text(printed)
    assert by_file == load({}, {}, str(folder / "printed.toml")).settings
    for name in ("worker_connections", *HOOKS):
        assert f"#  - {name} " in converted.stdout
    for name in ("daemon", "spew", "proc_name"):
        assert name not in converted.stdout
    assert '# "/" = "module:app"' in converted.stdout
    assert max(map(len, converted.stdout.splitlines())) < 120


def test_the_converted_file_serves(folder):
    (folder / "gunicorn.conf.py").write_text("wsgi_app = 'shop:app'\nworkers = 2\nthreads = 3\n")
    converted = halfsync(folder, "convert", "gunicorn.conf.py").stdout
    assert tomllib.loads(converted) == {"workers": 2, "threads": 3, "routes": {"/": "shop:app"}}
    (folder / "halfsync.toml").write_text(converted)
    with serving(folder, "-c", "halfsync.toml") as server:
        assert server.get("/").body == b"the shop"


def test_the_file_serves_and_its_hooks_are_logged(folder):
    (folder / "gunicorn.conf.py").write_text(
        "wsgi_app = 'shop:app'\nbind = '127.0.0.1:0'\ndef post_fork(server, worker): ...\n"
    )
    with serving(folder, "-c", "gunicorn.conf.py", bind=False) as server:
        assert server.get("/").body == b"the shop"
        assert "INFO gunicorn.conf.py: post_fork is not called: there are no hooks" in server.log()


def test_what_is_refused_stops_a_start_and_is_a_comment_when_converted(folder):
    (folder / "gunicorn.conf.py").write_text("paste = 'a.ini'\nworker_class = 'gevent'\nworkers = 2\n")
    found = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--check-config")
    assert found.returncode == 2
    assert found.stderr.startswith("halfsync: gunicorn.conf.py: paste: write a module")
    converted = halfsync(folder, "convert", "gunicorn.conf.py")
    assert converted.returncode == 0
    assert tomllib.loads(converted.stdout) == {"workers": 2, "routes": {}}
    assert "#  - paste: write a module" in converted.stdout
    assert "#  - worker_class gevent: " in converted.stdout


def test_values_may_be_computed_from_the_environment_and_from_neighbours(folder):
    (folder / "neighbour.py").write_text("folder = '/nowhere'\n")
    (folder / "gunicorn.conf.py").write_text(
        "import os, neighbour\n"
        "workers = os.environ.get('WORKERS') or 9\n"
        "bind = ['127.0.0.1:1', 'unix:a.sock']\n"
        "raw_env = ['FOLDER=' + neighbour.folder]\n"
        "preload_app = True\n"
        "print('printed by the file')\n"
    )
    found = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--print-config", WORKERS="4")
    printed = tomllib.loads(found.stdout.replace("printed by the file\n", ""))
    assert printed["workers"] == 4
    assert printed["bind"] == ["127.0.0.1:1", "unix:a.sock"]
    assert printed["env"] == ["FOLDER=/nowhere"]
    assert printed["preload"] is True


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n\n1 / 0\n", "file gunicorn.conf.py failed in line 3 with ZeroDivisionError: division by zero."),
        ("import nothing_of_that_name\n", "failed in line 1 with ModuleNotFoundError: "),
        ("def (\n", "The settings file gunicorn.conf.py failed with SyntaxError: "),
        ("raise SystemExit(3)\n", "failed in line 1 with SystemExit: 3."),
        ("import os\nos._exit(3)\n", "ended the process that read it (status 3)."),
        ("workers = 'many'\n", "gunicorn.conf.py: workers must be a whole number from 1 to"),
        ("timeout = -1\n", "gunicorn.conf.py: timeout must be a number of seconds, 0 or more, not -1."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(folder, text, sentence):
    (folder / "gunicorn.conf.py").write_text(text)
    for arguments in (
        ["-c", "gunicorn.conf.py", "shop:app", "--check-config"],
        ["convert", "gunicorn.conf.py"],
    ):
        found = halfsync(folder, *arguments)
        assert found.returncode == 2
        assert sentence in found.stderr
        assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "is_told"),
    [
        ({"X-FORWARDED-PROTO": "https"}, False),
        ({}, True),
        ({"X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}, True),
    ],
    ids=str,
)
def test_headers_for_the_scheme_are_told_unless_they_are_ours(folder, value, is_told):
    (folder / "gunicorn.conf.py").write_text(f"secure_scheme_headers = {value}\n")
    found = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--check-config")
    assert ("secure_scheme_headers has no effect" in found.stdout) == is_told


def test_a_file_that_is_not_there(folder):
    found = halfsync(folder, "-c", "no.conf.py", "shop:app")
    assert (
        found.stderr == "halfsync: The settings file no.conf.py can't be read: No such file or directory.\n"
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a.py", "b.py"]])
def test_convert_says_how_it_is_used(folder, arguments):
    found = halfsync(folder, "convert", *arguments)
    assert found.returncode == 2
    assert found.stderr == "halfsync: Usage: halfsync convert gunicorn.conf.py > halfsync.toml\n"


def test_a_name_of_gunicorns_in_our_own_file_is_reported_as_ours(folder):
    (folder / "halfsync.toml").write_text("timeout = 30\n")
    found = halfsync(folder, "-c", "halfsync.toml", "shop:app")
    assert (
        found.stderr
        == "halfsync: halfsync.toml:1: there is no setting timeout; did you mean handler_timeout?\n"
    )


def test_a_file_that_gunicorn_would_have_read_is_named(folder):
    (folder / "gunicorn.conf.py").write_text("workers = 7\n")
    found = halfsync(folder, "shop:app", "--check-config")
    assert found.stdout.startswith("./gunicorn.conf.py is not read unless it is named: -c gunicorn.conf.py\n")


def test_sync_is_one_thread_unless_threads_are_given_anywhere(folder):
    (folder / "gunicorn.conf.py").write_text("worker_class = 'sync'\n")

    def threads(*arguments: str, **environment: str) -> int:
        found = halfsync(folder, "shop:app", *arguments, "--print-config", **environment)
        number: int = tomllib.loads(found.stdout)["threads"]
        return number

    assert threads("-c", "gunicorn.conf.py") == 1
    assert threads("-c", "gunicorn.conf.py", "--threads", "3") == 3
    assert threads("-k", "sync") == 1
    assert threads("-k", "sync", GUNICORN_CMD_ARGS="--threads 4") == 4
    assert threads("-k", "sync", HALFSYNC_THREADS="5") == 5
    assert threads("--threads", "6", GUNICORN_CMD_ARGS="-k sync") == 6


# --- read again -----------------------------------------------------------------------------------------

CONF = "import os\nwsgi_app = 'shop:app'\nbind = '127.0.0.1:0'\nraw_env = ['SHOP=open']\n"


def reload(server: Server, folder: Path, text: str) -> str:
    """Change the file and say HUP. Gives what the log says, up to the outcome of it."""
    before = len(server.log())
    (folder / "gunicorn.conf.py").write_text(text)
    server.signal(signal.SIGHUP)
    outcome = "Reload failed|app is reloaded"  # the latter is the last line of a reload

    def said() -> str:
        log = server.log()[before:]
        return log if re.search(outcome, log) else ""

    return server.until(said)


def test_hup_reads_the_file_again(folder):
    (folder / "other.py").write_text((folder / "shop.py").read_text().replace("the shop", "another"))
    (folder / "gunicorn.conf.py").write_text(CONF)
    with serving(folder, "-c", "gunicorn.conf.py", bind=False) as server:
        said = reload(server, folder, CONF.replace("shop:app", "other:app") + "workers = 2\n")
        assert "The new configuration is in effect" in said
        assert server.get("/").body == b"another"
        server.until(lambda: len(server.workers("other:app")) == 2)


def test_the_file_is_executed_in_the_environment_of_the_start(folder):
    """`env`, which the file sets itself, changes the parent's own."""
    text = (
        CONF
        + "name = os.environ.get('SHOP', 'closed') + os.environ['TOWN']\nworkers = 1 + (name != 'closedX')\n"
    )
    (folder / "gunicorn.conf.py").write_text(text)
    with serving(folder, "-c", "gunicorn.conf.py", bind=False, environment={"TOWN": "X"}) as server:
        reload(server, folder, text)
        server.until(lambda: len(server.workers("shop:app")) == 1)


def test_a_hook_that_comes_later_is_logged_once(folder):
    (folder / "gunicorn.conf.py").write_text(CONF + "def when_ready(server): ...\n")
    with serving(folder, "-c", "gunicorn.conf.py", bind=False) as server:
        text = CONF + "def when_ready(server): ...\ndef post_fork(server, worker): ...\n"
        for workers in (2, 1):
            reload(server, folder, f"{text}workers = {workers}\n")
        log = server.log()
        assert log.count("when_ready is not called") == log.count("post_fork is not called") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 / 0\n", "failed in line 5 with ZeroDivisionError: division by zero."),
        ("workers = 'many'\n", "gunicorn.conf.py: workers must be a whole number"),
        ("paste = 'a'\n", "gunicorn.conf.py: paste: "),
        ("wsgi_app = 'nowhere:app'\n", "there is no module 'nowhere'"),
    ],
)
def test_a_file_that_is_wrong_later_changes_nothing(folder, text, sentence):
    (folder / "gunicorn.conf.py").write_text(CONF)
    with serving(folder, "-c", "gunicorn.conf.py", bind=False) as server:
        said = reload(server, folder, CONF + text)
        assert sentence in said
        assert "the old configuration stays in effect" in said
        assert server.get("/").body == b"the shop"


def test_what_the_file_starts_may_live_on(folder):
    """Also if it holds the pipe open through which the file's values come."""
    (folder / "gunicorn.conf.py").write_text(
        "import os, time\nif os.fork() == 0:\n    os.close(1)\n    os.close(2)\n"
        "    open('child', 'w').write(str(os.getpid()))\n"
        "    os.rename('child', 'pid')\n    time.sleep(1000)\nworkers = 2\n"
    )
    try:
        found = halfsync(folder, "-c", "gunicorn.conf.py", "shop:app", "--print-config")
        assert tomllib.loads(found.stdout)["workers"] == 2
    finally:
        os.kill(int(until((folder / "pid").exists) and (folder / "pid").read_text()), signal.SIGKILL)


def test_a_file_that_does_not_end_is_given_up(folder, monkeypatch):
    (folder / "gunicorn.conf.py").write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.setattr(gunicorn, "LONGEST", 0.2)
    monkeypatch.chdir(folder)
    with pytest.raises(SettingError, match=r"gunicorn\.conf\.py did not end within 0\.2 s\.$"):
        gunicorn.read("gunicorn.conf.py")
