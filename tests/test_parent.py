"""The parent: real processes, with stand-ins for the pump and the workers."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from halfsync.parent import signals
from tests.e2e.harness import stands_still
from tests.launcher import launch

STAGE = Path(__file__).with_name("parent_stage.py")
LONG = 60.0  # seconds; far more than anything here takes


class Stage:
    """A running parent, and what it and its children told so far."""

    def __init__(self, folder: Path, told: dict[str, Any], environment: dict[str, str]) -> None:
        self.folder = folder
        self.errors = folder / "errors"
        self._told, output = os.pipe()
        with self.errors.open("wb") as errors:
            self.process = launch(
                [str(STAGE), json.dumps(told)],
                folder=folder,
                environment={**os.environ, "PWD": str(folder), **environment},
                output=output,
                errors=errors.fileno(),
            )
        os.close(output)
        os.set_blocking(self._told, False)
        self._rest = b""
        self.heard: list[dict[str, Any]] = []

    def script(self, **does: Any) -> None:
        """What children that start from now on do."""
        fresh = self.folder / "script.new"
        fresh.write_text(json.dumps(does), "utf-8")
        fresh.rename(self.folder / "script.json")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def log(self) -> str:
        return self.errors.read_text("utf-8")

    def next(self, what: str, **like: Any) -> dict[str, Any]:
        """The next thing of this kind that anybody tells; it is taken out of what was heard."""
        deadline = time.monotonic() + LONG
        while True:
            for told in self.heard:
                if told["what"] == what and like.items() <= told.items():
                    self.heard.remove(told)
                    return told
            assert time.monotonic() < deadline, f"no {what} {like} in {self.heard}\n{self.log()}"
            self._listen(0.1)

    def next_all(self, what: str, count: int, **like: Any) -> list[dict[str, Any]]:
        return [self.next(what, **like) for _ in range(count)]

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONG
        while not holds():
            assert time.monotonic() < deadline, self.log()
            self._listen(0.02)

    def ends(self) -> int:
        """Its exit status. No process of the tree is left then."""
        status = self.process.wait(LONG)
        self._listen(0)
        assert descendants(self.process.pid) == []
        return status

    def close(self) -> None:
        os.close(self._told)

    def _listen(self, seconds: float) -> None:
        select.select([self._told], [], [], seconds)
        try:
            while data := os.read(self._told, 1 << 16):
                self._rest += data
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        self.heard += [json.loads(line) for line in lines]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> list[int]:
    """Living processes whose parent is `pid`."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8") as stat:
                if stat.read().rpartition(")")[2].split()[1] == str(pid):
                    found.append(int(entry))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


@contextmanager
def stage(folder: Path, *, environment: dict[str, str] | None = None, **told: Any) -> Iterator[Stage]:
    running = Stage(folder, told, environment or {})
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        running.close()


@pytest.fixture(params=[False, True], ids=["forked", "preloaded"])
def preload(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def serving(parent: Stage, workers: int = 1) -> list[int]:
    """Wait until it accepts with all workers; gives the pids of the application's."""
    parent.next("open")
    parent.next("join", pool=0)
    return [told["worker_pid"] for told in parent.next_all("join", workers, pool=1)]


def test_starts_joins_and_stops(tmp_path, preload):
    """Every worker is made known to the pump, which accepts only then; TERM ends all, with 0."""
    with stage(tmp_path, workers=2, preload=preload) as parent:
        joined = serving(parent, 2)
        ready = parent.next_all("ready", 2, pool=1)
        assert {one["pid"] for one in ready} == set(joined)
        parent.next_all("attach", 3)
        parent.signal(signal.SIGTERM)
        parent.next("drain")
        parent.next_all("leaves", 3)
        assert parent.ends() == 0


def test_when_it_is_said_to_serve_the_pump_has_its_orders(tmp_path):
    """Even if the parent gets no further."""
    with_script(tmp_path, announced="stands still")
    with stage(tmp_path) as parent:
        parent.next("announced")
        parent.next("open")
        parent.until(lambda: stands_still(parent.process.pid))  # or SIGCONT could come before the stop
        parent.signal(signal.SIGCONT)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0


def test_children_inherit_nothing_by_accident(tmp_path):
    """A worker has its streams and its orders (and one for looking); the pump the listener too."""
    with stage(tmp_path, workers=3) as parent:
        serving(parent, 3)
        assert [one["fds"] for one in parent.next_all("ready", 3, pool=1)] == [5] * 3
        assert parent.next("pump")["fds"] == 6


def test_the_current_folder_is_importable_in_workers(tmp_path):
    with stage(tmp_path) as parent:
        assert parent.next("ready", pool=1)["path"] == str(tmp_path)


def test_a_killed_worker_is_replaced_and_named(tmp_path, preload):
    with stage(tmp_path, workers=2, preload=preload) as parent:
        victim = serving(parent, 2)[0]
        os.kill(victim, signal.SIGKILL)
        parent.next("join", pool=1)
        assert_told(parent, f"worker(app:app) [{victim}] was killed by SIGKILL")


def test_a_killed_pump_is_replaced_and_knows_the_living_workers(tmp_path, preload):
    with stage(tmp_path, workers=2, preload=preload) as parent:
        joined = serving(parent, 2)
        first = parent.next("pump")
        os.kill(first["pid"], signal.SIGKILL)
        second = parent.next("pump")
        assert second["listening"] == first["listening"]
        again = [told["worker_pid"] for told in parent.next_all("join", 2, pool=1)]
        assert sorted(again) == sorted(joined)
        parent.next("open")
        assert_told(parent, f"pump [{first['pid']}] was killed by SIGKILL")
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0


def test_a_killed_template_is_replaced_when_it_is_needed(tmp_path):
    with stage(tmp_path, preload=True) as parent:
        (worker,) = serving(parent)
        os.kill(parent.next("template")["pid"], signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        parent.next("template")
        parent.next("join", pool=1)


def test_if_the_parent_is_killed_nothing_is_left(tmp_path, preload):
    with stage(tmp_path, workers=2, preload=preload) as parent:
        joined = serving(parent, 2)
        pump = parent.next("pump")["pid"]
        children = [*descendants(parent.process.pid), *joined]
        assert pump in children
        parent.process.kill()
        parent.until(lambda: not any(map(alive, children)))


def test_an_application_that_fails_at_first_ends_everything(tmp_path, preload):
    with_script(tmp_path, worker="fails")
    with stage(tmp_path, workers=2, preload=preload) as parent:
        assert parent.ends() == 2
        assert parent.log().count("does not work.") == 1
        assert preload or "Traceback of the application\nhalfsync: Target 'app:app': it does" in parent.log()


@pytest.mark.parametrize("does", ["dies", "garbage"])
def test_a_worker_that_never_becomes_ready_is_tried_three_times(tmp_path, does):
    with_script(tmp_path, worker=does)
    with stage(tmp_path) as parent:
        assert parent.ends() == 2
        assert_told(parent, "while starting, 3 times.")


def test_a_pump_that_never_lives_is_tried_three_times(tmp_path):
    with_script(tmp_path, pump="dies", worker="hangs")
    with stage(tmp_path) as parent:
        assert parent.ends() == 2
        assert_told(parent, "The pump exited with status 9 while starting, 3 times.")


def test_it_does_not_serve_before_its_pump_works(tmp_path):
    """Workers that are ready sooner say nothing about that."""
    with_script(tmp_path, pump="never works")
    with stage(tmp_path) as parent:
        assert parent.ends() == 2
        assert_told(parent, "The pump exited with status 9 while starting, 3 times.")
        assert "announced" not in [told["what"] for told in parent.heard]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("pump", {}),
        ("worker(built-in)", {}),
        ("worker(app:app)", {}),
        ("template(app:app)", {"preload": True}),
        ("watcher", {"reload": True}),
        ("", {"workers": 4}),
    ],
)
def test_no_room_for_a_process_at_the_first_start_ends_everything(tmp_path, kind, more, number):
    """After three tries, with one sentence that names the limit; whatever else could be started."""
    with_script(tmp_path, fork_fails={kind: number})
    with stage(tmp_path, **more) as parent:
        assert parent.ends() == 2
        [sentence] = [line for line in parent.log().splitlines() if line.startswith("halfsync: ")]
        named = "ulimit -u, TasksMax" if number == errno.EAGAIN else "ulimit -v, MemoryMax"
        told = (
            rf"halfsync: No {re.escape(kind) or '.*'} can be started: .* \({named}\)\. It was tried 3 times\."
        )
        assert re.fullmatch(told, sentence), sentence
        assert "bug" not in parent.log()


def test_no_room_for_a_process_for_a_moment_at_the_first_start(tmp_path):
    with_script(tmp_path, fork_fails={"worker(app:app)": errno.EAGAIN})
    with stage(tmp_path, workers=2) as parent:
        parent.until(lambda: "The next try is in 0.5 s" in parent.log() or "tried" in parent.log())
        parent.script()
        parent.next("announced")
        parent.next_all("join", 2, pool=1)


def test_no_room_for_a_replacement_is_reported_now_and_then_and_over_within_a_second(tmp_path):
    with stage(tmp_path, workers=2) as parent:
        killed, _ = serving(parent, 2)
        parent.script(fork_fails={"worker(app:app)": errno.EAGAIN})
        os.kill(killed, signal.SIGKILL)
        # at once, if the worker had lived for more than a second
        told = r"no worker\(app:app\) can be started: .*TasksMax\)\. The next try is (at once|in 0\.5 s)"
        parent.until(lambda: re.search(told, parent.log()) is not None)
        begun = time.monotonic()
        while time.monotonic() < begun + 2.5:  # several tries
            parent.until(lambda: True)
        assert parent.log().count("can be started") == 1
        parent.script()
        parent.next("join", pool=1)


def test_no_room_for_a_process_at_a_reload(tmp_path, preload):
    """The old workers keep serving; it goes on when there is room again."""
    with stage(tmp_path, workers=2, preload=preload) as parent:
        serving(parent, 2)
        parent.script(fork_fails={"worker(app:app)": errno.ENOMEM, "template": errno.ENOMEM})
        parent.signal(signal.SIGHUP)
        parent.until(lambda: "can be started: there is too little memory" in parent.log())
        assert not [told for told in parent.heard if told["what"] == "retire" and told.get("pool") == 1]
        parent.script()
        parent.next_all("join", 2, pool=1)
        parent.until(lambda: "app:app is reloaded" in parent.log())


def test_term_while_an_import_hangs(tmp_path):
    with_script(tmp_path, worker="hangs")
    with stage(tmp_path) as parent:
        parent.next("ready", pool=0)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0


HANGS = r"Target 'app:app': it was not ready within 3 s \(startup_timeout\) and is killed\."


def test_an_import_that_hangs_at_first_ends_everything(tmp_path, preload):
    with_script(tmp_path, worker="hangs")
    with stage(tmp_path, workers=2, preload=preload, startup_timeout=3) as parent:
        assert parent.ends() == 2
        assert len(re.findall(f"^halfsync: {HANGS}$", parent.log(), re.MULTILINE)) == 1


def test_an_import_that_hangs_at_a_reload_changes_nothing(tmp_path, preload):
    with stage(tmp_path, workers=2, preload=preload, startup_timeout=3) as parent:
        old = serving(parent, 2)
        parent.script(worker="hangs")
        parent.signal(signal.SIGHUP)
        parent.until(lambda: ": reload failed" in parent.log())
        assert re.search(HANGS + " app:app: reload failed; the old workers keep serving", parent.log())
        assert all(map(alive, old))
        parent.script()
        parent.signal(signal.SIGHUP)
        parent.next_all("join", 2, pool=1)
        parent.until(lambda: not any(map(alive, old)))


def test_a_replacement_that_hangs_is_replaced(tmp_path):
    with stage(tmp_path, startup_timeout=3) as parent:
        (worker,) = serving(parent)
        parent.script(worker="hangs")
        os.kill(worker, signal.SIGKILL)
        parent.until(lambda: re.search(HANGS + " Another starts", parent.log()) is not None)
        parent.script()
        parent.next("join", pool=1)


def test_startup_timeout_0_waits(tmp_path):
    """As long as it is given: here, until the application may go on."""
    with_script(tmp_path, worker="hangs")
    with stage(tmp_path, startup_timeout=0) as parent:
        parent.next("ready", pool=0)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0


def test_a_hangup_during_the_start_starts_a_hanging_import_again(tmp_path, preload):
    with_script(tmp_path, worker="hangs")
    with stage(tmp_path, workers=2, preload=preload) as parent:
        parent.next("ready", pool=0)
        parent.until(lambda: "(app:app)" in parent.log())
        parent.script()
        parent.signal(signal.SIGHUP)
        serving(parent, 2)


def everything_that_ends_a_process() -> list[int]:
    """By default: see signal(7)."""
    keeps = {"KILL", "STOP", "CHLD", "CONT", "URG", "WINCH", "TSTP"}
    broken = {"ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "SYS"}
    handled = {"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TTIN", "TTOU"}
    apart = {getattr(signal, f"SIG{name}") for name in keeps | broken | handled}
    return sorted(signal.valid_signals() - apart)


def test_a_signal_that_means_nothing_ends_nothing(tmp_path, preload):
    """Not the parent, which says so, nor the pump, a template or a worker."""
    told = {"HALFSYNC_STAGE_KEEPS_USR2": "1"}
    with stage(tmp_path, preload=preload, environment=told) as parent:
        (worker,) = serving(parent)
        children = [*descendants(parent.process.pid), worker]
        for number in everything_that_ends_a_process():
            for pid in {parent.process.pid, *children}:
                os.kill(pid, number)
        for number in set(everything_that_ends_a_process()) - {signal.SIGPIPE, signal.SIGXFSZ}:
            assert_told(parent, f"{signals.name_of(number)}: this signal means nothing to halfsync")
        for name in ("TTIN", "TTOU", "QUIT", "INT", "HUP", "USR2"):
            number = signal.Signals[f"SIG{name}"]
            for pid in children:
                os.kill(pid, number)
        parent.signal(signal.SIGTTIN)
        parent.next("join", pool=1)
        assert all(map(alive, children))
        assert "was killed by" not in parent.log()
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0


def assert_told(parent: Stage, words: str) -> None:
    parent.until(lambda: words in parent.log())


def test_reload_raises_new_workers_before_the_old_retire(tmp_path, preload):
    with stage(tmp_path, workers=2, preload=preload) as parent:
        parent.next("open")
        parent.next("join", pool=0)
        joined = parent.next_all("join", 2, pool=1)
        old = [told["worker_pid"] for told in joined]
        parent.next_all("ready", 2, pool=1)
        parent.signal(signal.SIGHUP)
        parent.next_all("ready", 2, pool=1)
        parent.until(lambda: len([one for one in parent.heard if one["what"] == "retire"]) == 3)
        # (The pool of files has its own reload, which may be over before or after.)
        ours = [
            told["worker"] for told in (*joined, *parent.heard) if told.get("pool") == 1 and "worker" in told
        ]
        order = [one["what"] for one in parent.heard if one.get("worker") in ours]
        assert order == ["join", "join", "retire", "retire"]
        parent.until(lambda: not any(map(alive, old)))
        assert_told(parent, "app:app is reloaded")


def test_a_reload_is_over_when_the_pump_has_done_as_ordered(tmp_path, preload):
    """Not when it has the orders: in a turn that had begun before, old workers still get requests."""
    with stage(tmp_path, workers=2, preload=preload) as parent:
        old = serving(parent, 2)
        parent.script(pump="is slow")
        parent.signal(signal.SIGHUP)
        parent.next("ping")
        parent.until(lambda: not any(map(alive, old)))  # the parent has had many a turn
        assert "app:app is reloaded" not in parent.log()
        parent.script()
        parent.signal(signal.SIGHUP)
        parent.until(lambda: parent.log().count("app:app is reloaded") == 2)


def test_a_pump_that_dies_before_it_has_done_as_ordered_delays_no_reload(tmp_path):
    """The next one knows nothing else."""
    with stage(tmp_path, workers=1) as parent:
        [pump] = [told["pid"] for told in parent.next_all("pump", 1)]
        serving(parent)
        parent.script(pump="is slow")
        parent.signal(signal.SIGHUP)
        parent.next("ping")
        parent.script()  # pools that are ready later are another switch, which the next one is ordered, too
        os.kill(pump, signal.SIGKILL)
        assert_told(parent, "app:app is reloaded")


def test_reload_follows_the_link_that_a_deployment_moved(tmp_path, preload):
    """The server was started in `now`, which then links to another release."""
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
    (tmp_path / "now").symlink_to("one")
    with stage(tmp_path / "now", preload=preload) as parent:
        assert parent.next("ready", pool=1)["path"] == str(tmp_path / "one")
        parent.next("open")
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "now")
        parent.signal(signal.SIGHUP)
        assert parent.next("ready", pool=1)["path"] == str(tmp_path / "two")


@pytest.mark.parametrize("does", ["fails", "dies", "garbage"])
def test_reload_of_broken_code_changes_nothing(tmp_path, does):
    with stage(tmp_path, workers=2) as parent:
        old = serving(parent, 2)
        parent.script(worker=does)
        parent.signal(signal.SIGHUP)
        parent.until(lambda: ": reload failed; the old workers keep serving." in parent.log())
        assert all(map(alive, old))
        parent.script()
        parent.signal(signal.SIGHUP)
        parent.next_all("join", 2, pool=1)
        assert parent.log().count("reload failed") == 1


def test_reload_of_a_broken_template_changes_nothing(tmp_path):
    with stage(tmp_path, preload=True) as parent:
        old = serving(parent)
        parent.script(worker="fails")
        parent.signal(signal.SIGHUP)
        parent.until(lambda: ": reload failed; the old workers keep serving." in parent.log())
        assert all(map(alive, old))


def test_a_second_reload_takes_the_place_of_one_that_hangs(tmp_path):
    with stage(tmp_path) as parent:
        serving(parent)
        parent.script(worker="hangs")
        parent.signal(signal.SIGHUP)
        parent.until(lambda: parent.log().count("worker(app:app)") >= 3)
        parent.script()
        parent.signal(signal.SIGHUP)
        parent.next("join", pool=1)
        parent.until(lambda: len(descendants(parent.process.pid)) == 3)


def test_a_retired_worker_that_stays_is_killed(tmp_path):
    with_script(tmp_path, retired="stays")
    with stage(tmp_path, graceful_timeout=0.2) as parent:
        (old,) = serving(parent)
        parent.signal(signal.SIGHUP)
        parent.until(lambda: not alive(old))
        assert (
            f"worker(app:app) [{old}] did not exit in time (graceful_timeout, 0.2 s); it is killed."
            in parent.log()
        )


def test_a_stop_waits_no_longer_than_the_limit(tmp_path):
    with_script(tmp_path, drain_takes=1000)
    with stage(tmp_path, graceful_timeout=0.2) as parent:
        serving(parent)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0
        assert_told(parent, "requests were still in flight after 0.2 s (graceful_timeout).")
        parent.next_all("leaves", 2)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_signal_stops_at_once(tmp_path, second):
    with_script(tmp_path, drain_takes=1000)
    with stage(tmp_path, graceful_timeout=1000) as parent:
        serving(parent)
        parent.signal(signal.SIGTERM)
        parent.next("drain")
        parent.signal(second)
        assert parent.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_at_once_lets_the_pump_drain_at_once(tmp_path, number):
    """So that the log gets the records of what was answered; and the workers stay as long as that takes."""
    with_script(tmp_path, drain_takes=1000)
    with stage(tmp_path, graceful_timeout=1000) as parent:
        serving(parent)
        if number == signal.SIGTERM:
            parent.signal(number)
            parent.next("drain", seconds=1000)
        parent.signal(number)
        parent.next("drain", seconds=0)
        assert parent.ends() == 0


@pytest.mark.parametrize("more", [0, 1])
def test_a_stop_at_once_waits_only_a_moment(tmp_path, more):
    """And another signal takes that moment, too."""
    with_script(tmp_path, drain_at_once="hangs")
    with stage(tmp_path, graceful_timeout=1000, last_word=60 if more else 0.5) as parent:
        serving(parent)
        parent.signal(signal.SIGQUIT)
        parent.next("drain")
        if more:
            parent.signal(signal.SIGQUIT)
        assert parent.ends() == 0
        assert ("its last records may be lost" in parent.log()) is not bool(more)


def test_workers_that_do_not_exit_are_killed(tmp_path):
    with_script(tmp_path, leaving_takes=1000)
    with stage(tmp_path, graceful_timeout=0.2) as parent:
        serving(parent)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0
        assert_told(parent, "did not exit in time (graceful_timeout, 0.2 s); it is killed.")


def test_workers_are_replaced_while_requests_drain(tmp_path):
    with_script(tmp_path, drain_takes=1000)
    with stage(tmp_path, graceful_timeout=1000) as parent:
        (worker,) = serving(parent)
        parent.next("ready", pool=1)
        parent.signal(signal.SIGTERM)
        parent.next("drain")
        os.kill(worker, signal.SIGKILL)
        parent.next("ready", pool=1)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0


def test_a_worker_whose_handler_hangs_is_retired_and_replaced(tmp_path, preload):
    with_script(tmp_path, handlers="hang")
    with stage(tmp_path, preload=preload) as parent:
        (hung,) = serving(parent)
        parent.script()
        parent.next("retire")
        (fresh,) = [told["worker_pid"] for told in parent.next_all("join", 1, pool=1)]
        assert fresh != hung
        parent.until(lambda: not alive(hung))
        assert_told(parent, f"worker(app:app) [{hung}] has a handler past handler_timeout; it is replaced.")


def test_a_worker_that_the_pump_gives_up_is_killed_at_once_and_replaced(tmp_path, preload):
    """It lives, and would go on living: without the pump it is of no use. The others stay as they are."""
    with_script(tmp_path, pump="gives up", leaving_takes=1000)
    with stage(tmp_path, preload=preload, graceful_timeout=1000) as parent:
        (lost,) = serving(parent)
        (fresh,) = [told["worker_pid"] for told in parent.next_all("join", 1, pool=1)]
        assert fresh != lost
        parent.until(lambda: not alive(lost))
        parent.until(lambda: f"worker(app:app) [{lost}] was killed by SIGKILL." in parent.log())
        assert alive(fresh)
        assert parent.log().count("was killed by") == 1
        parent.script()


def test_hung_workers_do_not_pile_up(tmp_path):
    """Every handler hangs and no worker exits: there are never many more than are wanted."""
    with_script(tmp_path, handlers="hang", retired="stays")
    with stage(tmp_path) as parent:
        serving(parent)
        parent.next_all("join", 30, pool=1)
        assert_told(parent, "is killed: too many workers with hung handlers (handler_timeout).")
        parent.until(lambda: len(descendants(parent.process.pid)) < 12)  # those that were killed end soon


def test_a_worker_that_babbles_is_killed(tmp_path):
    with_script(tmp_path, worker="babbles")
    with stage(tmp_path) as parent:
        (babbling,) = serving(parent)
        parent.until(lambda: f"worker(app:app) [{babbling}] sent a malformed report" in parent.log())
        parent.script()
        parent.until(lambda: not alive(babbling))
        parent.next("join", pool=1)


def test_a_stop_that_comes_with_a_reload_is_not_lost_to_a_bug_in_the_reload(tmp_path):
    with stage(tmp_path, reads_wrongly=True) as parent:
        serving(parent)
        parent.signal(signal.SIGSTOP)
        parent.until(lambda: stands_still(parent.process.pid))
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
            parent.signal(number)
        assert parent.ends() == 0
        assert_told(parent, "a bug, survived, at SIGHUP: ")
        assert_told(parent, "LookupError: there is a bug")


def test_usr1_reopens_the_access_log(tmp_path):
    """The built-in worker gets the new file; after the move, nothing goes to the old one."""
    with stage(tmp_path, log="access.log") as parent:
        serving(parent)
        (tmp_path / "access.log").rename(tmp_path / "access.log.1")
        parent.signal(signal.SIGUSR1)
        parent.next("logfile")
        assert (tmp_path / "access.log").read_text() == "reopened\n"
        assert (tmp_path / "access.log.1").read_text() == ""


def test_ttin_and_ttou_change_the_number_of_workers(tmp_path, preload):
    with stage(tmp_path, preload=preload) as parent:
        serving(parent)
        parent.signal(signal.SIGTTIN)
        joined = parent.next("join", pool=1)
        parent.signal(signal.SIGTTOU)
        parent.until(lambda: not alive(joined["worker_pid"]))
        parent.signal(signal.SIGTTOU)
        parent.until(lambda: "app:app: 1 worker processes" in parent.log())


def test_a_hundred_kills_leak_no_descriptor(tmp_path, preload):
    """Of the parent, that is. It is counted until it fits: the parent closes what it sent just after."""
    with stage(tmp_path, workers=25, preload=preload) as parent:
        victims = serving(parent, 25)
        before = open_descriptors(parent)
        for _ in range(4):
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            victims = [told["worker_pid"] for told in parent.next_all("join", 25, pool=1)]
        parent.until(lambda: open_descriptors(parent) <= before)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0


def open_descriptors(parent: Stage) -> int:
    parent.signal(signal.SIGUSR2)
    return int(parent.next("descriptors")["fds"])


def test_a_terminals_interrupt_reaches_the_group_but_only_the_parent_handles_it(tmp_path):
    with_script(tmp_path, drain_takes=0.3)
    with stage(tmp_path) as parent:
        children = [*serving(parent), parent.next("pump")["pid"]]
        for child in children:
            os.kill(child, signal.SIGINT)
            os.kill(child, signal.SIGHUP)
        parent.signal(signal.SIGINT)
        parent.next("drain")
        parent.next_all("leaves", 2)
        assert parent.ends() == 0


def with_script(folder: Path, **does: Any) -> None:
    (folder / "script.json").write_text(json.dumps(does), "utf-8")


@pytest.mark.parametrize("seed", range(2))
def test_chaos(tmp_path, preload, seed):
    """Whatever dies and whatever is asked, in any order: the parent finds no bug in itself, staffs all
    again when it is left in peace, and stops with 0."""
    dice = random.Random(seed)
    asked = [signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD]
    with stage(tmp_path, workers=2, preload=preload, graceful_timeout=1, log="access.log") as parent:
        serving(parent, 2)
        for _ in range(60):
            children = descendants(parent.process.pid)
            match dice.randrange(4):
                case 0 if children:
                    kill(dice.choice(children), dice.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
                case 1:
                    parent.signal(dice.choice(asked))
                case 2:
                    parent.script(
                        worker=dice.choice(["works", "fails", "dies", "garbage", "babbles", "hangs"])
                    )
                case 3:
                    parent.script(handlers=dice.choice(["hang", ""]), retired=dice.choice(["stays", ""]))
            time.sleep(dice.choice([0, 0, 0.01, 0.05]))
        parent.script()
        time.sleep(0.1)
        parent.heard.clear()
        parent.signal(signal.SIGHUP)
        parent.next("join", pool=1)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0
        assert "bug" not in parent.log()


def kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
