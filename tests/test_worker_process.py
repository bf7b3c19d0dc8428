"""A worker's process: what it reports, what it handles, how it leaves. This test is parent and pump."""

from __future__ import annotations

import atexit
import ctypes
import mmap
import os
import signal
import socket
import sys
import tempfile
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from halfsync import channel
from halfsync.plan.plan import Kind, Plan, PoolPlan, RoutePlan
from halfsync.settings.table import Settings
from halfsync.system import prctl
from halfsync.wire.messages import LogRecord, LogTask, Nudge, Stacks, encode
from halfsync.wire.orders import Attach, Cut, Failed, LogFile, Ready, Report, Retire, Spawn, decode_report
from halfsync.wire.task_slots import SCOREBOARD_BYTES
from halfsync.worker import main, template
from halfsync.worker.importing import CannotImport, load
from tests.worker_stage import TIMEOUT, Seam, plan_of

APP = """
    import atexit, os, time
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/sleep":
            time.sleep(float(environ["QUERY_STRING"]))
        return [str(os.getpid()).encode()]
    def make(name, *, loud=False):
        return app
    number = 5
    @atexit.register
    def at_the_end():
        with open(os.path.join(os.path.dirname(__file__), "ended"), "a") as file:
            file.write("ended\\n")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with an application module that nobody has imported yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    sys.modules.pop("app_of_test", None)
    (tmp_path / "app_of_test.py").write_text(textwrap.dedent(APP))
    return tmp_path


def plan(target: str = "app_of_test:app", threads: int = 2) -> Plan:
    pools = [PoolPlan("built-in", None, 1, 2), PoolPlan(target, target, 1, threads)]
    routes = [RoutePlan("/files", ".", Kind.FILES, 0), RoutePlan("", target, Kind.WSGI, 1)]
    return plan_of(routes, pools, Settings(access_logformat="%U"))


class Process:
    """A forked child that runs an entry point, and the parent's and pump's ends of its channels."""

    def __init__(self, entry: Any, the_plan: Plan, pool: int, *more: Any) -> None:
        self.orders, theirs = channel.pair()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 99
            try:
                atexit._clear()  # the test run's own
                self.orders.close()
                status = entry(the_plan, pool, theirs, *more)
            finally:
                os._exit(status)
        theirs.close()
        self.begin()

    def begin(self) -> None:
        self.orders.settimeout(TIMEOUT)
        self.watch: socket.socket | None = None
        self.seam: Seam | None = None

    def report(self) -> Report:
        packet = channel.receive(self.orders)
        assert packet is not None
        report: Report = decode_report(packet[0])
        return report

    def attach(self) -> Seam:
        tasks, its_tasks = channel.pair()
        self.watch, its_watch = channel.pair()
        scoreboard = os.memfd_create("scoreboard")
        os.truncate(scoreboard, SCOREBOARD_BYTES)
        self.scoreboard = memoryview(mmap.mmap(scoreboard, SCOREBOARD_BYTES)).cast("Q")
        descriptors = (its_tasks.fileno(), its_watch.fileno(), scoreboard)
        assert channel.send(self.orders, encode(Attach()), descriptors) is channel.SendResult.YES
        its_tasks.close()
        its_watch.close()
        os.close(scoreboard)
        self.seam = Seam(tasks)
        return self.seam

    def let_go(self) -> None:
        """What a pump does with a retired worker, or what its death looks like."""
        assert self.seam is not None
        assert self.watch is not None
        self.seam.close()
        self.watch.close()

    def exit_status(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        self.orders.close()
        if self.seam is not None:
            self.let_go()
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def until(holds: Callable[[], object]) -> None:
    give_up = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def open_files(pid: int) -> set[str]:
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:  # closed in between
            pass
    return found


@contextmanager
def process(
    entry: Any = main.run, the_plan: Plan | None = None, pool: int = 1, *more: Any
) -> Iterator[Process]:
    made = Process(entry, the_plan or plan(), pool, *(more or ([None] if entry is main.run else [])))
    try:
        yield made
    finally:
        made.close()


def get(seam: Seam, target: str = "/", route: int = 1) -> Any:
    return seam.get(target, route=route)


# --- importing ------------------------------------------------------------------------------------------


def test_targets(folder):
    assert callable(load("app_of_test:app"))
    assert load("app_of_test:make('x', loud=True)") is load("app_of_test:app")
    assert callable(load("app_of_test:app.__call__"))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere_at_all:app", "there is no module 'nowhere_at_all'"),
        ("app_of_test.sub:app", "there is no module 'app_of_test.sub'"),
        ("app_of_test:missing", "has no 'missing'"),
        ("app_of_test:app.missing", "has no 'app.missing'"),
        ("app_of_test:number", "of type int, which can't be called"),
        ("app_of_test:number()", "of type int, which can't be called"),
        ("app_of_test:make(x)", "is not a call with literal arguments"),
        ("app_of_test:make(*'ab')", "is not a call with literal arguments"),
        ("app_of_test:make(", "is not a call with literal arguments"),
    ],
)
def test_what_is_wrong_with_a_target_is_one_sentence(folder, target, said):
    with pytest.raises(CannotImport) as caught:
        load(target)
    sentence = caught.value.sentence
    assert said in sentence
    assert sentence.startswith(f"Target {target!r}: ")
    assert sentence.endswith(".")
    assert caught.value.traceback == ""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import helper_of_test", "ModuleNotFoundError: No module named 'not_there'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def app(:", "SyntaxError"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_an_application_that_fails_shows_its_own_traceback(folder, code, said):
    (folder / "helper_of_test.py").write_text("import not_there\n")
    name = f"bad_{abs(hash(code))}"
    (folder / f"{name}.py").write_text(code + "\n")
    with pytest.raises(CannotImport) as caught:
        load(f"{name}:app")
    assert said.split(":")[0] in caught.value.sentence
    assert said in caught.value.traceback
    assert f"{name}.py" in caught.value.traceback
    assert "importing.py" not in caught.value.traceback
    assert "importlib" not in caught.value.traceback


def test_a_factory_that_fails_is_named(folder):
    with pytest.raises(CannotImport, match=r"the call of make failed with TypeError") as caught:
        load("app_of_test:make()")
    assert "importing.py" not in caught.value.traceback


# --- a worker's life --------------------------------------------------------------------------------------


def test_a_worker_reports_attaches_answers_and_leaves_with_its_exit_hooks_run(folder):
    with process() as worker:
        assert worker.report() == Ready(worker.pid)
        assert get(worker.attach()).body == str(worker.pid).encode()
        worker.orders.close()
        worker.let_go()
        assert worker.exit_status() == 0
        worker.seam = None
    assert (folder / "ended").read_text() == "ended\n"


def test_an_application_that_can_not_be_imported_is_reported(folder):
    with process(the_plan=plan("app_of_test:missing")) as worker:
        report = worker.report()
        assert isinstance(report, Failed)
        assert "has no 'missing'" in report.sentence
        assert worker.exit_status() == 3


def beside_exit_functions(entry: Any, folder: Path, *arguments: Any) -> int:
    """In the child: what `opentelemetry-instrument` and others register in the process that becomes the
    parent."""
    atexit.register(lambda: (folder / "ended").open("a").write(f"before, in {os.getpid()}\n"))
    kept = Path(tempfile.mkdtemp(dir=folder))
    weakref.finalize(Process, kept.rmdir)
    return int(entry(*arguments))


def test_exit_functions_from_before_the_fork_run_at_the_end_of_a_worker(folder):
    """What weakref.finalize would remove is the parent's."""
    with process(partial(beside_exit_functions, main.run, folder), None, 1, None) as worker:
        worker.report()
        assert get(worker.attach()).done
        channel.send(worker.orders, encode(Retire(0)))
        worker.let_go()
        pid = worker.pid
        assert worker.exit_status() == 0
    assert (folder / "ended").read_text() == f"ended\nbefore, in {pid}\n"
    assert [one.name for one in folder.iterdir() if one.name.startswith("tmp")]


def test_a_retired_worker_leaves_when_the_pump_lets_go_and_its_last_task_has_ended(folder):
    with process() as worker:
        worker.report()
        seam = worker.attach()
        assert get(seam).done
        channel.send(worker.orders, encode(Retire(0)))
        assert get(seam).done
        began = time.monotonic()
        seam.start("GET /sleep?0.2 HTTP/1.1\nHost: a", route=1)
        worker.let_go()
        worker.seam = None
        assert worker.exit_status() == 0
        assert time.monotonic() - began > 0.2


def test_a_worker_outlives_a_pump_and_serves_the_next(folder):
    with process() as worker:
        worker.report()
        for _ in range(3):
            assert get(worker.attach()).done
            worker.let_go()
        assert get(worker.attach()).done


def test_a_worker_that_got_no_descriptors_asks_for_them_again(folder, capfd):
    """Its own were all in use when it was told of the pump. It works on with the next pair."""
    with process() as worker:
        worker.report()
        assert channel.send(worker.orders, encode(Attach())) is channel.SendResult.YES
        assert worker.report() == Cut(-1)
        assert get(worker.attach()).done
    assert "ulimit -n" in capfd.readouterr().err


def test_a_worker_leaves_when_its_parent_is_gone_whatever_the_pump_does(folder):
    with process() as worker:
        worker.report()
        assert get(worker.attach()).done
        worker.orders.close()
        assert worker.exit_status() == 0


def test_the_watch_thread_flushes_and_tells_stacks(folder, capfd):
    with process(the_plan=plan(threads=1)) as worker:
        worker.report()
        seam = worker.attach()
        fast = seam.task("GET / HTTP/1.1\nHost: a", route=1)
        slow = seam.task("GET /sleep?5 HTTP/1.1\nHost: a", route=1)
        seam.send(fast, slow)
        until(lambda: worker.scoreboard[slow.number])
        assert worker.watch is not None
        worker.watch.send(encode([Nudge()]))
        assert seam.wait(fast.number).done
        assert not seam.answers[slow.number].done
        worker.watch.send(encode([Stacks(slow.number)]))
        assert seam.wait(slow.number).done
    assert "time.sleep(float" in capfd.readouterr().err


def test_the_built_in_worker_serves_files_and_writes_the_log(folder):
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    old = os.open(folder / "old.log", flags)
    record = LogRecord(0.0, "", b"GET /x HTTP/1.1\r\n\r\n", 200, 0, 0, 0, 0, 0, 0, 0)
    with process(main.run, plan(), 0, old) as worker:
        os.close(old)
        worker.report()
        seam = worker.attach()
        assert b"def app" in get(seam, "/files/app_of_test.py", route=0).body
        for name in ("old", "new"):
            slot = seam.task("").number
            seam.send(LogTask(slot, [record]))
            assert seam.wait(slot).done
            if name == "old":
                new = os.open(folder / "new.log", flags)
                channel.send(worker.orders, encode(LogFile()), (new,))
                os.close(new)
                until(lambda: str(folder / "old.log") not in open_files(worker.pid))
    assert (folder / "old.log").read_text() == (folder / "new.log").read_text() == "/x\n"


def test_an_applications_own_threads_are_joined_as_in_any_python_program(folder):
    (folder / "threaded_of_test.py").write_text(
        textwrap.dedent(
            """
            import threading, time
            def work():
                time.sleep(0.3)
                open("worked", "w").close()
            def app(environ, start_response):
                threading.Thread(target=work).start()
                start_response("200 OK", [])
                return []
            """
        )
    )
    with process(the_plan=plan("threaded_of_test:app")) as worker:
        worker.report()
        assert get(worker.attach()).done
        worker.orders.close()
        worker.let_go()
        worker.seam = None
        assert worker.exit_status() == 0
    assert (folder / "worked").exists()


# --- the template -----------------------------------------------------------------------------------------


@pytest.fixture
def subreaper():
    """The parent adopts the workers that a template forks."""
    prctl.adopt_orphans()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


def test_a_template_forks_workers_that_have_the_application_already(folder, subreaper):
    entry = partial(beside_exit_functions, template.run, folder)
    with process(entry, None, 1) as parent_of_workers:
        assert parent_of_workers.report() == Ready(parent_of_workers.pid)
        (folder / "app_of_test.py").write_text("1 / 0\n")  # nobody imports it again
        pids: list[int] = []
        for number in range(2):
            ours, theirs = channel.pair()
            channel.send(parent_of_workers.orders, encode(Spawn(number)), (theirs.fileno(),))
            theirs.close()
            worker = object.__new__(Process)
            worker.orders, worker.pid = ours, 0
            worker.begin()
            report = worker.report()
            assert isinstance(report, Ready)
            assert get(worker.attach()).body == str(report.pid).encode()
            pids.append(report.pid)
            ours.close()
            worker.let_go()
            os.waitpid(report.pid, 0)
        assert len({*pids} - {parent_of_workers.pid}) == 2
        ended = (folder / "ended").read_text().splitlines()
        assert ended == [line for pid in pids for line in ("ended", f"before, in {pid}")]
        assert [one.name for one in folder.iterdir() if one.name.startswith("tmp")]
        parent_of_workers.orders.close()
        assert parent_of_workers.exit_status() == 0


def test_a_template_reports_an_application_that_can_not_be_imported(folder):
    with process(template.run, plan("nowhere_at_all:app")) as made:
        assert isinstance(made.report(), Failed)
        assert made.exit_status() == 3


def test_nothing_here_left_a_thread(folder):
    """A worker's threads bear its name; in this process they were started by the tests above."""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("halfsync-")]
