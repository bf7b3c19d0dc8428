"""Too little of something: before the start, during it, and after.

A row of the table says what runs short and in which process, what a request that needs it gets meanwhile, and
what the log says then. All other requests are served meanwhile, and when the shortage is over everything
is served again within SOON.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from halfsync.parent import machine
from halfsync.pump import acceptor
from halfsync.settings.table import Settings
from tests.command_line import ended
from tests.e2e.harness import (
    APPS,
    AT_ONCE,
    LONG,
    MIB,
    SOURCES,
    Client,
    Server,
    digest,
    kill,
    pattern,
    serving,
    until,
)

SOON = 4 * AT_ONCE
"""Seconds until all is as before; what there is too little of is looked for once a second at most."""
LARGE = pattern(MIB)
TINY_FILE = 64 * 1024
LITTLE_MEMORY = 16 * MIB

TARGET = "hog:app"
HOG = """\
from story import app as story

def app(environ, start):
    if environ["PATH_INFO"] == "/hog":
        start("200 OK", [])
        return [b"%d" % len(bytes(64 << 20))]
    return story(environ, start)
"""


@contextlib.contextmanager
def limited(pids: list[int], which: int, value: int) -> Iterator[None]:
    """The soft limit of the processes, until the end of the block."""
    before = {pid: resource.prlimit(pid, which) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, which, (value, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, which, limits)


def first_free(pid: int) -> int:
    """The lowest descriptor that is not open: with this as its limit a process can't open one more."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return min(set(range(len(used) + 1)) - used)


def address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[0]) * resource.getpagesize()


# --- what runs short ------------------------------------------------------------------------------


@contextlib.contextmanager
def no_room_for_request_bodies(server: Server) -> Iterator[None]:
    with limited([server.pump], resource.RLIMIT_FSIZE, TINY_FILE):
        yield


@contextlib.contextmanager
def no_room_for_responses(server: Server) -> Iterator[None]:
    with limited(server.workers(TARGET), resource.RLIMIT_FSIZE, TINY_FILE):
        yield


@contextlib.contextmanager
def no_room_for_the_access_log(server: Server) -> Iterator[None]:
    """It is larger than a file may be now; the error log is not."""
    with limited(server.workers("built-in"), resource.RLIMIT_FSIZE, TINY_FILE):
        yield


@contextlib.contextmanager
def no_temporary_folder(server: Server) -> Iterator[None]:
    shutil.rmtree(server.folder / "spool")
    try:
        yield
    finally:
        (server.folder / "spool").mkdir()


@contextlib.contextmanager
def a_full_disk(server: Server) -> Iterator[None]:
    """A real one, over the folder of temporary files."""
    folder = server.folder / "spool"
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def no_memory_in_a_worker(server: Server) -> Iterator[None]:
    (worker,) = server.workers(TARGET)
    # It serves when its first thread does. The others need memory too, or the worker ends.
    server.until(lambda: len(list(Path(f"/proc/{worker}/task").iterdir())) > Settings().threads)
    with limited([worker], resource.RLIMIT_AS, address_space(worker) + LITTLE_MEMORY):
        yield


# --- what needs it ---------------------------------------------------------------------------------


def upload(server: Server) -> str:
    """A request body that goes to a file."""
    answer = server.get("/received", method="POST", body=LARGE)
    if answer.status == 200:
        assert answer.body.decode() == f"{len(LARGE)} {digest(LARGE)}"
    return str(answer.status)


def download(server: Server) -> str:
    """A response that goes to a file."""
    answer = server.get(f"/whole?size={len(LARGE)}")
    if answer.status != 200:
        return str(answer.status)
    if not answer.whole:
        return "cut short"
    assert answer.body == LARGE
    return "200"


def memory_hog(server: Server) -> str:
    """A response that takes a lot of memory to make."""
    return str(server.get("/hog").status)


def small(server: Server) -> str:
    """Neither needs room on a disk, nor much memory."""
    answers = server.get("/hello"), server.get("/public/file"), server.get("/echo", method="POST", body=b"x")
    assert [answer.body for answer in answers] == [b"hello\n", b"a file\n", b"x"]
    return "200"


@dataclass(frozen=True)
class Shortage:
    of: Callable[[Server], contextlib.AbstractContextManager[None]]
    needs_it: Callable[[Server], str]
    gets: set[str]
    logged: str
    logged_afterwards: str = ""


SHORTAGES = [
    Shortage(no_room_for_request_bodies, upload, {"507"}, "body of .*: File too large"),
    Shortage(a_full_disk, upload, {"507"}, "body of .*: No space left on device"),
    Shortage(no_temporary_folder, upload, {"507"}, "body of .*: No such file"),
    Shortage(no_room_for_responses, download, {"500", "cut short"}, "File too large"),
    Shortage(no_temporary_folder, download, {"500", "cut short"}, "No such file"),
    Shortage(no_memory_in_a_worker, memory_hog, {"500"}, "MemoryError"),
    Shortage(
        no_room_for_the_access_log,
        small,
        {"200"},
        "The access log can't be written: File too large",
        r"The access log is written again; about \d+ records were dropped",
    ),
]


def all_is_well(server: Server) -> bool:
    try:
        return [need(server) for need in (small, upload, download, memory_hog)] == ["200"] * 4
    except (AssertionError, OSError):  # no response, or not the right one
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return furnished(tmp_path)


def furnished(folder: Path) -> Path:
    (folder / "public").mkdir()
    (folder / "public/file").write_text("a file\n")
    (folder / "spool").mkdir()
    (folder / "hog.py").write_text(HOG)
    (folder / "access.log").write_text("an old line\n" * TINY_FILE)
    return folder


@contextlib.contextmanager
def story(folder: Path, *more: str) -> Iterator[Server]:
    given = ("--spool-dir", str(folder / "spool"), "--access-logfile", "access.log", *more)
    with serving(folder, TARGET, "/public=./public", *given) as server:
        server.tracebacks = -1  # of MemoryError and its like, which are the application's
        yield server


@pytest.fixture(scope="module", params=[(), ("--preload",)], ids=["forked", "preloaded"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all shortages that end while it runs."""
    with story(furnished(tmp_path_factory.mktemp("shared")), *request.param) as server:
        yield server


of_shortages = pytest.mark.parametrize(
    "shortage", SHORTAGES, ids=lambda one: f"{one.of.__name__}-{one.needs_it.__name__}"
)


@of_shortages
def test_a_shortage_while_the_server_runs(shared: Server, shortage: Shortage):
    server = shared
    with server.client() as kept:
        assert all_is_well(server)
        assert kept.ask("/hello").status == 200
        before = len(server.log())
        with shortage.of(server):
            for _ in range(3):
                assert shortage.needs_it(server) in shortage.gets
                small(server)
            server.until(lambda: re.search(shortage.logged, server.log()[before:]))
        server.until(lambda: all_is_well(server), SOON)
        server.until(lambda: re.search(shortage.logged_afterwards, server.log()[before:]))
        assert kept.ask("/hello").status == 200, "who did not need it has noticed nothing"


@of_shortages
def test_a_shortage_while_the_server_reloads(shared: Server, shortage: Shortage):
    """It keeps nobody from reloading, and ends for the new workers as for the old ones."""
    server = shared
    (old,) = server.workers(TARGET)
    with shortage.of(server):
        server.signal(signal.SIGHUP)
        server.until(lambda: any(pid != old for pid in server.workers(TARGET)))
        server.until_gone([old])
        small(server)
    server.until(lambda: all_is_well(server), SOON)


# --- before and during the start -------------------------------------------------------------------


def started(folder: Path, *arguments: str, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A server that ends by itself."""
    environment = {**os.environ, "PYTHONPATH": f"{SOURCES}:{APPS}", "PYTHONDONTWRITEBYTECODE": "1"}
    return ended(folder, "-b", "127.0.0.1:0", *arguments, through=through, environment=environment)


HUNGRY = """\
import os, resource
def limit(more):
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))
from story import app
"""


def test_an_application_that_finds_no_memory_at_the_first_start(folder: Path):
    """One sentence, and exit status 2."""
    (folder / "hungry.py").write_text(HUNGRY + "limit(1 << 20)\nx = bytes(64 << 20)\n")
    done = started(folder, "hungry:app")
    assert done.returncode == 2, done.stderr
    assert "MemoryError" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("halfsync: ")


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_an_application_that_finds_no_memory_at_a_reload(folder: Path, preload: tuple[str, ...]):
    """The old workers keep serving, and when there is memory again the next reload succeeds."""
    (folder / "hungry.py").write_text(
        HUNGRY + "if os.path.exists('short'):\n    limit(1 << 20)\n    x = bytes(64 << 20)\n"
    )
    with serving(folder, "hungry:app", *preload) as server:
        server.tracebacks = -1
        (old,) = server.workers("hungry:app")
        (folder / "short").touch()
        server.signal(signal.SIGHUP)
        server.until_logged("MemoryError")
        assert server.get("/hello").body == b"hello\n"
        assert server.workers("hungry:app") == [old]
        (folder / "short").unlink()
        server.signal(signal.SIGHUP)
        server.until_gone([old])
        assert server.get("/hello").body == b"hello\n"


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
@pytest.mark.parametrize(
    "shortage",
    ["limit(256 << 10)", "import threading; threading.stack_size(1 << 47)"],
    ids=["memory", "stacks"],
)
def test_a_worker_without_room_for_its_threads_at_the_first_start(
    folder: Path, shortage: str, preload: tuple[str, ...]
):
    """It is not said to serve: one sentence, and exit status 2."""
    (folder / "hungry.py").write_text(HUNGRY + "limit(256 << 10)\n")
    done = started(folder, "hungry:app", "--threads", "3", *preload)
    assert done.returncode == 2, done.stderr
    *_, sentence = done.stderr.splitlines()
    assert sentence.startswith("halfsync: Target 'hungry:app': its 3 threads can't be started: "), done.stderr
    assert "(ulimit -u, ulimit -v, TasksMax, or too little memory)." in sentence
    assert " serves " not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", [1, 4])
def test_too_few_descriptors_for_a_start(folder: Path, workers: int):
    """From hardly enough for Python itself on: one sentence that says how many it takes, which is true."""
    least = 0
    for limit in (5, 6, 9, 13, 16, 20) if workers == 1 else (5, 20):
        done = started(folder, "story:app", "-w", str(workers), through=("prlimit", f"--nofile={limit}"))
        assert done.returncode == 2, done.stderr
        [sentence] = done.stderr.splitlines()
        told = re.fullmatch(
            rf"halfsync: Each process may have {limit} files open here \(ulimit -n, LimitNOFILE\), and with "
            rf"{workers + 1} worker processes (\d+) is the least that works; each client takes one more\.",
            sentence,
        )
        assert told, sentence
        least = int(told[1])
    through = ("prlimit", f"--nofile={least}")
    with serving(folder, "story:app", "-w", str(workers), through=through) as server:
        for _ in range(10):
            assert server.get("/hello").body == b"hello\n"
        server.until(lambda: len(server.workers("story:app")) == workers)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.client(seconds=AT_ONCE)) for _ in range(acceptor.FEWEST)]
            for _ in range(3):
                for client in clients:
                    assert client.ask("/hello").body == b"hello\n", "each has its descriptor, and keeps it"


def test_the_least_of_descriptors_is_the_pumps():
    assert (machine.PUMPS_OWN, machine.FEWEST_CLIENTS) == (acceptor.OWN, acceptor.FEWEST)


def test_a_worker_without_memory_for_its_threads_after_a_good_one(folder: Path):
    """Tried again with pauses; when there is memory again, requests that waited are answered."""
    (folder / "hungry.py").write_text(HUNGRY + "if os.path.exists('short'):\n    limit(256 << 10)\n")
    with serving(folder, "hungry:app") as server:
        server.tracebacks = -1
        (folder / "short").touch()
        os.kill(server.workers("hungry:app")[0], signal.SIGKILL)
        server.until_logged(r"its 8 threads can't be started: .* Another starts in 1 s", 2)
        with server.client() as client:
            client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            (folder / "short").unlink()
            assert client.answer().body == b"hello\n"


def test_files_may_not_grow_from_the_start_on(folder: Path):
    """Inherited by all: small requests are served, large ones get their 507, until it is lifted."""
    with story(folder) as server:
        with limited([server.process.pid], resource.RLIMIT_FSIZE, 2 * TINY_FILE):
            kill(server.pump, *server.workers(TARGET), *server.workers("built-in"))
            server.until(lambda: server.workers(TARGET) and server.workers("built-in"))
            small(server)
            assert upload(server) == "507"
            short = [pid for pid in server.processes() if pid != server.process.pid]
        for pid in short:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        server.until(lambda: all_is_well(server), SOON)


def listens(path: str) -> bool:
    """A socket has its name a moment before it takes connections."""
    try:
        Client(path).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nobody_takes_the_error_log(folder: Path, where: str):
    """A full disk behind standard error, or none at all: it serves, reloads and stops as ever, and no
    response has a log line in it."""
    environment = {**os.environ, "PYTHONPATH": f"{SOURCES}:{APPS}", "PYTHONDONTWRITEBYTECODE": "1"}
    serve = f"{sys.executable} -m halfsync -b unix:socket --log-level debug story:app /public=./public"
    process = subprocess.Popen(["sh", "-c", f"exec {serve} {where}"], cwd=folder, env=environment)
    try:
        until(lambda: listens(str(folder / "socket")))
        for _ in range(2):
            for _ in range(5):
                with Client(str(folder / "socket")) as client:
                    assert client.ask("/hello").body == b"hello\n"
                    assert client.ask("/public/file").body == b"a file\n"
                    assert client.ask("/received", method="POST", body=LARGE).status == 200
                    assert client.ask("/fail").status == 500
            process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.wait(LONG) == 0
    finally:
        process.kill()
        process.wait()


# --- the parent's and the pump's own ---------------------------------------------------------------


def test_the_parent_has_no_descriptor_for_a_reload(folder: Path):
    """It says why, the old workers keep serving, and as soon as there is room again it is done."""
    with story(folder) as server:
        (old,) = server.workers(TARGET)
        with limited([server.process.pid], resource.RLIMIT_NOFILE, first_free(server.process.pid)):
            server.signal(signal.SIGHUP)
            server.until_logged(
                r"The reload can't begin now: this process has as many files open as it may "
                r"\(ulimit -n, LimitNOFILE\)\. It is tried again every second"
            )
            small(server)
            assert server.workers(TARGET) == [old]
        server.until(lambda: server.workers(TARGET) not in ([], [old]))
        server.until(lambda: all_is_well(server), SOON)


def test_the_pump_has_no_memory(folder: Path):
    """Whatever it costs the connections of that moment: it serves again as soon as there is some."""
    with story(folder) as server:
        assert all_is_well(server)
        with limited([server.pump], resource.RLIMIT_AS, address_space(server.pump)):
            clients = []
            for _ in range(40):
                with contextlib.suppress(OSError, AssertionError):
                    clients.append(client := server.client(seconds=AT_ONCE))
                    client.send(
                        b"POST /received HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" + b"x" * 20_000
                    )
            for client in clients:
                with contextlib.suppress(OSError):
                    client.send(b"x" * 10_000)
        for client in clients:
            client.close()
        server.until(lambda: all_is_well(server), SOON)
