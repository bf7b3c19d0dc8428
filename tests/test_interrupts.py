"""HandlerTimeout in real threads: it meets the handler that it is for, and nothing else."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from halfsync import HandlerTimeout
from halfsync.handlers.wsgi import WSGIHandler
from halfsync.worker import interrupts
from tests.e2e.harness import until
from tests.worker_stage import TIMEOUT, Stage

Environ = dict[str, Any]
Start = Callable[..., Any]


class Application:
    """Its paths say what it does; it notes what has happened."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.lock = threading.Lock()
        self.pipe = os.pipe()
        self.notes: list[str] = []

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        handler: Callable[[Start], Iterable[bytes]] = getattr(self, environ["PATH_INFO"].strip("/"))
        return handler(start)

    def quick(self, start: Start) -> Iterable[bytes]:
        start("200 OK", [])
        return [b"quick"]

    def loop(self, start: Start) -> Iterable[bytes]:
        self.begun.set()
        while True:
            pass

    def loop_after_start(self, start: Start) -> Iterable[bytes]:
        start("200 OK", [])
        return self.loop(start)

    def cleans_up(self, start: Start) -> Iterable[bytes]:
        try:
            return self.loop(start)
        except HandlerTimeout:
            self.notes.append("cleaned up")
            raise

    def catches(self, start: Start) -> Iterable[bytes]:
        try:
            return self.loop(start)
        except HandlerTimeout as error:
            self.notes.append(str(error))
        return self.quick(start)

    def catches_each_exception(self, start: Start) -> Iterable[bytes]:
        try:
            return self.loop(start)
        except Exception:
            self.notes.append("this was none")
        return self.quick(start)

    def waits_in_c(self, start: Start) -> Iterable[bytes]:
        self.begun.set()
        os.read(self.pipe[0], 1)
        return self.quick(start)

    def waits_for_a_lock(self, start: Start) -> Iterable[bytes]:
        self.begun.set()
        with self.lock:
            self.notes.append("has it")
        return self.quick(start)

    def pieces(self, start: Start) -> Iterable[bytes]:
        self.notes.append("not reached")
        start("200 OK", [])
        yield b"first"
        self.loop(start)

    def large(self, start: Start) -> Iterable[bytes]:
        start("200 OK", [])
        return self.loop(start)


def interrupt(stage: Stage, number: int, seconds: float = TIMEOUT) -> None:
    """As the watch thread does it."""
    found = stage.threads.interrupts
    deadline = time.monotonic() + TIMEOUT
    found.want(number, seconds)
    while (again := found.timeout) is not None:
        assert time.monotonic() < deadline
        time.sleep(again / 1000)
        found.work()


@pytest.mark.parametrize(
    "path", ["loop", "loop_after_start", "cleans_up", "catches", "catches_each_exception"]
)
def test_a_handler_that_runs_is_interrupted_and_its_thread_serves_the_next(path: str, capfd):
    application = Application()
    with Stage(application, threads=1) as stage:
        number = stage.start(f"GET /{path} HTTP/1.1\nHost: a")
        assert application.begun.wait(TIMEOUT)
        interrupt(stage, number)
        answer = stage.wait(number)
        assert answer.status == (200 if path == "catches" else 500)
        for _ in range(50):
            assert stage.get("/quick").body == b"quick"
    said = capfd.readouterr().err
    assert f"HandlerTimeout is raised in GET /{path} from 192.0.2.1." in said
    assert ("was ended by HandlerTimeout" in said) == (path != "catches")
    assert "Traceback" not in said
    expected = {"cleans_up": ["cleaned up"], "catches": ["the request passed its handler_timeout"]}
    assert application.notes == expected.get(path, [])


def test_between_two_pieces_of_a_response_the_client_sees_that_it_is_not_whole():
    application = Application()
    with Stage(application, threads=1) as stage:
        number = stage.start("GET /pieces HTTP/1.1\nHost: a")
        assert application.begun.wait(TIMEOUT)
        interrupt(stage, number)
        answer = stage.wait(number)
        assert (answer.body, answer.done) == (b"first", False)
        assert stage.get("/quick").body == b"quick"


def test_a_handler_that_waits_in_c_code_gets_it_when_that_returns():
    application = Application()
    with Stage(application, threads=1) as stage:
        number = stage.start("GET /waits_in_c HTTP/1.1\nHost: a")
        assert application.begun.wait(TIMEOUT)
        interrupt(stage, number)
        os.write(application.pipe[1], b"x")
        assert stage.wait(number).status == 500
        for _ in range(50):
            assert stage.get("/quick").body == b"quick"
    for end in application.pipe:
        os.close(end)


def test_a_lock_that_a_handler_waits_for_is_let_go_of():
    """Whether the exception comes in the block or behind it, or too late."""
    application = Application()
    with Stage(application, threads=1) as stage:
        with application.lock:
            number = stage.start("GET /waits_for_a_lock HTTP/1.1\nHost: a")
            assert application.begun.wait(TIMEOUT)
            until(waits_for_a_lock)
            stage.threads.interrupts.want(number, TIMEOUT)
        while (again := stage.threads.interrupts.timeout) is not None:
            time.sleep(again / 1000)
            stage.threads.interrupts.work()
        assert stage.wait(number).status in (200, 500)
        assert not application.lock.locked()
        for _ in range(50):
            assert stage.get("/quick").body == b"quick"


def waits_for_a_lock() -> bool:
    """A thread is where the lock is taken: where it lets go of it, it would not stay."""
    code = Application.waits_for_a_lock.__code__
    with_line = code.co_firstlineno + 2
    frames = sys._current_frames().values()
    return any(frame.f_code is code and frame.f_lineno == with_line for frame in frames)


def test_a_task_that_is_over_is_not_interrupted_and_neither_is_the_next():
    application = Application()
    with Stage(application, threads=1) as stage:
        for _ in range(20):
            number = stage.start("GET /quick HTTP/1.1\nHost: a")
            assert stage.wait(number).body == b"quick"
            interrupt(stage, number)
            interrupt(stage, number + 1)  # one that has not come
            assert stage.get("/quick").body == b"quick"


def test_a_message_that_comes_twice_interrupts_once():
    application = Application()
    with Stage(application, threads=1) as stage:
        number = stage.start("GET /catches HTTP/1.1\nHost: a")
        assert application.begun.wait(TIMEOUT)
        interrupt(stage, number)
        interrupt(stage, number)
        assert stage.wait(number).status == 200
        assert len(application.notes) == 1


def test_it_gives_up_after_its_time(monkeypatch):
    """A thread of which no frame is an application's."""
    application = Application()
    monkeypatch.setattr(interrupts, "is_applications", lambda frame: False)
    with Stage(application, threads=1) as stage:
        with application.lock:
            number = stage.start("GET /waits_for_a_lock HTTP/1.1\nHost: a")
            assert application.begun.wait(TIMEOUT)
            interrupt(stage, number, 0.01)
        assert stage.wait(number).body == b"quick"


def test_which_frames_are_an_applications():
    """One that was called by a caller of applications, and calls nothing of ours."""
    seen: list[bool] = []

    def look(frame: Any) -> None:
        seen.append(interrupts.is_applications(frame))

    def application(environ: Environ, start: Start) -> Iterable[bytes]:
        look(sys._getframe())
        start("200 OK", Fields([("X-Frames", "seen")]))  # no head that was said before, by whichever test
        return []

    class Fields(list[Any]):
        """What is called by us in the middle of what we do."""

        def __iter__(self) -> Any:
            look(sys._getframe())
            return super().__iter__()

    look(sys._getframe())
    assert seen.pop() is False  # no caller of ours
    with Stage(application, threads=1) as stage:
        stage.get("/")
    assert seen[0] is True
    assert seen[1:]
    assert not any(seen[1:])
    assert WSGIHandler.quick.__code__ in interrupts.CALLERS


def test_whatever_the_moment_only_those_that_are_meant_are_hit():
    """Threads that serve many short requests, which call the server in the middle of it, while one after
    another is to be interrupted: each request has one response, and who was not meant has a good one."""
    rounds, at_once = 60, 24

    def application(environ: Environ, start: Start) -> Iterable[bytes]:
        write = start("200 OK", [("Content-Length", "6")])
        for _ in range(20):
            environ["wsgi.input"].read()
        if environ["PATH_INFO"] == "/pieces":
            write(b"abc")
            write(b"def")
            return []
        return [b"abcdef"]

    meant: set[int] = set()
    chance = random.Random(1)
    with Stage(application, threads=4) as stage:
        found = stage.threads.interrupts
        for _ in range(rounds):
            paths = [chance.choice(("/", "/pieces")) for _ in range(at_once)]
            numbers = [stage.start(f"GET {path} HTTP/1.1\nHost: a") for path in paths]
            for number in chance.sample(numbers, 6):
                meant.add(number)
                found.want(number, 0.001)
            for number in numbers:
                answer = stage.wait(number)
                if number not in meant:
                    assert (answer.status, answer.body) == (200, b"abcdef")
                    assert answer.done
        assert stage.get("/").body == b"abcdef"
