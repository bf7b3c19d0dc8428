"""`--reload`: while someone works on an application, with a true watcher."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.harness import APPS, LONG, SOURCES, Answer, Crowd, Server, request, serving

pytest.importorskip("watchfiles")

GOOD = "def app(environ, start):\n    start('200 OK', [])\n    return [b'{word}']\n"
HANGS = """
import os, time

def app(environ, start):
    open("here", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
    start('200 OK', [])
    return [b'waited']
"""


def edit(file: Path, text: str) -> None:
    """As editors do: by renaming."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text)
    fresh.rename(file)


def says(server: Server, word: bytes) -> bool:
    return server.get("/").body == word


def test_each_change_is_served_and_no_connection_is_closed(tmp_path):
    app = tmp_path / "app.py"
    edit(app, GOOD.format(word="0"))

    def judge(answer: Answer) -> str:
        assert answer.status == 200
        return answer.body.decode()

    with serving(tmp_path, "--reload", "-w", "2", "app:app") as server:
        with server.client() as kept, Crowd(server, ["/"] * 2, judge) as crowd:
            for word in "123":
                edit(app, GOOD.format(word=word))
                crowd.until_lately(word)
                assert kept.ask("/").whole
            crowd.stop()
        assert crowd.broken == crowd.wrong == []
        server.until_logged("app.py changed: reloading", 3)


def test_an_error_at_the_first_start_is_shown_and_the_next_change_serves(tmp_path):
    """More than once: what is wrong may be wrong otherwise the next time."""
    app = tmp_path / "app.py"
    app.write_text("def app(\n")
    server = Server(tmp_path, ("-b", "127.0.0.1:0", "--reload", "app:app"), {})
    try:
        server.until_logged(r"SyntaxError: '\(' was never closed\n.*Waiting for a change")
        assert 'app.py", line 1' in server.log()
        edit(app, "import helper\n")
        server.until_logged("no module named|No module named 'helper'")
        edit(
            app,
            "import helper\n"
            + GOOD.format(word="{helper.word}").replace("b'", "f'").replace("}'", "}'.encode()"),
        )
        edit(tmp_path / "helper.py", "word = 1 / 0\n")
        server.until_logged("ZeroDivisionError: division by zero\n.*Waiting for a change")
        edit(tmp_path / "helper.py", "word = 'good'\n")
        server.wait_until_it_serves()
        assert says(server, b"good")
        server.tracebacks = -1
    finally:
        server.stop()


def test_an_error_later_is_shown_and_the_old_code_serves_until_the_next_change(tmp_path):
    app = tmp_path / "app.py"
    edit(app, GOOD.format(word="one"))
    with serving(tmp_path, "--reload", "app:app") as server:
        edit(app, "raise RuntimeError('half edited')\n")
        server.until_logged("RuntimeError: half edited\n.*: reload failed")
        assert 'app.py", line 1' in server.log()
        assert says(server, b"one")
        edit(app, GOOD.format(word="two"))
        server.until(lambda: says(server, b"two"))
        server.tracebacks = 1


def test_a_request_in_flight_is_answered_by_the_code_that_has_it(tmp_path):
    app = tmp_path / "app.py"
    edit(app, HANGS)
    with serving(tmp_path, "--reload", "app:app") as server, server.client() as waiting:
        waiting.send(request("/"))
        server.until((tmp_path / "here").exists)
        edit(app, GOOD.format(word="new"))
        server.until_logged("app:app is reloaded")  # before that, the next request may hang too
        assert says(server, b"new")
        (tmp_path / "go").touch()
        assert waiting.answer().body == b"waited"


def test_two_edits_in_one_second_of_the_same_size_are_two(tmp_path):
    """With compiled files, which Python tells apart by whole seconds and size."""
    app = tmp_path / "app.py"
    with_pycache = {"PYTHONDONTWRITEBYTECODE": ""}
    now = 1_700_000_000

    def edit_then(word: str) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(GOOD.format(word=word))
        os.utime(fresh, (now, now))
        fresh.rename(app)

    edit_then("1")
    with serving(tmp_path, "--reload", "app:app", environment=with_pycache) as server:
        assert list((tmp_path / "__pycache__").glob("app.*.pyc"))
        for word in "23":
            edit_then(word)
            server.until(partial(says, server, word.encode()))


def test_what_does_not_count_reloads_nothing(tmp_path):
    app, template = tmp_path / "app.py", tmp_path / "page.html"
    edit(app, GOOD.format(word="one"))
    for folder in (".git", "venv", "skipped"):
        (tmp_path / folder).mkdir()
    (tmp_path / "venv/pyvenv.cfg").touch()
    options = ("--reload-exclude", "skipped", "--reload-include", "*.html")
    with serving(tmp_path, "--reload", *options, "app:app") as server:
        for name in (".git/x.py", "venv/x.py", "skipped/x.py", "data.json", ".x.py"):
            (tmp_path / name).touch()
        template.touch()
        server.until_logged("page.html changed: reloading")
        server.until_logged("app:app is reloaded")
        edit(app, GOOD.format(word="two"))
        server.until(lambda: says(server, b"two"))
        changed = [line.partition(" INFO ")[2] for line in server.log().splitlines() if "changed:" in line]
        assert changed == ["page.html changed: reloading.", "app.py changed: reloading."]


def test_a_module_elsewhere_on_the_path_is_watched(tmp_path):
    here, source = tmp_path / "here", tmp_path / "src"
    here.mkdir()
    source.mkdir()
    edit(source / "elsewhere.py", GOOD.format(word="one"))
    path = os.pathsep.join([str(SOURCES), str(APPS), str(source)])
    with serving(here, "--reload", "elsewhere:app", environment={"PYTHONPATH": path}) as server:
        edit(source / "elsewhere.py", GOOD.format(word="two"))
        server.until(lambda: says(server, b"two"))


def test_ctrl_c_ends_all_at_once(tmp_path):
    """Though a request is in flight that would take for ever."""
    edit(tmp_path / "app.py", HANGS)
    with serving(tmp_path, "--reload", "app:app") as server, server.client() as waiting:
        waiting.send(request("/"))
        server.until((tmp_path / "here").exists)
        server.signal(signal.SIGINT)
        assert server.ends() == 0


def test_without_watchfiles_one_sentence(tmp_path):
    blocked = "import sys; sys.modules['watchfiles'] = None; import halfsync.commands.cli as c; c.main()"
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, "-c", blocked, "--reload", "app:app"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=2 * LONG, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "halfsync: reload needs the package watchfiles: pip install 'halfsync[reload]'.\n"


# --- the configuration ------------------------------------------------------------------------------------


def test_a_change_of_the_settings_file_is_a_reload(tmp_path):
    """Wherever it lies, and however an editor writes it."""
    for name in ("one", "two"):
        edit(tmp_path / f"{name}.py", GOOD.format(word=name))
    folder = tmp_path / "settings"
    folder.mkdir()
    here = tmp_path / "here"
    here.mkdir()
    text = "bind = '127.0.0.1:0'\nreload = true\npythonpath = ['..']\n[routes]\n'/' = '{}:app'\n"
    (folder / "site.toml").write_text(text.format("one"))
    with serving(here, "-c", "../settings/site.toml", bind=False) as server:
        server.until_logged(r"watching \*\.py, \.\./settings/site\.toml in ")
        assert says(server, b"one")
        edit(folder / "site.toml", text.format("two"))
        server.until_logged("settings/site.toml changed: reloading")
        server.until(lambda: says(server, b"two"))
        edit(tmp_path / "two.py", GOOD.format(word="three"))  # at once, while the watcher is being replaced
        server.until(lambda: says(server, b"three"))
        (folder / "site.toml").write_text("no TOML")
        server.until_logged("Reload failed, .*The settings file ../settings/site.toml is not TOML")
        assert says(server, b"three")
        (folder / "site.toml").write_text(text.format("one"))
        server.until(lambda: says(server, b"one"))


def test_a_change_of_a_gunicorn_conf_py_is_one_reload(tmp_path):
    """It is a file of Python in a folder that is watched, too."""
    edit(tmp_path / "app.py", GOOD.format(word="one"))
    edit(tmp_path / "other.py", GOOD.format(word="two"))
    edit(tmp_path / "gunicorn.conf.py", "reload = True\nbind = '127.0.0.1:0'\nwsgi_app = 'app:app'\n")
    with serving(tmp_path, "-c", "gunicorn.conf.py", bind=False) as server:
        edit(tmp_path / "gunicorn.conf.py", "reload = True\nbind = '127.0.0.1:0'\nwsgi_app = 'other:app'\n")
        server.until(lambda: says(server, b"two"))
        server.until_logged(r"watcher \[\d+\] exited")  # until then two of them look
        edit(tmp_path / "other.py", GOOD.format(word="three"))
        server.until(lambda: says(server, b"three"))
        assert re.findall(r"(\S+) changed: reloading", server.log()) == ["gunicorn.conf.py", "other.py"]


def test_a_file_and_a_folder_that_are_included_are_watched(tmp_path):
    """gunicorn's --reload-extra-file names such."""
    edit(tmp_path / "app.py", GOOD.format(word="one"))
    (tmp_path / "templates").mkdir()
    (tmp_path / "words.yml").touch()
    (tmp_path / "words.txt").touch()
    options = ("--reload-extra-file", "templates", "--reload-extra-file", "words.yml")
    with serving(tmp_path, "--reload", *options, "app:app") as server:
        edit(tmp_path / "words.txt", "x")
        for number, name in enumerate(("templates/page.html", "words.yml"), 1):
            edit(tmp_path / name, "x")
            server.until_logged(f"{name} changed: reloading")
            server.until_logged("app:app is reloaded", number)
        assert "words.txt" not in server.log()


@pytest.mark.parametrize(
    "wrong",
    [
        "[routes]\n'/' = 'app:ap'\n",
        "[routes]\n'/' = 'app:app'\n'/x' = 'none:app'\n",
        "pythonpath = ['none']\n",
    ],
    ids=["no such name", "no such module", "no such path"],
)
def test_a_settings_file_that_is_mended_starts_the_server_again(tmp_path, wrong):
    """At the first start, what is wrong may stand in the settings file: then that is read again."""
    (tmp_path / "home").mkdir()
    (tmp_path / "code").mkdir()
    edit(tmp_path / "code/app.py", GOOD.format(word="one"))
    path = "pythonpath = ['../code']\n"
    right = f"chdir = 'home'\n{path}[routes]\n'/' = 'app:app'\n"
    if wrong.startswith("pythonpath"):
        text = right.replace(path, wrong)
    else:
        text = f"chdir = 'home'\n{path}{wrong}"
    edit(tmp_path / "halfsync.toml", text)
    arguments = ("--reload", "-b", "127.0.0.1:0", "-c", "halfsync.toml", "--pid", str(tmp_path / "pid"))
    server = Server(tmp_path, arguments, {})
    try:
        server.until_logged("Waiting for a change")
        edit(tmp_path / "halfsync.toml", "no TOML")
        server.until_logged("(?s)halfsync.toml changed: .* is not TOML.* Waiting for another change")
        assert server.process.poll() is None
        edit(tmp_path / "halfsync.toml", right)
        server.until_logged("halfsync.toml changed: starting again with it")
        server.wait_until_it_serves()
        assert says(server, b"one")
        assert (tmp_path / "pid").read_text().strip() == str(server.process.pid)
        edit(tmp_path / "code/app.py", GOOD.format(word="two"))
        server.until(lambda: says(server, b"two"))
    finally:
        server.stop()
