"""Somebody is killed, with no warning: who sees it, what is said, and what is left."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from faults.tree import is_alive
from tests.e2e.harness import AT_ONCE, Crowd, digest, judged, pattern, request, serving, wrk

COUNTED, CHUNKED = "/digested?counted=1", "/digested"


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_workers_are_killed_under_load_and_no_response_is_wrong(tmp_path, preload):
    with serving(tmp_path, "story:app", "-w", "2", "--threads", "4", *preload) as server:
        killed = []
        with wrk(server, "/hello", 8) as said, Crowd(server, [COUNTED, CHUNKED] * 3, judged) as crowd:
            for _ in range(5):
                crowd.until_seen(40)
                victim = server.until(lambda: server.workers("story:app"))[0]
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
                server.until(lambda: len(set(server.workers("story:app")) - set(killed)) == 2)
            crowd.until_seen(40)
        # Short responses to GET are never cut: who waits for one when the worker dies gets it from another.
        assert "requests in" in said[0]
        assert "Socket errors" not in said[0], said[0]
        assert "Non-2xx" not in said[0], said[0]
        outcomes = Counter(crowd.seen)
        assert crowd.wrong == []
        assert outcomes["right"] > 100
        assert outcomes["right"] > 5 * (outcomes["cut short"] + outcomes["502"] + len(crowd.broken))
        log = server.log()
        for victim in killed:
            assert re.search(rf"worker\(story:app\) \[{victim}\] was killed by SIGKILL", log)
            assert re.search(rf"worker {victim} of story:app is gone; requests in flight: ", log)
        assert re.search(r"requests in flight: GET '/", log)
        assert server.get("/hello").body == b"hello\n"


def test_the_log_names_the_requests_that_a_dead_worker_had(tmp_path):
    """One that is not to be repeated gets 502; one whose answer had begun is cut off; the others
    of the connection's owners see nothing."""
    with serving(tmp_path, "story:app", "--threads", "4") as server:
        (worker,) = server.workers("story:app")
        with server.client() as begun, server.client() as posted, server.client() as idle:
            assert idle.ask("/hello").status == 200
            begun.send(request("/slow_exactly?file=never"))
            assert begun.until(b"\r\n\r\n")
            posted.send(request("/hang?file=never&as=post", method="POST", body=b"a=b"))
            server.until((tmp_path / "here-post").exists)
            os.kill(worker, signal.SIGKILL)
            assert posted.answer().status == 502
            assert len(begun.rest()) < 64 * 1024
            assert idle.ask("/hello").status == 200
            assert posted.ask("/hello").status == 200  # the connection outlives the worker
        server.until_logged(r"requests in flight: GET '/slow_exactly.*POST '/hang")


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_a_worker_is_missed_even_if_a_child_of_its_application_lives_on(tmp_path, preload):
    """The child has inherited the worker's channels, so they do not end with it."""
    (tmp_path / "forking.py").write_text(
        "import os, time\nfrom story import app as story\n"
        "def app(environ, start):\n"
        "    if environ['PATH_INFO'] != '/fork':\n        return story(environ, start)\n"
        "    pid = os.fork()\n"
        "    if not pid:\n        time.sleep(60)\n        os._exit(0)\n"
        "    start('200 OK', [])\n    return [b'%d' % pid]\n"
    )
    with serving(tmp_path, "forking:app", "--threads", "4", *preload) as server, server.client() as client:
        child = int(server.get("/fork").body)
        try:
            client.send(request("/hang?file=never&as=it", method="POST", body=b"x"))
            server.until((tmp_path / "here-it").exists)
            os.kill(server.workers("forking:app")[0], signal.SIGKILL)
            assert client.answer().status == 502
            assert is_alive(child)
            for _ in range(20):
                assert server.get("/hello").body == b"hello\n"
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_request_that_kills_its_worker_is_tried_twice_at_most(tmp_path):
    with serving(tmp_path, "story:app") as server:
        assert server.get("/die").status == 502
        server.until_logged(r"was killed by SIGKILL", 2)
        assert server.get("/hello").body == b"hello\n"
        assert len(re.findall("was killed by SIGKILL", server.log())) == 2
        assert server.get("/die", method="POST", body=b"x").status == 502
        server.until_logged(r"was killed by SIGKILL", 3)
        assert server.get("/hello").body == b"hello\n"
        assert len(re.findall("was killed by SIGKILL", server.log())) == 3


@pytest.mark.parametrize("size", [1000, 1_000_000], ids=["in memory", "in a file"])
def test_a_request_that_is_tried_again_has_its_body_again(tmp_path, size):
    """PUT may be repeated; the dead worker had read the body to its end."""
    body = pattern(size)
    with serving(tmp_path, "story:app") as server, server.client() as client:
        client.send(request("/received?file=go", method="PUT", body=body))
        server.until((tmp_path / f"here-{size}").exists)
        (tmp_path / f"here-{size}").unlink()
        os.kill(server.workers("story:app")[0], signal.SIGKILL)
        server.until((tmp_path / f"here-{size}").exists)
        (tmp_path / "go").touch()
        assert client.answer().body == f"{size} {digest(body)}".encode()


def test_a_killed_built_in_worker_is_replaced(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public/file").write_text("a file\n")
    with serving(tmp_path, "story:app", "/public=./public", "--access-logfile", "access") as server:
        assert server.get("/public/file").status == 200
        (first,) = server.workers("built-in")
        os.kill(first, signal.SIGKILL)
        assert server.get("/public/file").body == b"a file\n"
        server.until(lambda: (tmp_path / "access").read_text().count("/public/file") == 2)
        assert server.workers("built-in") != [first]


def test_a_killed_pump_is_replaced_while_the_socket_stays_open(tmp_path):
    """Its connections are lost, the next ones are not: nobody is ever refused."""
    with serving(tmp_path, "story:app", "--access-logfile", "access") as server:
        workers = server.workers("story:app")
        kept = server.client()
        assert kept.ask("/hello").status == 200
        for _ in range(3):
            first = server.pump
            os.kill(first, signal.SIGKILL)
            # connecting and asking never waits for the log to say that there is another
            with server.client(seconds=AT_ONCE) as client:
                assert client.ask("/hello").body == b"hello\n"
            server.until_logged(rf"pump \[{first}\] was killed by SIGKILL; its connections are lost")
        assert kept.rest() == b""
        kept.close()
        assert server.workers("story:app") == workers  # they did not die with it


def test_a_handler_at_work_while_the_pump_dies_harms_nobody(tmp_path):
    with serving(tmp_path, "story:app", "--threads", "1") as server, server.client() as lost:
        lost.send(request("/hang?file=go&as=it"))
        server.until((tmp_path / "here-it").exists)
        os.kill(server.pump, signal.SIGKILL)
        assert lost.rest() == b""
        with server.client() as client:
            client.send(request("/hello"))
            (tmp_path / "go").touch()
            assert client.answer().body == b"hello\n"


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_if_the_parent_is_killed_nothing_is_left_running(tmp_path, preload):
    """Not even with a handler that hangs."""
    with serving(tmp_path, "story:app", "-w", "2", *preload) as server, server.client() as client:
        client.send(request("/hang?file=never&as=it"))
        server.until((tmp_path / "here-it").exists)
        tree = server.processes()
        assert len(tree) >= 5
        server.process.kill()
        assert server.ends() == -signal.SIGKILL
        server.until_gone(tree)


def test_an_application_that_dies_at_every_start_after_a_good_one_is_tried_with_pauses(tmp_path):
    (tmp_path / "moody.py").write_text(
        "import os, pathlib\n"
        "if pathlib.Path('bad').exists():\n    os._exit(7)\n"
        "def app(environ, start):\n    start('200 OK', [])\n    return [b'fine']\n"
    )
    with serving(tmp_path, "moody:app") as server:
        (tmp_path / "bad").touch()
        os.kill(server.workers("moody:app")[0], signal.SIGKILL)
        server.until_logged(r"worker\(moody:app\) \[\d+\] exited with status 7\. Another starts in", 2)
        with server.client() as waiting:
            waiting.send(request("/"))
            (tmp_path / "bad").unlink()
            assert waiting.answer().body == b"fine"


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_if_memory_runs_out_the_parent_is_not_the_first_to_be_killed(tmp_path, preload):
    """The kernel kills whoever has most, by this score; all of them may be of about one size."""
    with serving(tmp_path, "story:app", *preload) as server:
        server.until(lambda: server.workers("story:app"))
        pids = [server.process.pid, server.pump, server.workers("story:app")[0]]
        parent, pump, worker = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in pids]
        assert parent < pump <= worker <= parent + 100 or parent > 900
