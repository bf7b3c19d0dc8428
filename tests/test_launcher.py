"""What the launcher starts is a process like any other: its folder, environment, streams, status and mark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.tree import Mark
from tests.e2e.harness import until
from tests.launcher import MARK, Launched, launch

SCRIPT = """
import contextlib, json, os, sys, time
def open_files():
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the list
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
if __name__ == "__main__" and sys.argv[1] == "tells":
    print(json.dumps({"folder": os.getcwd(), "arguments": sys.argv[1:], "environment": dict(os.environ),
        "path": sys.path[0], "open": dict(open_files()), "input": sys.stdin.read()}))
    sys.exit(7)
if sys.argv[1] == "raises":
    raise ValueError("by itself")
if sys.argv[1] == "leaves one behind" and os.fork():
    sys.exit("it said why")
open("waits", "w").close()
time.sleep(1000)
"""


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[Launched]:
    (folder / "script.py").write_text(SCRIPT)
    with (folder / "output").open("wb") as output, (folder / "errors").open("wb") as errors:
        process = launch(
            [str(folder / "script.py"), *arguments],
            folder=folder,
            environment=environment,
            output=output.fileno(),
            errors=errors.fileno(),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def test_its_folder_environment_and_streams_are_its_own(tmp_path):
    with started(tmp_path, "tells", "more", A="b") as process:
        assert process.wait(60) == process.poll() == 7
    told = json.loads((tmp_path / "output").read_text())
    assert told["folder"] == told["path"] == str(tmp_path)
    assert told["arguments"] == ["tells", "more"]
    assert told["environment"] == {"A": "b"}
    assert told["input"] == ""
    # (ctypes takes a library from version 3.4 of which on holds its own file open.)
    assert {number for number, file in told["open"].items() if "libffi" not in file} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("does", "said"), [("raises", "ValueError: by itself"), ("leaves one behind", "it said why")]
)
def test_an_error_is_its_status_and_shown(tmp_path, does, said):
    mark = Mark(MARK)
    with started(tmp_path, does, **{MARK: mark.value}) as process:
        assert process.wait(60) == 1
    assert said in (tmp_path / "errors").read_text()
    for pid in mark.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not mark.processes())


def test_what_it_leaves_behind_is_found_by_the_mark_and_nobody_elses(tmp_path):
    mine, other = Mark(MARK), Mark(MARK)
    (tmp_path / "other").mkdir()
    with (
        started(tmp_path, "leaves one behind", **{MARK: mine.value}) as process,
        started(tmp_path / "other", "waits", **{MARK: other.value}) as waits,
    ):
        assert process.wait(60) == 1
        until((tmp_path / "waits").exists)
        [left] = mine.processes()
        assert left != process.pid
        assert other.processes() == [waits.pid]
        os.kill(left, signal.SIGKILL)
        until(lambda: not mine.processes())


def test_one_that_waits_has_no_status_until_it_is_killed(tmp_path):
    with started(tmp_path, "waits") as process:
        until((tmp_path / "waits").exists)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
        process.kill()  # it has ended; nothing is signalled
