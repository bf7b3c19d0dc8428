"""A command line that served elsewhere serves here with another word before it, or one sentence says
what to do."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest

from halfsync.habits import gunicorn_rows, other_rows
from halfsync.habits.rows import Effect
from tests.command_line import command
from tests.habits.command_lines import LINES, Line

SHOP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"the shop"]

def create_app(kind="development"):
    return app

async def asgi(scope, receive, send):
    kind = ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
"""


@pytest.fixture
def folder():
    """Others may enter it (pytest's own are closed to them): one of them serves as another user."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield filled(Path(name))


def filled(folder: Path) -> Path:
    (folder / "shop.py").write_text(SHOP)
    (folder / "site_of").mkdir()
    (folder / "site_of/__init__.py").write_text("")
    (folder / "site_of/wsgi.py").write_text("from shop import app as application\n")
    (folder / "conf").mkdir()
    (folder / "conf/gunicorn.conf.py").write_text("workers = 7\nwsgi_app = 'shop:app'\n")
    (folder / "gunicorn_settings.py").write_text("workers = 6\n")
    (folder / "gunicorn.conf").write_text("workers = 5\ntimeout = 9\n")  # TOML, too, by its form
    (folder / "conf/shop.conf").write_text("import os\nworkers = 4\n")
    (folder / "templates").mkdir()
    (folder / "a.pem").touch()
    return folder


def halfsync(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = ("PORT", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "FORWARDED_ALLOW_IPS", "SCRIPT_NAME")
    others = ("HALFSYNC_", "UVICORN_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(others) and k not in known}
    return command(folder, *arguments, environment={**inherited, **environment})


def words(line: Line) -> list[str]:
    return shlex.split(line.command.replace("$PORT", "5000"))[1:]


def test_there_are_enough():
    assert len(LINES) >= 29


@pytest.mark.parametrize("line", [one for one in LINES if not one.told], ids=lambda one: one.command)
def test_a_command_line_means_what_it_meant(folder, line):
    found = halfsync(folder, *words(line), "--print-config", **line.environment)
    assert found.returncode == 0, found.stderr
    printed = tomllib.loads(found.stdout)
    assert printed["routes"] == {"/": line.target}
    assert {name: printed[name] for name in line.means} == line.means


@pytest.mark.skipif(os.geteuid() != 0, reason="one of them names a user")
@pytest.mark.parametrize("line", [one for one in LINES if not one.told], ids=lambda one: one.command)
def test_its_configuration_is_fine(folder, line):
    found = halfsync(folder, *words(line), "--check-config", **line.environment)
    # (Where Python is root's own, there is a line about that.)
    told = [said for said in found.stderr.splitlines() if "Python's own modules" not in said]
    assert (found.returncode, told) == (0, [])
    assert found.stdout.endswith("The configuration is fine.\n")


@pytest.mark.parametrize("line", [one for one in LINES if one.told], ids=lambda one: one.command)
def test_what_can_not_be_had_is_one_sentence(folder, line):
    found = halfsync(folder, *words(line), "--check-config", **line.environment)
    assert found.returncode == 2
    assert line.told in found.stderr
    told = found.stderr.splitlines()
    assert len(told) == 1
    assert told[0].startswith("halfsync: ")
    assert found.stdout == ""


# --- the table ------------------------------------------------------------------------------------

ROWS = [*gunicorn_rows.ROWS, *other_rows.ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.shown)
def test_a_row_says_what_to_do(row):
    assert row.setting or row.sentence
    assert not row.sentence or row.sentence.endswith(".")
    if row.does is not Effect.MEANS:
        assert row.sentence


def test_a_flag_stands_in_one_row():
    flags = [flag for row in ROWS for flag in row.flags]
    assert len(flags) == len(set(flags))


PASSED = [row for row in ROWS if row.does is Effect.NOTHING and row.flags]


@pytest.mark.parametrize("row", PASSED[::9], ids=lambda row: row.shown)
def test_what_has_no_effect_says_so_and_all_goes_on(folder, row):
    value = [] if row.is_switch else ["1"]
    found = halfsync(folder, "shop:app", row.flags[-1], *value, "--check-config")
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"{row.shown} has no effect: {row.sentence}\nThe configuration is fine.\n"


STOPPED = [row for row in ROWS if row.does is Effect.REFUSED and row.flags and row.translated is None]


@pytest.mark.parametrize("row", STOPPED[::4], ids=lambda row: row.shown)
def test_what_is_refused_says_why(folder, row):
    found = halfsync(folder, "shop:app", row.flags[-1], *([] if row.is_switch else ["1"]), "--check-config")
    assert (found.returncode, found.stderr) == (2, f"halfsync: {row.shown}: {row.sentence}\n")


def test_a_wrong_value_is_reported_with_the_option_that_was_given(folder):
    found = halfsync(folder, "shop:app", "--timeout", "long", "--check-config")
    assert found.stderr == "halfsync: --timeout must be a number of seconds, 0 or more, not 'long'.\n"
    found = halfsync(folder, "shop:app", "--check-config", GUNICORN_CMD_ARGS="--workers many")
    assert found.stderr.startswith("halfsync: --workers must be a whole number")


@pytest.mark.parametrize("text", ["--bind '", "--no-such-option"])
def test_a_variable_that_can_not_be_read_is_reported(folder, text):
    found = halfsync(folder, "shop:app", "--check-config", GUNICORN_CMD_ARGS=text)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "GUNICORN_CMD_ARGS" in found.stderr


def test_the_variable_is_named_as_origin_and_is_weaker_than_ours(folder):
    found = halfsync(
        folder, "shop:app", "--print-config", GUNICORN_CMD_ARGS="-w 3 --threads 2", HALFSYNC_THREADS="5"
    )
    assert "workers = 3 " in found.stdout
    assert "# environment variable GUNICORN_CMD_ARGS" in found.stdout
    assert tomllib.loads(found.stdout)["threads"] == 5


# --- a settings file that nobody names ----------------------------------------------------------------


def test_the_usual_settings_file_is_taken_when_nothing_is_named_and_that_is_said(folder):
    (folder / "halfsync.toml").write_text("threads = 3\n[routes]\n'/' = 'shop:app'\n")
    assert tomllib.loads(halfsync(folder, "--print-config").stdout)["threads"] == 3
    said = halfsync(folder, "--check-config").stdout
    assert said.startswith("No target and no file is named, so the settings are those of ./halfsync.toml.\n")


def test_it_is_not_taken_beside_a_target_or_another_file(folder):
    (folder / "halfsync.toml").write_text("threads = 3\n")
    (folder / "other.toml").write_text("[routes]\n'/' = 'shop:app'\n")
    assert tomllib.loads(halfsync(folder, "shop:app", "--print-config").stdout)["threads"] == 8
    assert tomllib.loads(halfsync(folder, "-c", "other.toml", "--print-config").stdout)["threads"] == 8


def test_the_help_has_none_of_them(folder):
    helped = " ".join(halfsync(folder, "--help").stdout.split())
    for flag in ("--worker-class", "--factory", "--timeout ", "--paste"):
        assert flag not in helped
    assert "halfsync convert" in helped
