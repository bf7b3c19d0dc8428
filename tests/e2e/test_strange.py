"""The strange tests: everything at once, nothing at all, too little of something, and a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import (
    APPS,
    LONG,
    MIB,
    SOURCES,
    Client,
    Crowd,
    Server,
    freeze,
    frozen,
    judged,
    request,
    serving,
    until,
)

# --- everything at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_whatever_happens_in_whatever_order_it_serves_on(tmp_path, preload):
    """Processes of all kinds die during reloads, reopened logs and workers that come and go; no response is
    wrong, and afterwards the tree is what it should be."""
    chance = random.Random(7)
    logs = ("--access-logfile", "access", "--graceful-timeout", "2")
    with serving(tmp_path, "story:app", "-w", "2", "--threads", "4", *logs, *preload) as server:

        def kill(pids: list[int]) -> None:
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(pids), signal.SIGKILL)

        def something_happens() -> None:
            what = chance.choice(
                ["HUP", "HUP", "USR1", "TTIN", "TTOU", "worker", "worker", "built-in", "pump"]
            )
            if what == "pump":
                kill(server.pumps()[-1:])
            elif what in ("worker", "built-in"):
                kill(server.workers("story:app" if what == "worker" else what))
            else:
                server.signal(signal.Signals[f"SIG{what}"])

        with Crowd(server, ["/digested", "/digested?counted=1"] * 2, judged) as crowd:
            for _ in range(25):
                something_happens()
                crowd.until_seen(chance.choice([1, 10, 30]))
            server.until(lambda: crowd.seen.count("right") > 200)
        assert crowd.wrong == []
        assert server.get("/hello").body == b"hello\n"
        server.until(lambda: len(server.workers("built-in")) == 1)


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGHUP, signal.SIGTERM],
        [signal.SIGHUP] * 10 + [signal.SIGTERM],
        [signal.SIGUSR1, signal.SIGHUP, signal.SIGTTIN, signal.SIGTERM],
        [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1],
    ],
    ids=lambda numbers: "-".join(dict.fromkeys(number.name for number in numbers)),
)
def test_a_stop_among_other_signals_is_a_good_stop(tmp_path, numbers):
    with serving(tmp_path, "story:app", "-w", "2") as server:
        assert server.get("/hello").status == 200
        for number in numbers:
            server.signal(number)
        assert server.ends() == 0


# --- nothing at all --------------------------------------------------------------------------------


def busy(server: Server) -> float:
    """Seconds of processor time that the tree has used."""
    ticks = 0
    for pid in server.processes():
        numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(numbers[11]) + int(numbers[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy_for_a_second(server: Server) -> float:
    """One that spins needs all of it, or its share of a busy machine, each time."""
    before, begun = busy(server), time.monotonic()
    until(lambda: time.monotonic() > begun + 1)
    return busy(server) - before


def test_nobody_spins_while_clients_do_nothing(tmp_path):
    """Connections of every kind that wait for something, half of them half-closed, for a second."""
    (tmp_path / "large").write_bytes(bytes(32 * MIB))
    arguments = ("/large=.", "--threads", "8", "--reply-spool", "1M", "--linger-timeout", "20")
    with serving(tmp_path, "story:app", *arguments) as server, contextlib.ExitStack() as stack:
        clients: list[Client] = []

        def client(data: bytes) -> None:
            clients.append(stack.enter_context(server.client(receive_buffer=8192)))
            clients[-1].send(data)

        for half_closed in (False, True):
            name = f"there-{half_closed}"
            client(request("/slow_exactly?file=never"))
            client(request(f"/endless?file={name}"))
            client(request("/large/large"))
            client(b"GET / HTTP/1.1\r\nHost: a\r\n")
            client(b"POST /received HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
            client(b"POST /received HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\nhalf")
            client(request("/endless?file=other") + b"x" * 100_000)  # goes on sending while it does not read
            assert clients[-1].socket.recv(1) == b"H"
            if half_closed:
                for one in clients[-7:]:
                    one.socket.shutdown(1)
        until(lambda: busy_for_a_second(server) < 0.5)  # what came before may take its time
        for number in range(2):
            assert server.get("/hello", f"X: {number}").body == b"hello\n"
        server.signal(signal.SIGQUIT)
        server.ends()


# --- nothing is left over ----------------------------------------------------------------------------


def open_files(server: Server) -> dict[int, int]:
    pids = (server.pump, *server.workers("story:app"), *server.workers("built-in"))
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}


def test_no_descriptor_is_left_over_by_good_clients_or_bad_ones(tmp_path):
    """Files, spools and pipes of responses that were read, left or never read; uploads that came or not."""
    (tmp_path / "large").write_bytes(bytes(3 * MIB))
    arguments = ("/files=.", "--threads", "2", "--lease", "0.05", "--reply-spool", "1M")
    with serving(tmp_path, "story:app", *arguments) as server:
        targets = ["/files/large", "/files/large?v", "/wrapped?file=large", "/whole?size=600000", "/whole"]
        targets += ["/pieces?size=600000", "/pieces?size=3000000", "/hello", "/fail", "/status?line=204%20No"]
        uploads = [b"x" * 10, b"x" * 100_000]

        def all_of_it() -> None:
            for target in targets:
                server.get(target)
                server.get(target, "Range: bytes=5-9")
                server.get(target, method="HEAD")
                with server.client(receive_buffer=8192) as leaver:
                    leaver.send(request(target))
                    leaver.socket.recv(1)
            for body in uploads:
                server.get("/echo", method="POST", body=body)
                with server.client() as leaver:
                    leaver.send(request("/echo", method="POST", body=body)[:-5])

        all_of_it()  # the first time, things may be opened for good
        server.tracebacks = -1
        before: dict[int, int] = {}

        def settled() -> bool:
            nonlocal before
            last, before = before, open_files(server)
            time.sleep(0.1)
            return last == before

        server.until(settled)
        most = before
        for _ in range(5):
            all_of_it()
        server.until(lambda: all(count <= most[pid] for pid, count in open_files(server).items()))


# --- too little of something -----------------------------------------------------------------------


def test_without_descriptors_idle_connections_make_room(tmp_path):
    """50 descriptors for 120 clients: who has been answered and idles longest is closed; everybody is
    served."""
    with serving(tmp_path, "story:app") as server, contextlib.ExitStack() as stack:
        resource.prlimit(server.pump, resource.RLIMIT_NOFILE, (50, 50))
        for _ in range(120):
            client = stack.enter_context(server.client())
            assert client.ask("/hello").body == b"hello\n"
        assert client.ask("/hello").body == b"hello\n"  # the youngest is kept


def test_without_descriptors_and_idle_ones_new_clients_wait(tmp_path):
    """All are in the middle of an upload: none is thrown out, nothing spins, and the next one is served when
    one of them leaves."""
    with serving(tmp_path, "story:app") as server, contextlib.ExitStack() as stack:
        resource.prlimit(server.pump, resource.RLIMIT_NOFILE, (50, 50))
        uploads = [stack.enter_context(server.client()) for _ in range(60)]
        for upload in uploads:
            upload.send(b"POST /received HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        server.until_logged(r"out of file descriptors \(.*\): Too many open files")
        late = stack.enter_context(server.client())
        late.send(request("/hello"))
        for upload in uploads:
            upload.send(b"def")
        for upload in uploads:
            assert upload.answer().body.startswith(b"6 ")
            upload.close()
        assert late.answer().body == b"hello\n"


def test_a_spool_that_is_full_costs_its_own_request_only(tmp_path):
    """Neither an upload nor a response finds room in a file (of more than 1 MiB, here)."""
    with serving(tmp_path, "story:app") as server, server.client() as client:
        server.tracebacks = -1
        for pid in (server.pump, *server.workers("story:app")):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (MIB, MIB))
        assert client.ask("/hello").status == 200
        answer = server.get("/received", method="POST", body=b"x" * 3 * MIB)
        assert answer.status == 507
        assert not server.get("/pieces?size=4000000").whole
        assert client.ask("/hello").status == 200
        assert client.ask("/received", method="POST", body=b"x" * 1000).status == 200


# --- somebody is frozen ----------------------------------------------------------------------------


def test_a_frozen_worker_stops_nobody_but_its_own_clients(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public/file").write_text("a file\n")
    arguments = ("/public=./public", "/other=story:create_app()", "--lease", "0")
    with serving(tmp_path, "story:app", *arguments) as server, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(server.client()) for _ in range(300)]
        with frozen(server.workers("story:app")[0]):
            for client in waiting:
                client.send(request("/echo", method="POST", body=b"x" * 30_000))
            for _ in range(20):
                assert server.get("/public/file").body == b"a file\n"
                assert server.get("/other").status == 200
        for client in waiting:
            assert client.answer().body == b"x" * 30_000


def test_a_frozen_built_in_worker_stops_no_application_and_loses_no_line(tmp_path):
    logs = ("--access-logfile", "access", "--access-logformat", "%U %k")
    with serving(tmp_path, "story:app", *logs) as server, server.client() as client:
        with frozen(server.workers("built-in")[0]):
            for _ in range(3):
                client.send(request("/hello") * 1000)
                for _ in range(1000):
                    assert client.answer().body == b"hello\n"
        server.until(lambda: (tmp_path / "access").read_text().count("\n") == 3000)
        lines = (tmp_path / "access").read_text().splitlines()
        assert lines == [f"/hello {number}" for number in range(3000)]


def test_a_frozen_parent_stops_nobody(tmp_path):
    with serving(tmp_path, "story:app") as server:
        with frozen(server.process.pid):
            for _ in range(20):
                assert server.get("/hello").status == 200
            server.signal(signal.SIGTERM)
        assert server.ends() == 0


def test_a_frozen_pump_that_is_killed_gives_way_to_another(tmp_path):
    with serving(tmp_path, "story:app") as server, server.client() as client:
        pump = server.pump
        assert client.ask("/hello").status == 200  # or it may still wait to be accepted, by the next one too
        freeze(pump)
        client.send(request("/hello"))
        os.kill(pump, signal.SIGKILL)
        assert client.rest() == b""
        assert server.get("/hello").status == 200


# --- an application's own processes ---------------------------------------------------------------

STARTING = """
import subprocess

SHOW = "grep -E 'Sig(Ign|Blk)' /proc/self/status; ls -l /proc/self/fd"

def app(environ, start):
    start("200 OK", [])
    return [subprocess.run(["sh", "-c", SHOW], close_fds=False, capture_output=True).stdout]
"""


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_programs_that_an_application_starts_inherit_nothing_of_ours(tmp_path, preload):
    """No signal that is ignored or blocked, no socket, even if they are given all that may be inherited.
    (Without a terminal, as a service is; with one, see below.)"""
    (tmp_path / "starting.py").write_text(STARTING)
    with serving(tmp_path, "starting:app", *preload, through=("setsid",)) as server:
        shown = server.get("/").body.decode()
    status = Path("/proc/self/status").read_text()
    ours = dict(line.split() for line in status.splitlines() if line.startswith("Sig"))
    for line in shown.splitlines():
        if line.startswith("Sig"):
            name, mask = line.split()
            # SIGPIPE (13) and SIGXFSZ (25) are restored by subprocess; what is ignored here is there, too
            assert int(mask, 16) & ~(1 << 12 | 1 << 24 | int(ours[name], 16)) == 0, shown
    assert "socket:" not in shown
    assert "memfd:" not in shown


IN_BACKGROUND = """
import fcntl, os, pty, signal, sys, termios

# the shell: the terminal's foreground, and the parent of the server's process group
os.setsid()
master, terminal = pty.openpty()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
server = os.fork()
if server == 0:
    os.setpgid(0, 0)
    os.execv(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: os.kill(server, signal.SIGTERM))
os._exit(os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]))
"""

READING = """
import os

def app(environ, start):
    terminal = os.open("/dev/tty", os.O_RDWR)
    try:
        os.read(terminal, 1)
    except OSError as error:
        said = error.strerror
    finally:
        os.close(terminal)
    start("200 OK", [])
    return [said.encode()]
"""


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_a_read_from_the_terminal_fails_in_the_background(tmp_path, preload):
    """It neither stops the worker nor is repeated for ever, and is no request for more workers."""
    (tmp_path / "reading.py").write_text(READING)
    shell = (sys.executable, "-c", IN_BACKGROUND)
    with serving(tmp_path, "reading:app", *preload, through=shell) as server:
        for _ in range(3):
            assert server.get("/").body == b"Input/output error"
        assert "from now on" not in server.log()


# --- leases of an application ----------------------------------------------------------------------

LEASING = """
import itertools
count = itertools.count(1)

def app(environ, start):
    environ["halfsync.lease"](30, *environ["QUERY_STRING"].split(","))
    fields = [("Set-Cookie", "a=b")] if environ["PATH_INFO"] == "/cookie" else []
    start("200 OK", fields)
    return [b"%d" % next(count)]
"""


def test_an_application_can_give_a_lease(tmp_path):
    """Then it is not asked again for the same site, target and values of the fields that it named; a response
    that sets a cookie is never repeated."""
    (tmp_path / "leasing.py").write_text(LEASING)
    with serving(tmp_path, "leasing:app") as server, server.client() as client:
        first = client.ask("/a?accept-language", "Accept-Language: de").body
        for _ in range(3):
            assert client.ask("/a?accept-language", "Accept-Language: de", "Cookie: x=1").body == first
        assert server.get("/a?accept-language", "Accept-Language: de").body == first
        assert client.ask("/a?accept-language", "Accept-Language: fr").body != first
        assert client.ask("/a?accept-language").body != first
        assert client.ask("/b?accept-language", "Accept-Language: de").body != first
        other = client.ask("http://other.test/a?accept-language", "Accept-Language: de").body
        assert other != first
        posted = client.ask("/a?accept-language", "Accept-Language: de", method="POST", body=b"x").body
        assert posted != first
        cookies = {client.ask("/cookie?accept").body for _ in range(3)}
        assert len(cookies) == 3


# --- a terminal ------------------------------------------------------------------------------------


@pytest.fixture
def terminal(tmp_path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """halfsync in the foreground of a terminal, and the other end of that."""
    ours, its = os.openpty()
    (tmp_path / "public").mkdir()
    code = "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); runpy.run_module('halfsync')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "-b", "127.0.0.1:0", "story:app", "/public=./public", "-w", "2"],
        cwd=tmp_path,
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{APPS}", "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )
    os.close(its)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_NONBLOCK)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_on_a_terminal_it_says_what_it_serves_and_where_and_ctrl_c_stops_it(terminal):
    process, screen = terminal
    shown = bytearray()

    def shows(words: bytes) -> bool:
        with contextlib.suppress(OSError):
            shown.extend(os.read(screen, 10_000))
        return words in shown

    until(lambda: shows(b"Ctrl-C stops it."), LONG, lambda: repr(shown))
    text = shown.decode()
    lines = [line.split() for line in text.splitlines()]
    assert ["/", "story:app", "2", "processes", "of", "8", "threads"] in lines
    assert ["/public", "./public", "files"] in lines
    address = text.partition("http://")[2].split()[0]
    with Client(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
        assert client.ask("/hello").body == b"hello\n"
    attributes = termios.tcgetattr(screen)
    assert attributes[3] & termios.ISIG
    os.write(screen, b"\x03")
    until(lambda: shows(b"stopped.") or process.poll() is not None)
    assert process.wait(LONG) == 0
    assert b"Traceback" not in shown
