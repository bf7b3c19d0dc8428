"""The life of ASGI workers: lifespan, reloads and stops, deaths, blocked loops."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.tree import state
from tests.command_line import command
from tests.e2e.harness import AT_ONCE, Answer, Client, Crowd, Server, frozen, kill, request, serving

RELEASE = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    await asyncio.sleep(0.002)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"{word}"}})
"""


def release(folder: Path, word: str) -> None:
    fresh = folder / "release.new"
    fresh.write_text(RELEASE.format(word=word))
    fresh.rename(folder / "release.py")


def word_of(answer: Answer) -> str:
    assert answer.status == 200
    assert answer.whole
    return answer.body.decode()


# --- lifespan --------------------------------------------------------------------------------------


def test_the_end_of_the_lifespan_is_awaited(tmp_path):
    with serving(tmp_path, "lives:app", environment={"LIFE": "well"}) as server:
        assert server.get("/").body == b"well"
    assert (tmp_path / "shut-down").exists()


@pytest.mark.parametrize("life", ["goes round", "stays"])
def test_one_that_does_not_return_from_its_lifespan_does_not_hold_up_a_stop(tmp_path, life):
    """When it has said that its shutdown is complete: it receives again, or waits for another thing."""
    with serving(tmp_path, "lives:app", "--graceful-timeout", "60", environment={"LIFE": life}) as server:
        assert server.get("/").body == life.encode()
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        assert time.monotonic() - began < 30
        assert "is killed" not in server.log()
        assert "took longer" not in server.log()
    assert (tmp_path / "shut-down").exists()


@pytest.mark.parametrize(
    ("life", "shown"), [("wrong", "'http.response.start'"), ("no message", "'complete'")]
)
def test_a_message_that_has_no_place_in_a_lifespan_is_logged_with_the_rule(tmp_path, life, shown):
    with serving(tmp_path, "lives:app", environment={"LIFE": life}) as server:
        assert server.get("/").body == life.encode()
        server.until_logged(
            f"broke a rule of ASGI: in its lifespan it sent {shown}, but lifespan.startup.complete or "
        )


COUNTED = """
import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

@asynccontextmanager
async def life(name):
    if name == "bad":
        await until("begun-good-*")
        raise RuntimeError("no database")
    if name == "half" and os.path.exists("reloading") and not is_first():
        await until("go")
        raise RuntimeError("only one")
    Path(f"begun-{name}-{os.getpid()}").touch()
    yield
    await asyncio.sleep(0.01)
    Path(f"ended-{name}-{os.getpid()}").touch()

async def until(pattern):
    while not any(Path().glob(pattern)):
        await asyncio.sleep(0.01)

def is_first():
    try:
        os.close(os.open("first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def make(name):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            try:
                async with life(name):
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
            except RuntimeError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            else:
                await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})
    return app

good, bad, half = make("good"), make("bad"), make("half")
"""


def left_open(folder: Path) -> list[str]:
    """Workers whose lifespans have begun, and were not ended."""
    begun = {one.name.removeprefix("begun-") for one in folder.glob("begun-*")}
    assert begun
    return sorted(begun - {one.name.removeprefix("ended-") for one in folder.glob("ended-*")})


def test_lifespans_end_where_another_application_can_not_start(tmp_path):
    (tmp_path / "counted.py").write_text(COUNTED)
    started = command(tmp_path, "counted:good", "/bad=counted:bad", environment=dict(os.environ))
    assert started.returncode == 2
    assert "no database" in started.stderr
    assert left_open(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "number"), [(["--reload"], signal.SIGINT), ([], signal.SIGQUIT), ([], signal.SIGTERM)]
)
def test_lifespans_end_at_a_stop_that_waits_for_no_request(tmp_path, more, number):
    (tmp_path / "counted.py").write_text(COUNTED)
    with serving(tmp_path, "counted:good", *more) as server:
        assert server.get("/").body == b"here"
        server.signal(number)
        server.process.wait(60)
    assert left_open(tmp_path) == []


def test_lifespans_of_new_workers_end_where_a_reload_fails(tmp_path):
    (tmp_path / "counted.py").write_text(COUNTED)
    with serving(tmp_path, "counted:half", "--workers", "2") as server:
        server.until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        before = set(left_open(tmp_path))
        (tmp_path / "reloading").touch()
        server.signal(signal.SIGHUP)
        server.until(lambda: len(list(tmp_path.glob("begun-*"))) == 3)
        [new] = set(left_open(tmp_path)) - before
        server.until(lambda: f"[{new.removeprefix('half-')}] is ready" in server.log())
        (tmp_path / "go").touch()
        server.until(lambda: set(left_open(tmp_path)) == before)
        assert server.get("/").body == b"here"


def test_to_check_the_configuration_begins_no_lifespan(tmp_path):
    (tmp_path / "locked.py").write_text(LOCKED)
    checked = command(tmp_path, "--check-config", "locked:app", environment=dict(os.environ))
    assert (checked.returncode, (tmp_path / "begun").exists()) == (0, False), checked.stderr


LOCKED = """
from pathlib import Path

async def app(scope, receive, send):
    Path("begun").touch()
"""


@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_context_variables_that_are_set_at_the_import_are_there_for_requests(tmp_path, loop, preload):
    with serving(tmp_path, "asgis:app", "--loop", loop, *(["--preload"] if preload else [])) as server:
        assert server.get("/third").body == b"0." + b"3" * 50


def test_an_application_without_a_lifespan_is_served(tmp_path):
    with serving(tmp_path, "lives:app", environment={"LIFE": "returns"}) as server:
        assert server.get("/").body == b"returns"
        assert "lives:app has no lifespan" in server.log()


def test_lifespan_off_asks_for_none(tmp_path):
    arguments = ("--lifespan", "off", "--loop", "asyncio")
    with serving(tmp_path, "lives:app", *arguments, environment={"LIFE": "fails"}) as server:
        assert server.get("/").body == b"fails"


@pytest.mark.parametrize("life", ["badly", "ends"])
def test_a_lifespan_that_ends_badly_is_logged(tmp_path, life):
    with serving(tmp_path, "lives:app", environment={"LIFE": life}) as server:
        assert server.get("/").body == life.encode()
        server.tracebacks = life == "ends"
    assert ("no way to say goodbye" if life == "badly" else "ended early") in server.log()


@pytest.mark.parametrize(
    ("life", "mode", "said"),
    [
        ("fails", "auto", "Target 'lives:app': its lifespan startup failed: no such database"),
        ("raises", "on", "lifespan is on, and the application raised RuntimeError: no such database"),
        ("wrong", "on", "lifespan is on, and the application raised RuntimeError: lifespan.startup.complete"),
        ("fails", "preload", "Target 'lives:app': its lifespan startup failed: no such database"),
    ],
)
def test_a_startup_that_fails_ends_the_first_start(tmp_path, life, mode, said):
    options = ("--preload",) if mode == "preload" else ("--lifespan", mode)
    status, log = _started(tmp_path, "lives:app", *options, LIFE=life)
    assert status == 2
    assert said in log
    assert ("Traceback" in log) == (life != "fails")


def test_a_loop_that_is_not_installed_is_told(tmp_path):
    (tmp_path / "uvloop.py").write_text("raise ImportError('not here')")
    status, log = _started(tmp_path, "lives:app", "--loop", "uvloop")
    assert status == 2
    assert "pip install 'halfsync[uvloop]'" in log


def _started(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and log of a server that does not start."""
    server = Server(folder, ("-b", "127.0.0.1:0", *arguments), environment)
    status = server.ends()
    return status, server.log()


# --- reloads and stops -----------------------------------------------------------------------------


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_a_reload_under_load_fails_no_request(tmp_path, preload):
    release(tmp_path, "one")
    with (
        serving(tmp_path, "release:app", "-w", "2", *preload) as server,
        server.client() as kept,
        Crowd(server, ["/release"] * 6, word_of) as crowd,
    ):
        crowd.until_seen(30)
        old = server.workers("release:app")
        release(tmp_path, "two")
        server.signal(signal.SIGHUP)
        crowd.until_lately("two")
        server.until_gone(old)
        assert kept.ask("/").body == b"two"
        crowd.stop()
        assert (crowd.wrong, crowd.broken) == ([], [])


def test_a_reload_may_change_the_interface(tmp_path):
    release(tmp_path, "one")
    with serving(tmp_path, "release:app") as server, server.client() as client:
        assert client.ask("/").body == b"one"
        (tmp_path / "release.py").write_text(
            "def app(environ, start):\n    start('200 OK', [])\n    return [environ['wsgi.input'].read()]\n"
        )
        old = server.workers("release:app")
        server.signal(signal.SIGHUP)
        server.until_gone(old)
        assert client.ask("/", method="POST", body=b"two").body == b"two"
        old = server.workers("release:app")
        release(tmp_path, "three")
        server.signal(signal.SIGHUP)
        server.until_gone(old)
        assert client.ask("/").body == b"three"


def test_a_startup_that_fails_at_a_reload_leaves_the_old_workers(tmp_path):
    release(tmp_path, "one")
    with serving(tmp_path, "release:app", "--lifespan", "auto") as server:
        (tmp_path / "release.py").write_text(
            "async def app(scope, receive, send):\n"
            "    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'not today'})\n"
        )
        server.signal(signal.SIGHUP)
        server.until_logged("its lifespan startup failed: not today")
        assert server.get("/").body == b"one"


def test_background_tasks_end_before_their_worker_does(tmp_path):
    with serving(tmp_path, "asgis:app") as server:
        old = server.workers("asgis:app")
        assert server.get("/after?file=after").body == b"soon\n"
        server.until((tmp_path / "after-began").exists)
        server.signal(signal.SIGHUP)
        server.until(lambda: (new := server.workers("asgis:app")) and new[-1] not in old)
        (tmp_path / "after-go").touch()
        server.until_gone(old)
    assert (tmp_path / "after").read_text() == "http.disconnect"


def test_a_stop_waits_for_what_is_in_flight_and_cuts_it_off_in_time(tmp_path):
    with serving(tmp_path, "asgis:app", "--graceful-timeout", "4") as server:
        with server.client() as soon, server.client() as never:
            soon.send(request("/held?file=go"))
            never.send(request("/wait?file=cancelled"))
            server.until((tmp_path / "go-began").exists)
            server.until((tmp_path / "cancelled-began").exists)
            server.signal(signal.SIGTERM)
            server.until_logged("SIGTERM")
            (tmp_path / "go").touch()
            assert soon.answer().body == b"let go\n"
            assert never.is_closed()
        assert server.ends() == 0
    assert (tmp_path / "cancelled").exists()
    assert (tmp_path / "shut-down").exists()


def test_at_a_reload_endless_streams_are_cancelled_in_time_and_the_lifespan_ends(tmp_path):
    """The pump goes on, so nobody else ends them; and they must not cost the application its shutdown."""
    with serving(tmp_path, "asgis:app", "--graceful-timeout", "1") as server:
        old = server.workers("asgis:app")
        with server.client() as stream, server.client() as waits:
            stream.send(request("/steps?file=step&steps=9"))
            waits.send(request("/wait?file=cancelled"))
            server.until((tmp_path / "cancelled-began").exists)
            while b"0 " not in stream.unread:
                stream.unread += stream.socket.recv(4096)
            server.signal(signal.SIGHUP)
            server.until_gone(old)
            assert waits.answer().status == 503
            assert not stream.rest().endswith(b"0\r\n\r\n"), "it was visibly cut"
        assert (tmp_path / "cancelled").exists()
        assert (tmp_path / "shut-down").exists()
        said = r"2 requests, or their background tasks, are cancelled at graceful_timeout: (.*)\."
        [named] = re.findall(said, server.log())
        assert sorted(named.split(", ")) == ["GET /steps from 127.0.0.1", "GET /wait from 127.0.0.1"]
        assert "is killed" not in server.log()
        assert "Exception" not in server.log()
        assert server.get("/").status == 200


def refuses(server: Server) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", server.port)) != 0


def has_ended(pid: int) -> bool:
    """With all its threads; only its parent has yet to know."""
    return state(f"/proc/{pid}") == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1


def test_a_worker_that_has_left_at_a_stop_before_the_parent_looks_is_no_error(tmp_path):
    """The pump has finished, and the worker has followed it, while the parent got no processor."""
    with serving(tmp_path, "asgis:app") as server:
        processes = [server.pump, *server.workers("asgis:app")]
        with server.client() as client:
            client.send(request("/held?file=go"))
            server.until((tmp_path / "go-began").exists)
            server.signal(signal.SIGTERM)
            server.until(lambda: refuses(server))  # the pump has its order, and the worker had one before
            with frozen(server.process.pid):
                (tmp_path / "go").touch()
                assert client.answer().body == b"let go\n"
                server.until(lambda: all(map(has_ended, processes)))
        assert server.ends() == 0
        assert "ERROR" not in server.log()
        assert len(re.findall(r"worker\(asgis:app\) \[\d+\] is started", server.log())) == 1


def test_workers_are_replaced_after_max_requests(tmp_path):
    with serving(tmp_path, "asgis:app", "--max-requests", "20") as server:
        first = server.workers("asgis:app")
        with server.client() as client:
            for _ in range(60):
                assert client.ask("/").status == 200
        server.until_gone(first)


def test_new_code_is_served_when_a_file_changes(tmp_path):
    release(tmp_path, "one")
    with serving(tmp_path, "release:app", "--reload") as server, server.client() as client:
        assert client.ask("/").body == b"one"
        release(tmp_path, "two")
        server.until(lambda: client.ask("/").body == b"two")


# --- deaths ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(server: Server, count: int) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(count)]
        for number, client in enumerate(clients):
            client.send(request(f"/held?file=held-{number}"))
            server.until((server.folder / f"held-{number}-began").exists)
        yield clients


def test_requests_of_a_killed_worker_are_tried_again(tmp_path):
    with serving(tmp_path, "asgis:app") as server, held(server, 5) as clients:
        kill(*server.workers("asgis:app"))
        for number in range(5):
            (tmp_path / f"held-{number}").touch()
        assert [client.answer().body for client in clients] == [b"let go\n"] * 5


def test_a_response_that_a_worker_leaves_behind_is_visibly_cut(tmp_path):
    with serving(tmp_path, "asgis:app") as server, server.client() as client:
        client.send(request("/steps?file=never&steps=2"))
        client.until(b"0 ")
        kill(*server.workers("asgis:app"))
        assert not client.until(b"0\r\n\r\n")


def test_a_worker_goes_on_with_another_pump(tmp_path):
    with serving(tmp_path, "asgis:app") as server:
        workers = server.workers("asgis:app")
        with server.client() as client:
            client.send(request("/leaving?file=left"))
            server.until((tmp_path / "left-waits").exists)
            kill(server.pump)
            server.until((tmp_path / "left").exists)
        server.until_logged(r"pump \[\d+\] is started", 2)
        server.until(lambda: _responds(server))
        assert server.workers("asgis:app") == workers


def _responds(server: Server) -> bool:
    try:
        return server.get("/").status == 200
    except (OSError, AssertionError):
        return False


# --- time ------------------------------------------------------------------------------------------


def test_a_handler_past_its_deadline_is_cancelled_and_its_worker_goes_on(tmp_path):
    (tmp_path / "halfsync.toml").write_text(
        '[routes]\n"/" = "asgis:app"\n"/late" = { app = "asgis:app", handler_timeout = 0.5 }\n'
    )
    with serving(tmp_path, "-c", "halfsync.toml") as server:
        workers = server.workers("asgis:app")
        assert server.get("/late/wait?file=cancelled").status == 504
        server.until((tmp_path / "cancelled").exists)
        server.until_logged(r"GET /late/wait from 127.0.0.1 passed its deadline and is cancelled; it waits")
        assert "in do_wait" in server.log()
        assert server.get("/").status == 200
        assert server.workers("asgis:app") == workers


def test_a_blocked_loop_is_noticed_and_its_worker_replaced(tmp_path):
    with serving(tmp_path, "asgis:app", "--handler-timeout", "1") as server:
        workers = server.workers("asgis:app")
        assert server.get("/block?seconds=6").status == 504
        server.until_logged(r"The event loop is blocked by GET /block from 127.0.0.1; it is here")
        assert "in do_block" in server.log()
        server.until(lambda: (new := server.workers("asgis:app")) and new[-1] not in workers)
        with server.client(seconds=AT_ONCE) as client:
            assert client.ask("/").status == 200


def test_requests_in_a_blocked_loop_are_given_to_another_worker(tmp_path):
    with serving(tmp_path, "asgis:app", "-w", "2") as server, server.client() as blocking:
        blocking.send(request("/block?seconds=4"))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.client(seconds=AT_ONCE)) for _ in range(10)]
            for client in clients:
                client.send(request("/"))
            assert [client.answer().body for client in clients] == [b"hello\n"] * 10
        assert blocking.answer().body == b"unblocked\n"


def test_more_than_limit_concurrency_wait(tmp_path):
    with (
        serving(tmp_path, "asgis:app", "--limit-concurrency", "2") as server,
        held(server, 2) as clients,
        server.client() as waiting,
    ):
        waiting.send(request("/held?file=held-2"))
        (tmp_path / "held-0").touch()
        assert clients[0].answer().status == 200
        server.until((tmp_path / "held-2-began").exists)
        (tmp_path / "held-1").touch()
        (tmp_path / "held-2").touch()
        assert clients[1].answer().status == waiting.answer().status == 200
