"""The start: imports that hang, and signals that come while it lasts or that mean nothing."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.e2e.harness import Server, frozen
from tests.e2e.harness import serving_by_command as serving
from tests.e2e.test_settings_and_users import halfsync
from tests.test_parent import everything_that_ends_a_process

APPLICATION = """
import pathlib, time
word = pathlib.Path("word").read_text()
while word == "hang" or {waits} and not pathlib.Path("go").exists():
    time.sleep(0.01)
def app(environ, start):
    start("200 OK", [])
    return [word.encode()]
"""
LATE = r"Target 'slow:app': it was not ready within 3 s \(startup_timeout\)"


def application(folder: Path, name: str, waits: bool) -> None:
    (folder / f"{name}.py").write_text(APPLICATION.format(waits=waits))


@pytest.mark.parametrize("more", [(), ("--preload",), ("--check-config",)], ids=["start", "preload", "check"])
def test_an_import_that_hangs_ends_the_first_start(tmp_path, more):
    application(tmp_path, "slow", waits=True)
    (tmp_path / "word").write_text("one")
    found = halfsync(tmp_path, "-b", "127.0.0.1:0", "slow:app", "--startup-timeout", "3", *more)
    assert found.returncode == 2
    assert len(re.findall(f"^halfsync: {LATE}", found.stderr, re.MULTILINE)) == 1, found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_an_import_that_hangs_at_a_reload_leaves_the_old_code(tmp_path, preload):
    application(tmp_path, "slow", waits=False)
    word = tmp_path / "word"

    def settings(seconds: int) -> None:
        """The short time is for the one that hangs alone: others may take a busy machine longer."""
        (tmp_path / "halfsync.toml").write_text(f'startup_timeout = {seconds}\n[routes]\n"/" = "slow:app"\n')

    settings(60)
    word.write_text("one")
    with serving(tmp_path, "-c", "halfsync.toml", *preload) as server:
        settings(3)
        word.write_text("hang")
        server.signal(signal.SIGHUP)
        server.until_logged(LATE + ".* Reload failed")
        assert server.get("/").body == b"one"
        settings(60)
        word.write_text("two")
        server.signal(signal.SIGHUP)
        server.until(lambda: server.get("/").body == b"two")


def test_a_hangup_during_the_start_brings_the_newest_code_to_all(tmp_path):
    """To the application that is still being imported, and to the one that was ready already."""
    application(tmp_path, "quick", waits=False)
    application(tmp_path, "slow", waits=True)
    (tmp_path / "word").write_text("one")
    server = Server(tmp_path, ("-b", "127.0.0.1:0", "quick:app", "/slow=slow:app"), {}, by_command=True)
    try:
        server.until_logged(r"worker\(quick:app\) \[\d+\] is ready")
        server.until_logged(r"worker\(slow:app\) \[\d+\] is started")
        (tmp_path / "word").write_text("two")
        server.signal(signal.SIGHUP)
        server.until_logged("SIGHUP while starting")
        (tmp_path / "go").touch()
        server.wait_until_it_serves()
        assert server.get("/slow").body == b"two"
        server.until(lambda: server.get("/").body == b"two")
        server.stop()
    finally:
        server.kill()


def test_signals_before_there_is_a_handler_are_held_back(tmp_path):
    """From the first line of ours on; here the settings file takes its time."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "import pathlib, time\n"
        "pathlib.Path('here').touch()\n"
        "while not pathlib.Path('go').exists():\n"
        "    time.sleep(0.01)\n"
    )
    server = Server(
        tmp_path, ("-c", "gunicorn.conf.py", "-b", "127.0.0.1:0", "story:app"), {}, by_command=True
    )
    try:
        server.until((tmp_path / "here").exists)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
            server.signal(number)
        (tmp_path / "go").touch()
        server.wait_until_it_serves()
        server.until_logged("SIGHUP while starting")
        assert server.get("/hello").status == 200
        server.stop()
    finally:
        server.kill()


def test_check_config_holds_no_signal_back_from_applications(tmp_path):
    (tmp_path / "held.py").write_text(
        "import signal\n"
        "print('held:', sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))\n"
        "def app(environ, start): ...\n"
    )
    found = halfsync(tmp_path, "--check-config", "held:app")
    assert "held: []" in found.stdout, found


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_signals_that_mean_nothing_end_no_process(tmp_path, preload):
    with serving(tmp_path, "story:app", *preload) as server, server.client() as client:
        assert client.ask("/hello").status == 200
        before = server.processes()
        for number in everything_that_ends_a_process():
            for pid in before:
                os.kill(pid, number)
        server.until_logged("SIGALRM: this signal means nothing to halfsync; it is ignored")
        server.until_logged(r"SIGRTMIN\+1: this signal means nothing")
        assert client.ask("/hello").status == 200  # on the same connection
        assert server.processes() == before


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_all_those_signals_at_once_end_no_process(tmp_path, preload):
    """While a process stands still they gather; then the kernel puts them all onto one stack."""
    with serving(tmp_path, "story:app", *preload) as server, server.client() as client:
        assert client.ask("/hello").status == 200
        before = server.processes()
        for pid in before:
            with frozen(pid):
                for number in everything_that_ends_a_process():
                    os.kill(pid, number)
        server.until_logged(r"SIGRTMIN\+1: this signal means nothing")
        assert client.ask("/hello").status == 200  # on the same connection
        assert server.processes() == before


def test_a_program_that_an_application_starts_can_be_terminated(tmp_path):
    """Its signals are the default ones again."""
    (tmp_path / "starts.py").write_text(
        "import signal, subprocess\n"
        "def app(environ, start):\n"
        "    start('200 OK', [])\n"
        "    found = []\n"
        "    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2, signal.SIGRTMIN):\n"
        "        with subprocess.Popen(['sleep', '100']) as process:\n"
        "            process.send_signal(number)\n"
        "            found.append(process.wait() == -number)\n"
        "    return [str(found).encode()]\n"
    )
    with serving(tmp_path, "starts:app") as server:
        assert server.get("/").body == b"[True, True, True, True]"
