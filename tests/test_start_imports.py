"""A start is quick because of what is not imported. Nearly all of its processor time goes into imports, which
the parent does once and before the first fork, so that its children share them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import halfsync
from halfsync.parent.kept_code import LATE
from halfsync.start import NEEDED

BEGIN = "import halfsync.commands.cli, halfsync.parent.main as main; main.entry_points(None)"

COSTLY = {
    "asyncio": "is imported by a worker that has an event loop",
    "difflib": "is for a name that is wrong",
    "email": "is for dates in forms that are no longer sent",
    "importlib.metadata": "finds out versions, which nobody asks for",
    "logging": "is imported by applications that log",
    "multiprocessing": "is never used",
    "shlex": "is for GUNICORN_CMD_ARGS",
    "subprocess": "is never used",
    "unittest": "is never used",
    "urllib.request": "is never used",
}


def imported(code: str) -> set[str]:
    said = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(said.stdout.split())


@pytest.fixture(scope="module")
def at_start() -> set[str]:
    """Without what the interpreter imports by itself, which differs from one environment to another."""
    return imported(BEGIN) - imported("pass")


OF_COMMANDS = re.compile(
    r"halfsync\.(commands\..*|start|__main__|parent\.reload\.config_check|plan\.without_effect)"
)
"""What a server that runs has no further use for."""


def test_all_of_our_code_is_in_memory_at_the_start(at_start):
    """Imported, or kept: what a process imports later may be another version's by then."""
    package = Path(halfsync.__file__).parent
    names = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
    }
    missing = {name for name in names - at_start if not OF_COMMANDS.fullmatch(name)}
    assert missing == {f"halfsync.{name}" for name in LATE}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_module_is_not_imported_at_the_start(name, at_start):
    assert "halfsync.pump.main" in at_start
    assert name not in at_start


def test_masking_in_c_comes_without_the_package_around_it(at_start):
    pytest.importorskip("websockets.speedups")
    assert "websockets" not in at_start
    check = "from halfsync.wire import websocket as w; assert w.unmasked is not w.unmasked_in_python"
    later = "import websockets.speedups as s; assert s.apply_mask(b'a', b'1234') == w.unmasked(b'a', b'1234')"
    assert "websockets.speedups" in imported(f"{check}; {later}")


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("main", "click"),
        ("main", "msgspec"),
        ("main", "httptools"),
        ("control", "click"),
        ("control", "msgspec"),
    ],
)
def test_a_package_that_is_not_installed_is_told_in_a_sentence(command, package):
    """As with `pip install --no-deps`."""
    code = f"import sys; sys.modules[{package!r}] = None; from halfsync.start import {command}; {command}()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    name = {"main": "halfsync", "control": "halfsyncctl"}[command]
    sentence = f"{name}: the package {package}, which it needs, is not in {sys.prefix}: pip install halfsync."
    assert (ended.stderr.strip(), ended.returncode) == (sentence, 1)


@pytest.mark.parametrize(
    ("command", "part"),
    [("main", "msgspec._core"), ("control", "msgspec._core"), ("main", "httptools.parser.parser")],
)
def test_a_package_for_another_python_is_told_in_a_sentence(command, part):
    """As in a folder that was copied from another machine, or in a zip file."""
    code = f"import sys; sys.modules[{part!r}] = None; from halfsync.start import {command}; {command}()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    name = {"main": "halfsync", "control": "halfsyncctl"}[command]
    start = f"{name}: the package {part.partition('.')[0]} has no {part} for this Python 3."
    assert ended.stderr.startswith(start)
    assert (len(ended.stderr.splitlines()), ended.returncode) == (1, 1)


def test_what_is_needed_is_what_is_installed():
    with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    assert [re.split(r"[^a-z]", one)[0] for one in wanted] == list(NEEDED)
