"""Applications that do something to their own process, each in a pool of its own of one server.

What they do is the table HOSTILE in `apps/hostile.py`. Whatever it is: their requests get the right
responses before and after it, two at a time; nobody else's response changes; a reload brings a new
process that works as well; and at a stop all of them leave in good time with their exit functions run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import LONG, Answer, Server, request, serving, until

GOOD_TIME = 120.0
"""Seconds for a stop of all, which are many; graceful_timeout is far more."""

AT_ONCE = 8
"""Applications that are tried at the same time."""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The module with the table. It acts on a process only when it is told to."""
    monkeypatch.setenv("HOSTILE_FOLDER", str(tmp_path))
    from tests.e2e.apps import hostile

    return hostile


@contextmanager
def serving_all(folder: Path, names: list[str], *arguments: str) -> Iterator[Server]:
    routes = [f"/{name}=hostile:make('{name}')" for name in names]
    (folder / "spool").mkdir()
    more = ["--threads", "2", "--graceful-timeout", "600", "--startup-timeout", "600", "--spool-dir", "spool"]
    more += ["--reply-memory", "32K", "--body-memory", "32K"]
    environment = {"HOSTILE_FOLDER": str(folder)}
    with serving(folder, *routes, *more, *arguments, environment=environment, seconds=6 * LONG) as server:
        server.tracebacks = -1
        yield server


class Judge:
    """Knows the right response to each request, and says which one is wrong."""

    def __init__(self, server: Server, hostile: Any, name: str) -> None:
        self._server = server
        self._hostile = hostile
        self._name = name

    def everything(self, when: str) -> None:
        """Two clients at the same time."""
        both = [threading.Thread(target=self._guarded, args=(when,)) for _ in range(2)]
        self.wrong: list[str] = []
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert not self.wrong, self.wrong

    def _guarded(self, when: str) -> None:
        try:
            self._ask_all(when)
        except (AssertionError, OSError) as error:
            self.wrong.append(f"{when}: {error!r}")

    def _ask_all(self, when: str) -> None:
        with self._server.client() as client:
            self._judge(client.ask(f"/{self._name}/hello"), b"hello\n", when)
            body = b"".join(self._hostile.PIECES)
            self._judge(client.ask(f"/{self._name}/pieces"), body, when)
            for size in (10, 50_000):
                upload = hashlib.sha512(self._name.encode()).digest() * (size // 64 + 1)
                found = client.ask(f"/{self._name}/echo", method="POST", body=upload)
                self._judge(found, upload, when)
            self._judge(client.ask(f"/{self._name}/hello"), b"hello\n", when)

    def _judge(self, found: Answer, body: bytes, when: str) -> None:
        assert found.status == 200, f"{when}: {found.line} {found.body[:80]!r}"
        assert found.whole, f"{when}: cut short"
        assert found.body == body, f"{when}: {found.body[:80]!r} instead of {body[:80]!r}"

    def do(self) -> None:
        """What the row does. By POST, which is not tried again when its worker dies."""
        row = self._hostile.HOSTILE[self._name]
        with self._server.client() as client:
            client.send(request(f"/{self._name}/do", method="POST", body=b"x" * 50_000))
            found = client.answer("POST")
        assert found.status == row.status, f"do: {found.line} {found.body[:80]!r}"
        assert found.whole == row.whole, "do: cut short"
        if self._name == "noisy":
            assert found.body == b"x" * 50_000 + row.body, f"do: {found.body[:80]!r}"
        elif row.body is not None:
            assert found.body == row.body, f"do: {found.body[:80]!r}"

    def mark(self) -> None:
        assert self._server.get(f"/{self._name}/mark?{self._name}").body == b"marked"
        until(lambda: f"mark {self._name}\n" in self._server.log(), told=lambda: "no mark in the log")

    def process(self) -> int:
        return int(self._server.get(f"/{self._name}/process").body)


def each(names: list[str], act: Any) -> dict[str, str]:
    """What went wrong, by application."""

    def tried(name: str) -> str:
        try:
            act(name)
        except (AssertionError, OSError, ValueError) as error:
            return repr(error)
        return ""

    with ThreadPoolExecutor(AT_ONCE) as clients:
        return {name: wrong for name, wrong in zip(names, clients.map(tried, names), strict=True) if wrong}


def test_what_is_printed_at_import_comes_once(tmp_path):
    """Also with preload, where each worker is a copy of the process that printed."""
    (tmp_path / "printing.py").write_text(
        "from hostile import make\nprint('imported')\napp = make('harmless')\n"
    )
    environment = {"HOSTILE_FOLDER": str(tmp_path)}
    with serving(tmp_path, "printing:app", "--preload", "-w", "3", environment=environment) as server:
        assert server.get("/").body == b"hello\n"
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
    assert server.output.read_text() == "imported\n"


@pytest.mark.parametrize("name", ["closed_numbers", "other_numbers", "noisy"])
def test_an_access_log_on_standard_output_goes_there_whatever_an_application_does_with_its_number(
    tmp_path, name
):
    with serving_all(tmp_path, [name], "--access-logfile", "-", "--access-logformat", "%U") as server:
        for _ in range(3):
            assert server.get(f"/{name}/hello").body == b"hello\n"
        server.until(lambda: server.output.read_text() == f"/{name}/hello\n" * 3)


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_hostile_applications(tmp_path, hostile, preload):
    libraries = {name for name in ("gevent", "eventlet") if importlib.util.find_spec(name) is None}
    names = [
        name
        for name, row in hostile.HOSTILE.items()
        if name not in libraries and (row.at_import is not hostile.nothing or not preload or "fork" in name)
    ]
    ended: dict[str, int] = {}
    with serving_all(tmp_path, names, *preload) as server:

        def requests(name: str) -> None:
            judge = Judge(server, hostile, name)
            judge.everything("before")
            for _ in range(2):
                judge.do()
                judge.everything("after")
            judge.mark()

        def after_reload(name: str) -> None:
            judge = Judge(server, hostile, name)
            words = f"hostile:make('{name}') is reloaded"
            until(lambda: words in server.log(), 3 * LONG, lambda: "not reloaded")
            judge.everything("reloaded")
            judge.do()
            judge.everything("at the end")
            ended[name] = judge.process()

        assert each(names, requests) == {}
        server.signal(signal.SIGHUP)
        assert each(names, after_reload) == {}
        server.signal(signal.SIGTERM)
        assert server.process.wait(GOOD_TIME) == 0
        (tmp_path / "over").touch()
        server.until(lambda: not server.processes(), LONG)
        missing = [name for name, pid in ended.items() if not (tmp_path / f"ended-{name}-{pid}").exists()]
        assert missing == [], "exit functions did not run"
        private = [path.read_bytes() for path in tmp_path.glob("private-*")]
        assert private
        assert set(private) == {b"private"}
        log = server.log()
        deadly = {name for name, row in hostile.HOSTILE.items() if row.status == 502}
        died = set(re.findall(r"hostile:make\('(\w+)'\)\) \[\d+\] .*Another starts", log))
        assert died <= deadly, "these did not mean to"
        assert "Error in a thread of the worker" not in log
        assert "ended by a bug" not in log
        assert "did not exit in time" not in log
        for library in {"gevent", "eventlet"}.intersection(names):
            assert f"{library} has patched Python's threading module: halfsync still runs" in log
