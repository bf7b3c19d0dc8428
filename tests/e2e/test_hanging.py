"""Handlers that hang: what goes on beside them, and what becomes of those that wait."""

from __future__ import annotations

import contextlib
import re
import select
import signal
import time
from collections import Counter

from tests.e2e.harness import AT_ONCE, LONG, Client, Server, request, serving


def hang(server: Server, stack: contextlib.ExitStack, count: int) -> list[Client]:
    """So many clients whose handlers hang until the file `go` is there."""
    clients = [stack.enter_context(server.client()) for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(request(f"/hang?file=go&as={number}"))
    return clients


def test_files_are_served_and_logged_while_all_threads_hang(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public/file").write_text("a file\n")
    arguments = ("/public=./public", "--threads", "2", "--lease", "0", "--access-logfile", "access")
    with serving(tmp_path, "story:app", *arguments) as server, contextlib.ExitStack() as stack:
        hanging = hang(server, stack, 2)
        server.until(lambda: len(list(tmp_path.glob("here-*"))) == 2)
        waiting = stack.enter_context(server.client())
        waiting.send(request("/hello"))
        with server.client(seconds=AT_ONCE) as client:
            for _ in range(5):
                assert client.ask("/public/file").body == b"a file\n"
        server.until(lambda: (tmp_path / "access").read_text().count("GET /public/file") == 5)
        (tmp_path / "go").touch()
        assert [client.answer().body for client in hanging] == [b"waited\n"] * 2
        assert waiting.answer().body == b"hello\n"


def test_one_application_that_hangs_does_not_stop_another(tmp_path):
    arguments = ("story:app", "/other=story:create_app()", "--threads", "1")
    with serving(tmp_path, *arguments) as server, contextlib.ExitStack() as stack:
        (hanging,) = hang(server, stack, 1)
        server.until((tmp_path / "here-0").exists)
        with server.client(seconds=AT_ONCE) as client:
            assert client.ask("/other").body == b"from a factory: made\n"
        (tmp_path / "go").touch()
        assert hanging.answer().status == 200


def test_a_request_is_not_parked_behind_a_slow_one(tmp_path):
    """After a thousand fast responses the application is trusted with several requests a packet; the
    slow one among them still delays no other, as long as a thread is free."""
    with serving(tmp_path, "story:app", "--threads", "2") as server, contextlib.ExitStack() as stack:
        with server.client() as client:
            client.send(request("/hello") * 1000)
            for _ in range(1000):
                assert client.answer().status == 200
        crowd = [stack.enter_context(server.client(seconds=AT_ONCE)) for _ in range(20)]
        crowd[0].socket.settimeout(LONG)
        crowd[0].send(request("/hang?file=go&as=it"))
        for client in crowd[1:]:
            client.send(request("/hello"))
        for client in crowd[1:]:
            assert client.answer().body == b"hello\n"
        (tmp_path / "go").touch()
        assert crowd[0].answer().body == b"waited\n"


def test_past_its_deadline_a_handler_is_given_up_and_its_worker_replaced(tmp_path):
    arguments = ("--handler-timeout", "2", "--threads", "2", "--graceful-timeout", "1")
    with serving(tmp_path, "story:app", *arguments) as server, contextlib.ExitStack() as stack:
        (first,) = server.workers("story:app")
        (client,) = hang(server, stack, 1)
        answer = client.answer()
        assert answer.status == 504
        assert answer.whole
        server.until_logged(r"past its deadline: GET '/hang")
        server.until_logged(r"passed its deadline; its thread is here:")
        server.until_logged(r"in until_there")  # the stack names the line where it hangs
        assert client.ask("/hello").body == b"hello\n"  # the connection goes on
        server.until(lambda: server.workers("story:app") not in ([], [first]))
        server.until_gone([first])
        assert len(re.findall("past its deadline: GET", server.log())) == 1


def test_past_its_deadline_a_worker_finishes_its_other_requests(tmp_path):
    """Only the hanging one is lost: what another thread of the same worker does is still answered."""
    arguments = ("--handler-timeout", "6", "--threads", "2")
    with serving(tmp_path, "story:app", *arguments) as server, contextlib.ExitStack() as stack:
        hanging = stack.enter_context(server.client())
        hanging.send(request("/hang?file=never&as=never"))
        server.until((tmp_path / "here-never").exists)
        begun = time.monotonic()
        server.until(lambda: time.monotonic() > begun + 3)  # so the other's deadline is later
        (other,) = hang(server, stack, 1)
        assert hanging.answer().status == 504
        (tmp_path / "go").touch()
        assert other.answer().body == b"waited\n"
        server.signal(signal.SIGQUIT)
        server.ends()


def test_who_waits_too_long_for_a_thread_gets_503(tmp_path):
    arguments = ("--queue-timeout", "2", "--threads", "1")
    with serving(tmp_path, "story:app", *arguments) as server, contextlib.ExitStack() as stack:
        (hanging,) = hang(server, stack, 1)
        server.until((tmp_path / "here-0").exists)
        with server.client() as waiting:
            answer = waiting.ask("/hello")
            assert answer.status == 503
            assert int(answer["Retry-After"]) > 0
            (tmp_path / "go").touch()
            assert hanging.answer().status == 200
            assert waiting.ask("/hello").body == b"hello\n"


def test_past_the_limit_of_the_queue_503_comes_at_once(tmp_path):
    arguments = ("--queue-limit", "3", "--threads", "1")
    with serving(tmp_path, "story:app", *arguments) as server, contextlib.ExitStack() as stack:
        crowd = hang(server, stack, 1)
        server.until((tmp_path / "here-0").exists)
        waiting = [stack.enter_context(server.client()) for _ in range(10)]
        for client in waiting:
            client.send(request("/hello"))
        server.until(lambda: len(select.select([client.socket for client in waiting], [], [], 0)[0]) == 7)
        (tmp_path / "go").touch()
        assert crowd[0].answer().status == 200
        answers = [client.answer() for client in waiting]
        assert Counter(answer.status for answer in answers) == {503: 7, 200: 3}
        assert all(answer["Retry-After"] for answer in answers if answer.status == 503)
