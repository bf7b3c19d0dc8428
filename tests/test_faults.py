"""The short form of `make faults`; and that its judge sees what it is there to see."""

from __future__ import annotations

import itertools
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults import asgi_faults, crowds, http2_crowds, processes
from faults.__main__ import describe
from faults.content import content
from faults.judge import Judge
from faults.requests import Maker, Request
from faults.run import run
from faults.table import TABLE
from faults.wire import Connection

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 1.0
LONG = 60.0
CLIENTS = 6

assert processes  # its faults are in TABLE, too
assert crowds
assert http2_crowds
assert asgi_faults

QUICK = [name for name, fault in TABLE.items() if fault.quick]

NOT_MENDED: dict[str, str] = {}
"""Faults that show something wrong, with a sentence that says what. Not run: to hang takes long."""


def _marked(name: str) -> object:
    if name in NOT_MENDED:
        return pytest.param(name, marks=pytest.mark.xfail(run=False, reason=NOT_MENDED[name]))
    return name


@pytest.fixture
def on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes longer than this hangs there, too."""
    for limit in ("run.PROBE", "run.NORMAL_WITHIN", "server.START_LIMIT", "server.STOP_LIMIT"):
        monkeypatch.setattr(f"faults.{limit}", LONG)
    monkeypatch.setattr("faults.wire.DEADLINE", 25.0)  # before queue_timeout, which ends it with an error


@pytest.mark.usefixtures("on_a_busy_machine")
@pytest.mark.parametrize("name", [_marked(name) for name in QUICK])
def test_every_response_is_right_or_says_that_it_is_not(name: str):
    verdict = run(TABLE[name], SECONDS, CLIENTS, seed=1)
    if verdict.skipped:
        pytest.skip(verdict.skipped)
    assert verdict.is_good, describe(verdict)
    assert verdict.judge.right > 5, describe(verdict)


def test_every_fault_says_what_it_does():
    for fault in TABLE.values():
        assert fault.sentence.endswith("."), fault.name


def test_a_fault_that_is_not_there_is_one_sentence():
    command = [sys.executable, "-m", "faults", "worker-kiled"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 2
    assert "there is no fault 'worker-kiled'" in done.stderr


# --- the judge --------------------------------------------------------------------------------------


def ok(body: bytes, *lines: str, length: int | None = None, status: str = "200 OK") -> bytes:
    length = len(body) if length is None else length
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {length}", *lines, "", ""])
    return head.encode() + body


@contextmanager
def responding(*writes: bytes, reset: bool = False, seconds: float = LONG) -> Iterator[Connection]:
    """A connection whose other end says `writes`, whatever it is asked, and closes; with none, it waits."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(1 << 20)
            for data in writes:
                peer.sendall(data)
            if reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif not writes:
                over.wait(LONG)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = Connection(listener.getsockname()[1], seconds=seconds)
    try:
        yield connection
    finally:
        over.set()
        connection.close()
        thread.join()
        listener.close()


def maker() -> Maker:
    numbers = itertools.count(1)
    return Maker(random.Random(1), lambda: next(numbers))


def right(request: Request) -> bytes:
    fields = [f"{name}: {value}" for name, value in request.fields.items() if name != "content-length"]
    return ok(request.body, *fields)


def two() -> list[Request]:
    return [a_get(number) for number in (1, 2)]


def a_get(number: int) -> Request:
    fields = {"x-number": str(number)}
    return Request(b"GET / HTTP/1.1\r\n\r\n", "GET", "/", 200, content(number, 50), fields)


def swapped(requests: list[Request]) -> bytes:
    return right(requests[1]) + right(requests[0])


def body_of_another(requests: list[Request]) -> bytes:
    return ok(requests[1].body, "X-Number: 1") + right(requests[1])


def cut_and_whole(requests: list[Request]) -> bytes:
    return ok(requests[0].body[:20], "X-Number: 1") + right(requests[1])


def first_twice(requests: list[Request]) -> bytes:
    return right(requests[0]) * 2


def bytes_between(requests: list[Request]) -> bytes:
    return right(requests[0]) + b"a log line\n" + right(requests[1])


def wrong_status(requests: list[Request]) -> bytes:
    return ok(b"", status="404 Not Found") + right(requests[1])


def close_is_the_end(requests: list[Request]) -> bytes:
    return b"HTTP/1.1 200 OK\r\nX-Number: 1\r\n\r\n" + requests[0].body[:30]


@pytest.mark.parametrize(
    "lie",
    [swapped, body_of_another, cut_and_whole, first_twice, bytes_between, wrong_status, close_is_the_end],
)
def test_the_judge_sees_a_wrong_response(lie: Callable[[list[Request]], bytes]):
    judge, requests = Judge(), two()
    with responding(lie(requests)) as connection:
        judge.exchange(connection, requests)
    assert judge.wrong
    assert not judge.hung


def test_the_judge_sees_one_response_too_many():
    judge, requests = Judge(), two()
    with responding(right(requests[0]) + right(requests[1]) + right(requests[1])) as connection:
        assert judge.exchange(connection, requests)
        assert not judge.wrong
        assert not judge.exchange(connection, two())
    assert "belong to no request" in judge.wrong[0]


@pytest.mark.parametrize("cut", [0, 10, 90])
@pytest.mark.parametrize("reset", [True, False])
def test_an_end_before_the_end_is_aborted(cut: int, reset: bool):
    judge, requests = Judge(), two()
    writes = [right(requests[0]) + right(requests[1])[:cut]]
    with responding(*writes, reset=reset) as connection:
        assert not judge.exchange(connection, requests)
    assert judge.wrong == judge.hung == []
    assert judge.right + judge.aborted == 2
    assert judge.aborted >= 1


def test_an_honest_error_is_an_error_and_what_is_behind_it_is_judged_on():
    judge, requests = Judge(), two()
    with responding(ok(b"busy", status="503 Service Unavailable") + right(requests[1])) as connection:
        assert judge.exchange(connection, requests)
    assert (judge.right, judge.errors, judge.wrong, judge.hung) == (1, {"503": 1}, [], [])


def test_the_judge_sees_a_client_that_hangs():
    judge = Judge()
    with responding(seconds=0.3) as connection:
        assert not judge.exchange(connection, two())
    assert len(judge.hung) == 1
    assert judge.aborted == 1


def test_the_judge_counts_what_posts_have_done(tmp_path: Path):
    judge, posts = Judge(), [maker().post() for _ in range(1)]
    effects = tmp_path / "effects"
    with responding(right(posts[0])) as connection:
        judge.exchange(connection, posts)
    assert judge.right == 1
    judge.check_effects(effects)
    assert "never ran" in judge.wrong.pop()
    effects.write_text("1\n")
    judge.check_effects(effects)
    assert not judge.wrong
    effects.write_text("1\n2\n1\n")
    judge.check_effects(effects)
    assert "POST 1 ran 2 times" in judge.wrong[0]


def test_the_judge_misses_a_line_in_the_access_log(tmp_path: Path):
    judge, requests = Judge(), two()
    with responding(right(requests[0]) + right(requests[1])) as connection:
        judge.exchange(connection, requests)
    (tmp_path / "access.log").write_text("200 GET / HTTP/1.1\n")
    judge.check_log(tmp_path)
    assert len(judge.wrong) == 1
    judge.wrong.clear()
    (tmp_path / "access.log.1").write_text("200 GET / HTTP/1.1\n")
    judge.check_log(tmp_path)
    assert not judge.wrong
