"""New code, and the end: what clients see of a reload (nothing) and of a stop (whole responses)."""

from __future__ import annotations

import contextlib
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import AT_ONCE, Answer, Client, Crowd, Server, digest, request, serving, wrk

FORKED_AND_PRELOADED = pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])

RELEASE = """
import os, time
from story import app as story

def app(environ, start):
    if environ["PATH_INFO"] == "/release":
        start("200 OK", [("Content-Length", "{size}")])
        time.sleep(0.002)
        return [b"{word}"]
    return story(environ, start)
"""


def release(folder: Path, word: str) -> None:
    fresh = folder / "release.new"
    fresh.write_text(RELEASE.format(word=word, size=len(word)))
    fresh.rename(folder / "release.py")


def word_of(answer: Answer) -> str:
    assert answer.status == 200
    assert answer.whole
    return answer.body.decode()


# --- reload ----------------------------------------------------------------------------------------


@FORKED_AND_PRELOADED
def test_a_reload_under_load_fails_no_request_and_closes_no_connection(tmp_path, preload):
    release(tmp_path, "one")
    with serving(tmp_path, "release:app", "-w", "2", "--threads", "4", *preload) as server:
        with (
            wrk(server, "/release", 4) as said,
            server.client() as kept,
            Crowd(server, ["/release"] * 6, word_of) as crowd,
        ):
            assert kept.ask("/release").body == b"one"
            crowd.until_seen(50)
            for word in ("two", "three"):
                old = server.workers("release:app")
                release(tmp_path, word)
                server.signal(signal.SIGHUP)
                # the new code is seen, and then the old one never again
                crowd.until_lately(word)
                server.until_gone(old)
                mark = len(crowd.seen)
                crowd.until_seen(50)
                assert set(crowd.seen[mark + 6 :]) == {word}
                assert kept.ask("/release").body == word.encode()  # on the same connection
            crowd.stop()
            assert crowd.wrong == []
            assert crowd.broken == []
            assert set(Counter(crowd.seen)) == {"one", "two", "three"}
        assert "Socket errors" not in said[0], said[0]
        assert "Non-2xx" not in said[0], said[0]


@FORKED_AND_PRELOADED
def test_code_that_does_not_import_changes_nothing_and_is_said_once(tmp_path, preload):
    release(tmp_path, "one")
    with serving(tmp_path, "release:app", "-w", "2", *preload) as server:
        old = server.workers("release:app")
        with Crowd(server, ["/release"] * 2, word_of) as crowd:
            crowd.until_seen(10)
            (tmp_path / "release.py").write_text("import no_such_module_anywhere\n")
            server.signal(signal.SIGHUP)
            server.until_logged(": reload failed; the old workers keep serving")
            crowd.until_seen(20)
        assert crowd.broken == crowd.wrong == []
        assert set(crowd.seen) == {"one"}
        assert set(old) <= set(server.workers("release:app"))
        assert len(re.findall("ModuleNotFoundError: No module named .*: reload failed", server.log())) == 1
        server.tracebacks = 1
        # and the next one that is good is taken
        release(tmp_path, "two")
        server.signal(signal.SIGHUP)
        server.until(lambda: server.get("/release").body == b"two")


def test_an_old_worker_finishes_what_it_has(tmp_path):
    """A handler that is at work when the reload comes answers in its own time, with the old code."""
    release(tmp_path, "one")
    with serving(tmp_path, "release:app", "--threads", "1") as server, server.client() as waiting:
        (old,) = server.workers("release:app")
        waiting.send(request("/hang?file=go&as=it"))
        server.until((tmp_path / "here-it").exists)
        release(tmp_path, "two")
        server.signal(signal.SIGHUP)
        server.until(lambda: len(server.workers("release:app")) == 2)
        # its only thread is taken, so all others are the new one's
        assert server.get("/release").body == b"two"
        server.until_logged("release:app is reloaded")  # before that, it might take another when it is free
        (tmp_path / "go").touch()
        assert waiting.answer().body == b"waited\n"
        assert waiting.ask("/release").body == b"two"
        server.until_gone([old])


def test_a_reload_reads_files_and_settings_no_less_than_code(tmp_path):
    """(Folders need no reload; they are served on throughout.)"""
    (tmp_path / "public").mkdir()
    (tmp_path / "public/file").write_text("a file\n")
    release(tmp_path, "one")
    with serving(tmp_path, "release:app", "/public=./public", "--lease", "0") as server:

        def judge(answer: Answer) -> str:
            assert answer.body == b"a file\n"
            return "file"

        with Crowd(server, ["/public/file"] * 4, judge) as crowd:
            for times, word in enumerate(("two", "three", "four"), 1):
                release(tmp_path, word)
                server.signal(signal.SIGHUP)
                server.until_logged("release:app is reloaded", times)
                assert server.get("/release").body == word.encode()
                crowd.until_seen(20)
        assert crowd.broken == crowd.wrong == []


def test_a_release_is_changed_by_turning_a_link(tmp_path):
    """Deployments of many kinds: `current` is turned to the next release; then code and files are new."""
    for word in ("one", "two"):
        (tmp_path / word / "public").mkdir(parents=True)
        release(tmp_path / word, word)
        (tmp_path / word / "public/file").write_text(word)
    (tmp_path / "current").symlink_to("one")
    with serving(tmp_path, "--chdir", "current", "release:app", "/public=./public") as server:
        assert server.get("/release").body == server.get("/public/file").body == b"one"
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "current")
        server.signal(signal.SIGHUP)
        server.until_logged("release:app is reloaded")
        server.until_logged("built-in is reloaded")
        assert server.get("/release").body == b"two"
        server.until(lambda: server.get("/public/file").body == b"two")


# --- stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_cuts_no_response_off_and_loses_no_line(tmp_path, number):
    def judge(answer: Answer) -> str:
        assert answer.status == 200
        assert answer.whole, "begun and cut off"
        assert digest(answer.body) == answer["X-Digest"]
        return "right"

    logs = ("--access-logfile", "access", "--access-logformat", "%r %>s %{ending}x")
    with serving(tmp_path, "story:app", "--threads", "4", *logs) as server:
        server.get("/hello")
        crowd = Crowd(server, ["/digested", "/digested?counted=1"] * 3, judge)
        with crowd:
            crowd.until_seen(50)
            server.signal(number)
            assert server.ends() == 0
            crowd.stop()
        assert crowd.wrong == []
        lines = (tmp_path / "access").read_text().splitlines()
        assert len([line for line in lines if line.startswith("GET /digested")]) == len(crowd.seen)
        assert all(line.split()[3] == "200" for line in lines)


def test_a_stop_waits_for_a_handler_and_a_slow_reader_and_an_upload(tmp_path):
    with serving(tmp_path, "story:app", "--linger-timeout", "0.2") as server, contextlib.ExitStack() as stack:
        waiting, slow, sending, idle = (
            stack.enter_context(server.client(receive_buffer=8192)) for _ in range(4)
        )
        assert idle.ask("/hello").status == 200
        waiting.send(request("/hang?file=go&as=it"))
        slow.send(request("/digested?size=8000000"))
        assert slow.until(b"HTTP/1.1 200")
        sending.send(b"POST /received HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        server.until((tmp_path / "here-it").exists)
        server.signal(signal.SIGTERM)
        assert idle.is_closed()  # it has asked for nothing
        sending.send(b"67890")
        (tmp_path / "go").touch()
        answer = waiting.answer()
        assert (answer.body, answer["Connection"]) == (b"waited\n", "close")
        assert sending.answer().body.startswith(b"10 ")
        slow.unread[:0] = b"HTTP/1.1 200"
        last = slow.answer()
        assert last.whole
        assert digest(last.body) == last["X-Digest"]
        assert server.ends() == 0


def test_what_does_not_finish_in_time_is_cut_off(tmp_path):
    logs = ("--access-logfile", "access", "--access-logformat", "%U %X %{ending}x")
    with (
        serving(tmp_path, "story:app", "--graceful-timeout", "0.5", *logs) as server,
        server.client() as waiting,
    ):
        waiting.send(request("/slow_exactly?file=never"))
        assert waiting.until(b"\r\n\r\n")
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        assert len(waiting.rest()) < 64 * 1024
        assert "1 request was still in flight after 0.5 s and is cut off" in server.log()
        assert (tmp_path / "access").read_text() == "/slow_exactly X cut_off\n"


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM, signal.SIGTERM],
        [signal.SIGINT, signal.SIGINT],
        [signal.SIGTERM, signal.SIGINT],
        [signal.SIGQUIT],
    ],
    ids=lambda numbers: "-".join(number.name for number in numbers),
)
def test_a_second_stop_and_quit_end_it_at_once(tmp_path, numbers):
    with serving(tmp_path, "story:app") as server, server.client() as waiting:
        waiting.send(request("/hang?file=never&as=it"))
        server.until((tmp_path / "here-it").exists)
        for count, number in enumerate(numbers, 1):
            server.signal(number)
            server.until_logged(r"stopping", count)
        server.ends(AT_ONCE)
        assert waiting.rest() == b""
        assert "stopping at once" in server.log()
        assert " WARNING 1 request in flight is cut off." in server.log()


@pytest.mark.parametrize(
    "numbers", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGTERM]], ids=["QUIT", "TERM-TERM"]
)
def test_a_stop_at_once_loses_no_record_of_what_was_answered(tmp_path, numbers):
    """Nor of what it cuts off."""
    logs = ("--access-logfile", "access", "--access-logformat", "%U %>s %{ending}x")
    with (
        serving(tmp_path, "story:app", *logs) as server,
        server.client() as waiting,
        server.client() as client,
    ):
        waiting.send(request("/hang?file=never&as=it"))
        server.until((tmp_path / "here-it").exists)
        for _ in range(200):
            client.send(request("/hello") * 5)
            for _ in range(5):
                assert client.answer().status == 200
        for count, number in enumerate(numbers, 1):
            server.signal(number)
            server.until_logged("stopping", count)
        server.ends(AT_ONCE)
        assert waiting.rest() == b""
        lines = Counter((tmp_path / "access").read_text().splitlines())
        assert sum(count for line, count in lines.items() if line.startswith("/hello 200 ")) == 1000
        assert sum(count for line, count in lines.items() if line.startswith("/hang ")) == 1, lines


SLOW = """
import pathlib, time
while not pathlib.Path("go").exists():
    time.sleep(0.01)
from story import app
"""


@pytest.fixture
def starting(tmp_path) -> Iterator[Server]:
    """A server whose application is still being imported; it listens at the socket `at`."""
    (tmp_path / "slow.py").write_text(SLOW)
    server = Server(tmp_path, ("-b", f"unix:{tmp_path}/at", "slow:app"), {})
    try:
        server.until_logged(r"worker\(slow:app\) \[\d+\] is started")
        yield server
        server.stop()
    finally:
        server.kill()


def test_who_connects_while_it_starts_waits_and_is_served(starting):
    with Client(str(starting.folder / "at")) as client:
        client.send(request("/hello"))
        (starting.folder / "go").touch()
        assert client.answer().body == b"hello\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_it_can_be_stopped_while_it_starts(starting, number):
    starting.signal(number)
    assert starting.ends(AT_ONCE) == 0
    assert not (starting.folder / "at").exists()


def test_workers_run_their_exit_hooks(tmp_path):
    (tmp_path / "hooked.py").write_text(
        "import atexit, pathlib\n"
        "atexit.register(lambda: pathlib.Path('hook').write_text('ran'))\n"
        "def app(environ, start):\n    start('200 OK', [])\n    return [b'fine']\n"
    )
    with serving(tmp_path, "hooked:app") as server:
        assert server.get("/").body == b"fine"
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        assert (tmp_path / "hook").read_text() == "ran"


def test_workers_are_added_and_taken_away(tmp_path):
    with serving(tmp_path, "story:app") as server:
        server.signal(signal.SIGTTIN)
        server.until(lambda: len(server.workers("story:app")) == 2)
        server.signal(signal.SIGTTOU)
        server.until(lambda: len(server.workers("story:app")) == 1)
        assert server.get("/hello").status == 200
