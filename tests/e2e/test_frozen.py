"""A worker that stands still while others could work: nobody waits for it, and nothing runs twice."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.harness import AT_ONCE, Answer, Server, frozen, request, serving

APP = """
import os, re

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/regex":
        open("begun", "w").close()
        while not os.path.exists("go"):
            re.match(r"(a+)+$", "a" * 22 + "b")  # holds the interpreter's lock, 0.3 s at a time
    if environ["REQUEST_METHOD"] == "POST":
        descriptor = os.open("posts", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, environ["wsgi.input"].read() + b"\\n")
        os.close(descriptor)
    start_response("200 OK", [("X-Pid", str(os.getpid()))])
    return [path.encode()]
"""


def ask_all(server: Server, count: int) -> list[Answer]:
    """So many POSTs at once, each on its own connection."""
    answers: list[Answer] = []

    def ask(number: int) -> None:
        with server.client(seconds=AT_ONCE) as client:
            answers.append(client.ask(f"/{number}", method="POST", body=b"%d" % number))

    threads = [threading.Thread(target=ask, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == count, server.log()
    return answers


def answers_again(server: Server, worker: int) -> bool:
    return str(worker) in {answer["X-Pid"] for answer in ask_all(server, 8)}


def check_posts(folder: Path, expected: Counter[str]) -> None:
    ran = Counter((folder / "posts").read_text().split())
    assert ran == expected, "each once, and no more"


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_stopped_worker_is_left_aside(tmp_path, threads):
    """SIGSTOP: what it was given goes to the other, which also gets everything else; after SIGCONT both
    work as before."""
    (tmp_path / "frozen.py").write_text(APP)
    with serving(tmp_path, "frozen:app", "-w", "2", "--threads", threads) as server:
        server.until(lambda: len(server.workers("frozen:app")) == 2)
        workers = server.workers("frozen:app")
        for victim in workers:
            with frozen(victim):
                for _ in range(5):
                    answers = ask_all(server, 8)
                    assert [answer.status for answer in answers] == [200] * 8
                    assert str(victim) not in {answer["X-Pid"] for answer in answers}
            server.until(partial(answers_again, server, victim))
        posts = Counter((tmp_path / "posts").read_text().split())
        assert set(posts) == {str(number) for number in range(8)}
        assert len(set(posts.values())) == 1, "each of them as often as it was sent"
        assert server.workers("frozen:app") == workers


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_handler_that_holds_the_interpreter_lock_stops_nobody_else(tmp_path, threads):
    (tmp_path / "frozen.py").write_text(APP)
    with serving(tmp_path, "frozen:app", "-w", "2", "--threads", threads) as server:
        server.until(lambda: len(server.workers("frozen:app")) == 2)
        with server.client() as client:
            client.send(request("/regex"))
            server.until((tmp_path / "begun").exists)
            for _ in range(5):
                assert [answer.status for answer in ask_all(server, 8)] == [200] * 8
            (tmp_path / "go").touch()
            assert client.answer().body == b"/regex"
        check_posts(tmp_path, Counter({str(number): 5 for number in range(8)}))


def test_a_single_stopped_worker_ends_with_queue_timeout(tmp_path):
    """503 in time, not when it wakes up; and then it drops what nobody waits for any more."""
    (tmp_path / "frozen.py").write_text(APP)
    with serving(tmp_path, "frozen:app", "--queue-timeout", "2") as server:
        (worker,) = server.workers("frozen:app")
        with frozen(worker):
            assert {answer.status for answer in ask_all(server, 3)} == {503}
        with contextlib.suppress(AssertionError):
            server.until(lambda: server.get("/").status == 200)
        assert server.get("/x", method="POST", body=b"x").status == 200
        check_posts(tmp_path, Counter("x"))
