"""The documentation is true: its examples run, its links lead somewhere, its words exist.

In a page, an HTML comment before a fenced block says what the block is:

    <!-- file: app.py -->   written into the page's own folder, or one below it
    <!-- run -->            `$ command` lines, each followed by the output it must have
    <!-- serve -->          a command that serves, until the next such block or the page's end
    <!-- try -->            like `run`, while that server is up

`...` in an expected output stands for anything within the line. Each page has a port of its own in
place of 8000. (How-to pages for which the world has to be arranged first have a test of their own:
e2e/test_behind_nginx.py, e2e/test_internet_page.py.)
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from halfsync.habits.table import BY_GUNICORN_NAME, TABLE
from halfsync.logs.formats import NAMED, compile_format
from halfsync.settings.rows import BY_NAME, ROWS
from halfsync.settings.sources import TABLES
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import LogRecord
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)

COMMANDS = {"halfsync": "-m halfsync", "django-admin": "-m django", "python": ""}
"""What an environment's bin/ would have."""

COMMAND_LIMIT = 120
START_LIMIT = 60


@dataclass(frozen=True)
class Block:
    mark: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(one["mark"] or "", one["language"], one["text"]) for one in found]


REASONS = {reason.name.lower() for reason in CloseReason}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


STORIES = [page for page in PAGES if any(block.mark in ("run", "serve") for block in blocks(page))]


# --- the examples run ----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", STORIES, ids=name)
def test_the_examples_run(page, tmp_path):
    with Story(tmp_path) as story:
        for block in blocks(page):
            story.tell(block)


class Story:
    """One page, told in a folder of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: further variables of its commands."""
        self._folder = folder
        self._port = free_port()
        self._server = contextlib.ExitStack()
        commands = folder.parent / f"{folder.name}-commands"
        commands.mkdir()
        for name, module in COMMANDS.items():
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            script.chmod(0o755)
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HALFSYNC_")},
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            **(environment or {}),
        }

    def __enter__(self) -> Story:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def tell(self, block: Block) -> None:
        if block.mark.startswith("file: "):
            file = self._folder / block.mark.removeprefix("file: ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._ours(block.text))
        elif block.mark == "serve":
            self._server.close()
            self._server.enter_context(self._serving(self._ours(block.text)))
        elif block.mark in ("run", "try"):
            self._converse(self._ours(block.text))
        else:
            assert block.mark in ("", "nginx"), f"what is '{block.mark}'?"

    def _ours(self, text: str) -> str:
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")

    def _converse(self, text: str) -> None:
        before = ""
        for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = step.partition("\n")
            pattern = ".*".join(map(re.escape, expected.split("...")))
            give_up = time.monotonic() + COMMAND_LIMIT
            while not re.fullmatch(pattern, said := self._output(command)):
                # what a reader waits for by "sleep 1" may take a busy machine longer
                waits = re.search(r"\bsleep \d", before + command) and time.monotonic() < give_up
                assert waits, f"$ {command}\nsaid:\n{said}\nexpected:\n{expected}"
            before = command

    def _output(self, command: str) -> str:
        """What a command prints. Into a file, for what it leaves in the background has a pipe open."""
        with tempfile.TemporaryFile("w+") as output:
            subprocess.run(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=COMMAND_LIMIT,
                check=False,
            )
            output.seek(0)
            return output.read().replace("\r\n", "\n")

    @contextlib.contextmanager
    def _serving(self, command: str) -> Iterator[None]:
        environment = {**self._environment, "HALFSYNC_BIND": f"127.0.0.1:{self._port}"}
        log = self._folder.parent / f"{self._folder.name}.log"
        with open(log, "ab") as output:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until_served(server, self._port, log)
            yield
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(COMMAND_LIMIT)


def wait_until_served(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """The listening socket is there before anything serves it, so ask for a response."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=START_LIMIT) as connection:
                connection.sendall(b"GET /is-it-up HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                if connection.recv(100):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"it does not serve:\n{log.read_text()}")


# --- words and links -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http://", "https://", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != DOCS / "README.md"], ids=name)
def test_every_page_is_in_the_table_of_contents(page):
    contents = (DOCS / "README.md").read_text(encoding="utf-8")
    assert page.parent == ROOT or f"({page.relative_to(DOCS)})" in contents


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles_and_toml_has_settings_that_exist(page):
    for block in blocks(page):
        if block.language == "python":
            # (some show a part of a coroutine)
            compile(block.text, name(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif block.language == "toml":
            assert set(tomllib.loads(block.text)) <= {*BY_NAME, *TABLES}


OTHER_OPTIONS = {
    "--config",
    "--check-config",
    "--print-config",
    "--print-routes",
    "--version",
    "--help",
    "--no-preload",
    "-s",  # of halfsync logresolve, with -c
    "-j",
}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_of_our_own_command_exist(page):
    ours = {flag for row in ROWS for flag in row.flags} | OTHER_OPTIONS | {"-c", "-h"}
    known = ours | {flag for row in TABLE for flag in row.flags}
    for command in re.findall(r"(?:^|[`$ ])halfsync ([^`|\n]*)", page.read_text(encoding="utf-8")):
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", " " + command):
            assert option in known, f"{option} in: halfsync {command}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for target in re.findall(
        r"(?:`|^    )make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        assert target in targets


SETTING_LIKE = re.compile(
    r"`((?:limit|reply|body|lease|queue|head|send|min|rate|keep|handler|graceful|linger|access|log|spool)"
    r"_[a-z_]+)(?: = [^`]*)?`"
)


NAMING_SETTINGS = [page for page in PAGES if page.parent != DOCS / "reference"]


@pytest.mark.parametrize("page", NAMING_SETTINGS, ids=name)
def test_settings_that_are_named_exist(page):
    nginx = {"open_file_cache", "access_log", "limit_req", "limit_conn"}
    theirs = {*nginx, "send_file", *REASONS, *BY_GUNICORN_NAME}
    for word in SETTING_LIKE.findall(page.read_text(encoding="utf-8")):
        assert word in BY_NAME or word in theirs, word


def test_the_letters_of_the_access_log_are_known():
    page = (DOCS / "reference/access-log.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`%.*?`) \|", page, flags=re.MULTILINE)
    letters = [letter for row in rows for letter in re.findall(r"`([^`]+)`", row)]
    assert len(letters) > 30
    for letter in letters:
        compile_format(letter)
    for named, form in re.findall(r"`(common|combined)` (?:is|the same with) `([^`]+)`", page):
        assert NAMED[named].endswith(form)


def test_the_keys_of_the_json_log_are_listed():
    page = (DOCS / "reference/access-log.md").read_text(encoding="utf-8")
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    record = LogRecord(0.0, "127.0.0.1", head, 200, 0, 0, 0, 0, 0, 0, 0)
    keys = json.loads(compile_format("json")([record]))
    listed = page.partition("with these keys:")[2].partition("##")[0]
    assert list(keys) == [word for word in re.findall(r"`(\w+)`", listed) if word != "null"]


# --- units of systemd ----------------------------------------------------------------------------

UNITS = [page for page in PAGES if any(block.language == "ini" for block in blocks(page))]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
@pytest.mark.parametrize("page", UNITS, ids=name)
def test_systemd_understands_the_units(page, tmp_path):
    """Also those parts of which the page says to what they belong."""
    command = "ExecStart=/bin/true\n"
    for block in blocks(page):
        if block.language != "ini":
            continue
        text = re.sub("^ExecStart=.*\n", command, block.text, flags=re.MULTILINE)
        if "ExecStart=" not in text and "[Socket]" not in text:
            text += command
        if not text.startswith("["):
            text = f"[Service]\n{text}"
        (tmp_path / "shop.service").write_text(f"[Service]\n{command}" if "[Socket]" in text else text)
        unit = tmp_path / ("shop.socket" if "[Socket]" in text else "shop.service")
        unit.write_text(text)
        verify = ["systemd-analyze", "verify", "--man=no", str(unit)]
        found = subprocess.run(verify, capture_output=True, text=True, timeout=COMMAND_LIMIT, check=False)
        # (What it says of this machine's own units is not the page's business.)
        wrong = [line for line in found.stderr.splitlines() if "shop" in line or str(tmp_path) in line]
        assert not wrong, f"{block.text}\n{found.stderr}"


def test_the_same_unit_is_on_all_pages():
    """Except for the user: on one page halfsync itself becomes another one."""

    def unit(page: Path) -> set[str]:
        return set(next(block.text for block in blocks(page) if block.language == "ini").splitlines())

    one = unit(DOCS / "how-to/systemd.md")
    assert unit(ROOT / "README.md") == one
    assert unit(DOCS / "how-to/internet.md") == one - {"User=shop"} | {"StateDirectory=shop"}


# --- generated pages -----------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted(DOCS.glob("make_*.py")), ids=name)
def test_generated_pages_are_current(script):
    """`make docs` would change nothing."""
    before = {page: page.read_bytes() for page in DOCS.rglob("*.*") if page.is_file()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, str(script)], cwd=ROOT, env=environment, check=True)
    stale = [page for page, data in before.items() if page.read_bytes() != data]
    for page in stale:
        page.write_bytes(before[page])
    assert not stale, f"make docs, and commit: {[name(page) for page in stale]}"
