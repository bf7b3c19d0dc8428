"""`reload`: what the watcher takes for a change, and what the parent does about one. (With a true watcher and
true applications: tests/e2e/test_reload_on_change.py.)"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import time
from threading import Thread

import pytest

from halfsync import channel
from halfsync.commands.cli import main
from halfsync.plan.plan import Plan, PoolPlan
from halfsync.settings.table import Settings
from halfsync.system.seen_files import seen
from halfsync.watcher import code
from halfsync.watcher.files import SingleFiles
from halfsync.watcher.main import run
from halfsync.watcher.missed import CLOCK_STEP, changed_since
from halfsync.wire.orders import Changed, Failed, Ready, decode_report
from tests.e2e.harness import until
from tests.test_parent import Stage, alive, assert_told, descendants, preload, serving, stage, with_script

__all__ = ["preload"]  # a fixture

# --- which files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("app.py", True),
        ("package/sub/views.py", True),
        ("app.pyc", False),
        ("app.py~", False),
        (".#app.py", False),
        ("data.json", False),
        ("package/__pycache__/views.py", False),
        (".git/hooks/x.py", False),
        (".venv/lib/x.py", False),
        ("env/lib/python3/x.py", False),
        ("env/x.py", False),
        ("environment/x.py", True),
        ("web/node_modules/x.py", False),
        ("lib/site-packages/x.py", False),
        ("pages/index.html", True),
        ("index.htm", False),
        (".env", True),
        ("tests/test_app.py", False),
        ("package/tests/deep/test_app.py", False),
        ("tests.py", True),
        ("made_gen.py", False),
        ("build/out/x.py", False),
        ("out/x.py", True),
    ],
)
def test_what_counts_as_code(tmp_path, path, counts):
    (tmp_path / "env").mkdir()
    (tmp_path / "env/pyvenv.cfg").touch()
    wanted = code.Filter([str(tmp_path)], ["*.html", ".env"], ["tests", "*_gen.py", "build/out"])
    assert wanted("modified", str(tmp_path / path)) == counts


def test_a_hidden_folder_that_is_named_is_watched(tmp_path):
    """What lies above the folder does not matter."""
    folder = tmp_path / ".hidden" / "node_modules"
    assert code.Filter([str(folder)], [], [])(None, str(folder / "app.py"))
    assert not code.Filter([str(folder)], [], [])(None, str(tmp_path / "app.py"))


def test_a_folder_that_is_included_counts_with_all_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates/deep").mkdir(parents=True)
    wanted = code.Filter([str(tmp_path)], ["templates"], ["*.tmp"])
    for path, counts in (
        ("templates/page.html", True),
        ("templates/deep/page.txt", True),
        ("page.html", False),
        ("templates/.page.html.swp", False),
        ("templates/page.tmp", False),
    ):
        assert wanted(None, str(tmp_path / path)) == counts, path


def test_a_folder_that_is_included_is_watched_wherever_it_is(tmp_path, monkeypatch):
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    monkeypatch.chdir(here)
    assert code.folders(plan_of("app:app", reload_include=["../other", "*.html"])) == [str(here), str(other)]


def test_single_files_have_changed_when_they_are_the_same_at_two_looks(tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")

    def write(path: str, text: str) -> None:  # each time another inode: no clock matters
        (tmp_path / "fresh").write_text(text)
        os.rename(tmp_path / "fresh", path)

    write(one, "a")
    files = SingleFiles(seen([one, two]))
    assert [files.changed(), files.changed()] == [[], []]
    write(one, "b")
    assert files.changed() == []
    write(one, "c")  # still being written
    write(two, "a")
    assert files.changed() == []
    assert files.changed() == [one, two]
    assert files.changed() == []
    os.unlink(one)
    assert [files.changed(), files.changed()] == [[], []]
    write(one, "c")
    assert [files.changed(), files.changed()] == [[], [one]]


def plan_of(*targets: str, **settings: object) -> Plan:
    pools = [PoolPlan("built-in", None, 1, 1), *(PoolPlan(one, one, 1, 1) for one in targets)]
    return Plan(Settings(**settings), (), tuple(pools), ())  # type: ignore[arg-type]


def test_folders_of_modules_beside_the_current_one(tmp_path, monkeypatch):
    here, source = tmp_path / "here", tmp_path / "src"
    for folder in (here / "inner", source / "package", source / "namespace/deep"):
        folder.mkdir(parents=True)
    (source / "package/__init__.py").write_text("raise SystemExit('imported')")
    (source / "module.py").write_text("raise SystemExit('imported')")
    (here / "inner/mine.py").touch()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(source), str(here / "inner"), *sys.path])
    own = [str(here)]
    assert code.folders(plan_of("mine:app")) == own
    assert code.folders(plan_of("package.wsgi:app")) == [*own, str(source / "package")]
    assert code.folders(plan_of("namespace.deep:app")) == [*own, str(source / "namespace")]
    assert code.folders(plan_of("package:app", "module:app()")) == [*own, str(source)]
    for installed in ("wsgiref.simple_server:demo_app", "json:dumps", "sys:exit", "no_such_module:app"):
        assert code.folders(plan_of(installed)) == own
    assert code.folders(plan_of("module:app", reload_dir=["inner"])) == [str(here / "inner")]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["a/app.py"], "a/app.py"),
        (["views.py", "app.py", "views.py"], "app.py and views.py"),
        (["c.py", "b.py", "a.py"], "a.py and 2 other files"),
    ],
)
def test_changes_in_words(tmp_path, monkeypatch, paths, words):
    monkeypatch.chdir(tmp_path)
    assert code.in_words(str(tmp_path / path) for path in paths) == words
    assert code.in_words(["/elsewhere/app.py"]) == "/elsewhere/app.py"


def test_what_was_compiled_of_a_changed_file_is_forgotten(tmp_path, monkeypatch):
    """Two edits within a second, of the same size: Python would take the compiled first for the second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    source = tmp_path / "edited.py"

    def value() -> str:
        spec = importlib.util.spec_from_file_location("edited", source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return str(module.value)

    for word in ("one", "two"):
        source.write_text(f"value = '{word}'\n")
        os.utime(source, (1_700_000_000, 1_700_000_000))
        code.forget_compiled([str(source), str(tmp_path / "no_such.py")])
        assert value() == word


# --- what changed before ---------------------------------------------------------------------------------


def test_what_was_written_or_put_in_place_since_then_is_found(tmp_path):
    (tmp_path / "env/lib").mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "moved.new").write_text("written before")
    for name in ("old.py", "package/written.py", "env/lib/x.py", "words.yml"):
        (tmp_path / name).write_text("before")
    moment = max(os.stat(tmp_path / name).st_ctime for name in ("old.py", "words.yml")) + 2 * CLOCK_STEP
    until(lambda: time.time() > moment + CLOCK_STEP)
    os.rename(tmp_path / "moved.new", tmp_path / "moved.py")
    for name in ("package/written.py", "package/other.txt", "env/lib/x.py", "words.yml"):
        (tmp_path / name).write_text("after")
    wanted = code.Filter([str(tmp_path)], [], [])
    found = changed_since(moment, [str(tmp_path)], wanted, [str(tmp_path / "words.yml"), "/no/such"])
    assert found == [str(tmp_path / name) for name in ("moved.py", "package/written.py", "words.yml")]
    assert changed_since(time.time() + 60, [str(tmp_path)], wanted) == []


def test_a_watcher_tells_at_first_what_changed_before_it_watched(tmp_path, monkeypatch):
    pytest.importorskip("watchfiles")
    monkeypatch.chdir(tmp_path)
    began = time.time()
    (tmp_path / "app.py").touch()
    ours, theirs = channel.pair()
    with ours, theirs:
        watching = Thread(target=run, args=(plan_of("app:app"), began, theirs))
        watching.start()
        told = [channel.receive(ours), channel.receive(ours)]
        ours.shutdown(socket.SHUT_WR)
        watching.join()
    reports = [decode_report(received[0]) for received in told if received is not None]
    assert reports == [Ready(os.getpid()), Changed("app.py", False)]


# --- what is told of the settings ------------------------------------------------------------------------


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "--check-config", "./"])
    assert leaving.value.code == 2
    return capsys.readouterr().err


def test_a_folder_that_is_not_there(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(capsys, "--reload", "--reload-dir", "nowhere") == (
        "halfsync: reload_dir: there is no folder 'nowhere'.\n"
    )


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (
            OSError("OS file watch limit reached. about ['/x']"),
            "Name fewer folders (reload_dir), or raise fs.inotify.max_user_watches with sysctl.",
        ),
        (FileNotFoundError("No such file or directory."), "Name other folders (reload_dir)."),
        (RuntimeError("error creating recommended watcher"), "Name other folders (reload_dir)."),
    ],
)
def test_folders_that_can_not_be_watched_are_one_sentence(tmp_path, monkeypatch, error, end):
    watchfiles = pytest.importorskip("watchfiles")

    def watch(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(watchfiles, "watch", watch)
    monkeypatch.chdir(tmp_path)
    ours, theirs = channel.pair()
    with ours, theirs:
        assert run(plan_of("app:app"), None, theirs) == 3
        received = channel.receive(ours)
    assert received is not None
    report = decode_report(received[0])
    assert isinstance(report, Failed)
    said = str(error).rstrip(".")
    assert report.sentence == f"reload: changes in {tmp_path} can't be watched: {said}. {end}"


# --- the parent -----------------------------------------------------------------------------------------


def changes(parent: Stage, *names: str) -> None:
    with open(parent.folder / "changes", "w", encoding="utf-8") as fifo:
        fifo.write("\n".join(names) + "\n")


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "changes")


pytestmark = pytest.mark.usefixtures("fifo")


def test_a_change_is_a_reload(tmp_path, preload):
    with stage(tmp_path, reload=True, workers=2, preload=preload) as parent:
        old = serving(parent, 2)
        changes(parent, "app.py")
        new = parent.next_all("join", 2, pool=1)
        assert not {told["worker_pid"] for told in new} & set(old)
        parent.until(lambda: not any(map(alive, old)))
        assert_told(parent, "app.py changed: reloading.")
        parent.signal(signal.SIGTERM)
        parent.next("watcher leaves")
        assert parent.ends() == 0


def test_nothing_is_imported_before_changes_are_noticed(tmp_path):
    with stage(tmp_path, reload=True) as parent:
        serving(parent)
        what = [one["what"] for one in [*parent.heard]]
        assert what.index("watcher") < what.index("ready")
        watcher = parent.next("watcher")
        assert watcher["fds"] == 5  # its streams, its orders, and one for looking
        assert watcher["path"] == str(tmp_path)
        assert watcher["imported_since"] is None


def test_a_watcher_after_another_one_knows_since_when_changes_count(tmp_path):
    """The newest import's beginning: what changed after that was perhaps not read."""
    with stage(tmp_path, reload=True) as parent:
        serving(parent)
        first = parent.next("watcher")
        before = time.time()
        changes(parent, "app.py")
        parent.next("join", pool=1)
        os.kill(first["pid"], signal.SIGKILL)
        second = parent.next("watcher")
        assert before <= second["imported_since"] <= time.time()


def test_at_the_first_start_an_application_that_fails_waits_for_a_change(tmp_path, preload):
    with_script(tmp_path, worker="fails")
    with stage(tmp_path, reload=True, workers=2, preload=preload) as parent:
        parent.until(lambda: "does not work. Waiting for a change." in parent.log())
        parent.next("ready", pool=0)
        changes(parent, "app.py")  # it fails again, and says so again, traceback and all
        parent.until(lambda: parent.log().count("Waiting for a change.") == 2)
        assert preload or parent.log().count("Traceback of the application") == 2
        parent.script()
        changes(parent, "app.py")
        serving(parent, 2)
        assert_told(parent, "app.py changed: trying again.")


@pytest.mark.parametrize("does", ["dies", "hangs"])
def test_what_else_goes_wrong_at_the_first_start_waits_for_a_change_too(tmp_path, does, preload):
    if does == "dies" and preload:
        pytest.skip("a template has no such script")
    with_script(tmp_path, worker=does)
    with stage(tmp_path, reload=True, preload=preload, startup_timeout=3) as parent:
        parent.until(lambda: "Waiting for a change." in parent.log())
        parent.script()
        parent.signal(signal.SIGHUP)  # as good as a change
        serving(parent)


def test_an_application_that_died_and_can_not_be_imported_waits_for_a_change(tmp_path):
    with stage(tmp_path, reload=True) as parent:
        (worker,) = serving(parent)
        parent.script(worker="fails")
        os.kill(worker, signal.SIGKILL)
        parent.until(lambda: "Waiting for a change." in parent.log())
        parent.script()
        changes(parent, "app.py")
        parent.next("join", pool=1)


def test_a_change_that_fails_leaves_the_old_workers_and_the_next_one_is_taken(tmp_path, preload):
    with stage(tmp_path, reload=True, preload=preload) as parent:
        (old,) = serving(parent)
        parent.script(worker="fails")
        changes(parent, "app.py")
        parent.until(lambda: parent.log().count(": reload failed") == 1)
        changes(parent, "app.py")
        parent.until(lambda: parent.log().count(": reload failed") == 2)
        assert preload or parent.log().count("Traceback of the application") == 2
        assert alive(old)
        parent.script()
        changes(parent, "app.py", "b.py")
        parent.next("join", pool=1)
        parent.until(lambda: not alive(old))


def test_ctrl_c_ends_all_at_once_while_requests_are_in_flight(tmp_path):
    """In development nobody wants to wait for an event stream's end."""
    with_script(tmp_path, drain_takes=1000)
    with stage(tmp_path, reload=True) as parent:
        serving(parent)
        parent.signal(signal.SIGINT)
        assert parent.next("drain")["seconds"] == 0
        assert parent.ends() == 0


def test_ctrl_c_while_it_waits_for_a_change(tmp_path):
    with_script(tmp_path, worker="fails")
    with stage(tmp_path, reload=True) as parent:
        parent.until(lambda: "Waiting for a change." in parent.log())
        parent.signal(signal.SIGINT)
        assert parent.ends() == 0


def test_a_watcher_that_can_not_watch_ends_the_start_with_its_sentence(tmp_path):
    with_script(tmp_path, watcher="fails")
    with stage(tmp_path, reload=True) as parent:
        assert parent.ends() == 2
        assert_told(parent, "halfsync: It can't be watched.\n")


def test_a_watcher_that_dies_is_replaced_and_nothing_else(tmp_path):
    with stage(tmp_path, reload=True) as parent:
        (worker,) = serving(parent)
        os.kill(parent.next("watcher")["pid"], signal.SIGKILL)
        second = parent.next("watcher")["pid"]
        assert_told(parent, "was killed by SIGKILL. Changes are not noticed; the next try is at once.")
        assert alive(worker)
        parent.until(lambda: f"watcher [{second}] is ready" in parent.log())
        changes(parent, "app.py")
        parent.next("join", pool=1)


def test_if_the_parent_is_killed_the_watcher_is_not_left(tmp_path):
    with stage(tmp_path, reload=True) as parent:
        serving(parent)
        watcher = parent.next("watcher")["pid"]
        assert watcher in descendants(parent.process.pid)
        parent.process.kill()
        parent.until(lambda: not alive(watcher))


def test_without_reload_there_is_no_watcher(tmp_path):
    with stage(tmp_path) as parent:
        serving(parent)
        parent.signal(signal.SIGTERM)
        assert parent.ends() == 0
        assert not any(one["what"] == "watcher" for one in parent.heard)
