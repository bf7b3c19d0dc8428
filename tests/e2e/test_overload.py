"""A real server that gets three times the requests that its application can handle."""

from __future__ import annotations

import contextlib
import select
import time
from collections import Counter
from collections.abc import Iterator

from tests.e2e.harness import LONG, Answer, Client, Server, request, serving

APPLICATION = """
import time

def app(environ, start):
    time.sleep(0.1)
    start("200 OK", [])
    return [b"slept"]
"""

INTERVAL = 1 / 60
"""Seconds between two requests; two threads can handle one every 0.05."""


class Crowd:
    """Sends requests at a steady rate, whatever becomes of them."""

    def __init__(self, server: Server, interval: float = INTERVAL) -> None:
        self._server = server
        self._interval = interval
        self._idle: list[Client] = []
        self._waiting: list[Client] = []
        self._poll = select.poll()  # select takes no descriptor above 1,023
        self.answers: list[Answer] = []

    def asks(self, seconds: float = LONG) -> Iterator[None]:
        """One request each interval, for so long at most. Those that are late, on a busy machine, are sent
        too: else there would be no overload."""
        started, sent = time.monotonic(), 0
        while (now := time.monotonic()) < started + seconds:
            for _ in range(int((now - started) / self._interval) + 1 - sent):
                client = self._idle.pop() if self._idle else self._server.client()
                client.send(request("/"))
                self._waiting.append(client)
                self._poll.register(client.socket, select.POLLIN)
                sent += 1
            self._read(now + self._interval)
            yield
        raise AssertionError(self._server.log()[-5000:])

    def _read(self, due: float) -> None:
        """What has come until then."""
        while (left := due - time.monotonic()) > 0:
            sockets = {client.socket.fileno(): client for client in self._waiting}
            for ready, _ in self._poll.poll(1000 * left):
                client = sockets[ready]
                self.answers.append(client.answer())
                self._poll.unregister(ready)
                self._waiting.remove(client)
                self._idle.append(client)

    def close(self) -> None:
        for client in self._waiting:
            self.answers.append(client.answer())
        for client in (*self._idle, *self._waiting):
            client.close()


def test_some_are_served_and_the_others_refused_and_files_do_not_notice(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("a file")
    arguments = ("app:app", "/files=./files", "--threads", "2", "--lease", "0", "--queue-target", "auto")
    with serving(tmp_path, *arguments) as server:
        with contextlib.closing(Crowd(server)) as crowd, server.client() as client:
            before = 0
            for _ in crowd.asks():
                if "is overloaded" in server.log():
                    break
                before = len(crowd.answers)  # of which none came later than this look at the log
            assert {answer.status for answer in crowd.answers[:before]} == {200}
            for _ in crowd.asks():
                assert client.ask("/files/a").body == b"a file"
                statuses = Counter(answer.status for answer in crowd.answers[before:])
                if statuses[503] >= 100 and statuses[200] >= 30:
                    break
        assert {answer.status for answer in crowd.answers} == {200, 503}
        assert all(answer["Retry-After"] for answer in crowd.answers if answer.status == 503)
        assert all(answer.body == b"slept" for answer in crowd.answers if answer.status == 200)
        server.until_logged(
            r"WARNING app:app is overloaded: for [1-9]\d*\.\d s requests have waited longer than "
        )
        server.until_logged(r"requests got a 503 \(queue_target\)")
        server.until_logged(r"app:app is no longer overloaded: \d+ requests got a 503")
        assert server.get("/").status == 200


COMPUTING = """
import threading, time

lock = threading.Lock()
running = 0

def app(environ, start):
    global running
    with lock:
        running += 1
        at_once = running
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        sum(range(100))
    with lock:
        running -= 1
    start("200 OK", [])
    return [b"%d" % at_once]
"""


def test_of_handlers_that_compute_fewer_run_at_once_while_there_are_too_many(tmp_path):
    (tmp_path / "app.py").write_text(COMPUTING)
    # However slow the machine is, no more wait than that; that more come is the sign of the overload then.
    limits = ("--queue-limit", "100", "--queue-target", "auto", "--keep-alive", "600")
    arguments = ("app:app", "--workers", "1", "--threads", "4", *limits)
    with serving(tmp_path, *arguments) as server:
        with contextlib.closing(Crowd(server, 1 / 120)) as crowd:
            for _ in crowd.asks(2 * LONG):  # on a busy machine it may look like a rush first
                served = [answer.body for answer in crowd.answers if answer.status == 200]
                if b"4" in served and max(served[-5:]) < b"4" and "at once only make" in server.log():
                    break
        server.until_logged(r"its handlers compute, .* about \d of 4 run at once \(queue_target\)\.")
        server.until_logged(r"app:app is no longer overloaded: \d+ requests got a 503")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for _ in range(4)]

            def at_once() -> bytes:
                for client in clients:
                    client.send(request("/"))
                return max(client.answer().body for client in clients)

            server.until(lambda: at_once() > b"1")
