"""A real server for the tests, and clients that see every byte.

`serving(folder, "app:app", ...)` starts `python -m halfsync` in `folder`, on a port that the kernel
chooses, waits until it says that it serves, and stops it at the end. A test fails if the error log
then holds a traceback that it did not expect, or if any process of the tree is left: all of
them carry a mark in their environment, by which even orphans are found.

Since there are hundreds of servers, most are forked from a process that has imported the code
(tests/launcher.py). `serving_by_command` starts one by its command, as users do; so do all tests that give it
a variable that matters before its first line, or start it through another program.

Nothing here sleeps to let something happen; `until` polls a condition, with a deadline.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from faults.tree import Mark, is_alive, state
from tests.launcher import APPS as APPS
from tests.launcher import MARK, PATHS, TRANSPORTS, Launched, launch
from tests.launcher import SOURCES as SOURCES

HERE = Path(__file__).parent

WITH_TRANSPORT = """
import os, runpy, sys
del sys.path[0]
runpy.run_path({path!r})['install']({name!r})
sys.path.insert(0, os.environ["PWD"])  # as with -m
runpy.run_module("halfsync", run_name="__main__", alter_sys=True)
"""


COMMAND = [sys.executable, "-m", "halfsync"]
READ_BEFORE = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_")
"""What variables begin with that the interpreter and the C library read when they start."""


def transport() -> str | None:
    """The name of one that servers have in place of the plain socket."""
    name = os.environ.get("HALFSYNC_TEST_TRANSPORT")
    assert name != "tls", "only the tests of the pump can have that one: their clients speak it"
    return name


def command() -> list[str]:
    """What starts a server, with that transport."""
    if (name := transport()) is None:
        return COMMAND
    return [sys.executable, "-c", WITH_TRANSPORT.format(path=str(TRANSPORTS), name=name)]


LONG = 60.0
"""Seconds; far more than anything here takes. No test asks for speed."""
AT_ONCE = 10.0
"""Seconds within which comes what waits for nobody, also on a busy machine. What does wait, here, waits
for much longer: all time limits of the server's are above this, unless a test sets them."""

MIB = 1024 * 1024
T = TypeVar("T")


def until(holds: Callable[[], T], seconds: float = LONG, told: Callable[[], str] = str) -> T:
    """What `holds` gives, when that is true at last."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.01)
    return found


def pattern(size: int) -> bytes:
    """Bytes of which no two parts are alike, the same in every process."""
    blocks = (hashlib.sha512(number.to_bytes(8, "big")).digest() for number in range(-(-size // 64)))
    return b"".join(blocks)[:size]


def large(size: int) -> int:
    """The size of a large body: an eighth where it is read in small pieces (HALFSYNC_TEST_TRANSPORT)."""
    return size // 8 if transport() is not None else size


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- the server ------------------------------------------------------------------------------------


class Server:
    """A running halfsync."""

    def __init__(
        self,
        folder: Path,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        through: tuple[str, ...] = (),
        program: tuple[str, ...] = (),
        by_command: bool = False,
    ) -> None:
        """`through`: a command that does something first and then becomes the server (exec). `program`: what
        is started in place of this package's command. `by_command`: by exec, and not forked."""
        self.folder = folder
        self.tracebacks = 0  # that the test expects in the error log; -1: any number
        self._mark = Mark(MARK)
        self.errors = folder / f"errors-{self._mark.value[-8:]}"
        self.output = folder / f"output-{self._mark.value[-8:]}"
        inherited = {key: one for key, one in os.environ.items() if not key.startswith("HALFSYNC_")}
        whole = {
            **inherited,
            "PWD": str(folder),
            "PYTHONPATH": os.pathsep.join(PATHS),
            "PYTHONDONTWRITEBYTECODE": "1",
            # On a busy machine requests wait for as long as on one that is overloaded by requests.
            "HALFSYNC_QUEUE_TARGET": "0",
            self._mark.variable: self._mark.value,
            **environment,
        }
        more = ["--log-level", "debug", *arguments]
        by_command = by_command or bool(through or program)
        by_command = by_command or any(name.startswith(READ_BEFORE) for name in environment)
        with self.errors.open("wb") as errors, self.output.open("wb") as output:
            self.process: subprocess.Popen[bytes] | Launched
            if by_command:
                self.process = subprocess.Popen(
                    [*through, *(program or command()), *more],
                    cwd=folder,
                    env=whole,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                )
            else:
                self.process = launch(
                    [*COMMAND[1:], *more],
                    folder=folder,
                    environment=whole,
                    output=output.fileno(),
                    errors=errors.fileno(),
                    transport=transport(),
                )

    def log(self) -> str:
        return self.errors.read_text("utf-8", "replace")

    def until(self, holds: Callable[[], T], seconds: float = LONG) -> T:
        return until(holds, seconds, self.log)

    def until_logged(self, words: str, times: int = 1) -> None:
        """(A regular expression.)"""
        self.until(lambda: len(re.findall(words, self.log())) >= times)

    def wait_until_it_serves(self, seconds: float = LONG) -> None:
        self.until(lambda: " serves " in self.log() or self.process.poll() is not None, seconds)
        assert self.process.poll() is None, self.log()

    @property
    def addresses(self) -> list[str]:
        said = re.search(r" serves .* at (.*)", self.log())
        assert said, self.log()
        return said[1].split(", ")

    @property
    def port(self) -> int:
        return int(self.addresses[0].rpartition(":")[2])

    @property
    def url(self) -> str:
        return self.addresses[0]

    @property
    def pump(self) -> int:
        """Its process id. Where one has died, the next one may respond before the parent has said that it is
        started: then that is waited for."""
        return self.until(self.pumps)[-1]

    def pumps(self) -> list[int]:
        """Process ids of the living ones, the oldest first."""
        return self._living(r"pump \[(\d+)\] is started")

    def workers(self, name: str) -> list[int]:
        """Process ids of the living workers that were ready, the oldest first."""
        return self._living(rf"worker\({re.escape(name)}\) \[(\d+)\] is ready")

    def until_gone(self, pids: list[int]) -> None:
        self.until(lambda: not any(map(is_alive, pids)))

    def _living(self, words: str) -> list[int]:
        return [pid for found in re.findall(words, self.log()) if is_alive(pid := int(found))]

    def processes(self) -> list[int]:
        """All living ones of the tree."""
        return self._mark.processes()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, seconds: float = LONG) -> int:
        """Its exit status. Nothing of the tree is left then."""
        status = self.process.wait(seconds)
        self.until(lambda: not self.processes(), AT_ONCE)
        return status

    def stop(self) -> None:
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
                self.process.wait(LONG)
        finally:
            self.kill()
        left = self._left_over()
        assert not left, f"processes are left: {left}\n{self.log()}"
        log = self.log()
        assert "a bug, survived" not in log, log
        if self.tracebacks >= 0:
            assert log.count("Traceback (most recent call last)") == self.tracebacks, log

    def _left_over(self) -> list[int]:
        try:
            until(lambda: not self.processes(), AT_ONCE)
        except AssertionError:
            left = self.processes()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return left
        return []

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    # --- clients of it

    def client(self, **options: Any) -> Client:
        return Client(("127.0.0.1", self.port), **options)

    def get(self, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        """A response, on a connection of its own."""
        with self.client() as client:
            return client.ask(target, *fields, method=method, body=body)


@contextmanager
def serving(
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    bind: bool = True,
    through: tuple[str, ...] = (),
    program: tuple[str, ...] = (),
    by_command: bool = False,
    seconds: float = LONG,
) -> Iterator[Server]:
    """`seconds` is for the start."""
    where = ("-b", "127.0.0.1:0") if bind else ()
    server = Server(folder, (*where, *arguments), environment or {}, through, program, by_command)
    try:
        server.wait_until_it_serves(seconds)
        yield server
    except BaseException:
        server.kill()
        server._left_over()
        print(server.log()[-20_000:], file=sys.stderr)
        raise
    server.stop()


serving_by_command = functools.partial(serving, by_command=True)


def kill(*pids: int) -> None:
    """SIGKILL, and wait until nothing is left of them: the signal returns before their sockets are closed."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, pids)), told=lambda: f"{pids} do not end")


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until every thread stands still. The signal wakes up one thread, which stops the
    others when it gets its turn: until then they run, and on a busy machine for long enough to respond."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: stands_still(pid), told=lambda: f"{pid} is not stopped")


def stands_still(pid: int) -> bool:
    """Whether all threads of it are stopped."""
    tasks = f"/proc/{pid}/task"
    threads = os.listdir(tasks)
    # a thread that was listed while it ran may have ended, or started another one, before it stopped
    return all(state(f"{tasks}/{thread}") == "T" for thread in threads) and threads == os.listdir(tasks)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    try:
        freeze(pid)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def links(pid: int) -> list[str]:
    """What the process has open."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # and this is closed
                found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def resident(pid: int) -> int:
    """Bytes of the process's own memory that are in use (files that it maps do not count)."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("utf-8"))
    assert found
    return int(found[1]) * 1024


# --- clients ---------------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int
    line: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = True  # the body ended as its framing says
    closed: bool = False  # there was an end of file behind it

    def __getitem__(self, name: str) -> str:
        """All values of a field, joined; "" if it has none."""
        return ", ".join(value for key, value in self.fields if key.lower() == name.lower())


class Client:
    """One connection, one byte after the other. Fields `Host` and, for a body, `Content-Length` are added
    to what is asked; `send` sends what it gets and nothing else."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        seconds: float = LONG,
        receive_buffer: int = 0,
        source: str | None = None,
    ) -> None:
        """`source`: the address that it comes from."""
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.settimeout(seconds)
        self.unread = bytearray()
        try:
            self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
        self.send(request(target, *fields, method=method, body=body))
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """The next one, whole or cut short. 1xx responses are responses too."""
        head = self.until(b"\r\n\r\n")
        assert head, f"no answer, but {bytes(self.unread)!r}"
        line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (one.partition(":") for one in lines)]
        answer = Answer(int(line.split(" ")[1]), line, fields)
        if method != "HEAD" and answer.status >= 200 and answer.status not in (204, 304):
            self._read_body(answer)
        return answer

    def _read_body(self, answer: Answer) -> None:
        if answer["Transfer-Encoding"]:
            self._read_chunks(answer)
        elif answer["Content-Length"]:
            size = int(answer["Content-Length"])
            answer.body = self.take(size)
            answer.whole = len(answer.body) == size
        else:
            answer.body = self.rest()
            answer.closed = True

    def _read_chunks(self, answer: Answer) -> None:
        body = bytearray()
        while True:
            line = self.until(b"\r\n")
            size = int(line, 16) if line else -1
            body += self.take(max(0, size))
            ended = self.take(2) == b"\r\n"
            if size <= 0 or not ended:
                answer.body, answer.whole = bytes(body), size == 0 and ended
                return

    def until(self, end: bytes) -> bytes:
        """What comes up to `end` and with it; empty if the connection ends before."""
        start = 0
        while (at := self.unread.find(end, start)) < 0:
            start = max(0, len(self.unread) - len(end) + 1)
            if not self._receive():
                return b""
        return self._cut(at + len(end))

    def take(self, size: int) -> bytes:
        """So many bytes; fewer if the connection ends before."""
        while len(self.unread) < size and self._receive():
            pass
        return self._cut(size)

    def rest(self) -> bytes:
        """All until the end of the connection."""
        while self._receive():
            pass
        return self._cut(len(self.unread))

    def is_closed(self) -> bool:
        """Whether the server closes now, with nothing more to say. Waits for it."""
        return not self.unread and not self._receive()

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(256 * 1024)
        except ConnectionResetError:
            return False
        self.unread += data
        return bool(data)

    def _cut(self, size: int) -> bytes:
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data


def request(target: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: story.test", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [found_curl(), "-s", *arguments]
    return subprocess.run(command, capture_output=True, timeout=2 * LONG, check=False)


def found_curl() -> str:
    """Where there is none, the test is skipped."""
    found = shutil.which("curl")
    if found is None:
        pytest.skip("there is no curl")
    return found


@contextmanager
def wrk(server: Server, target: str, connections: int) -> Iterator[list[str]]:
    """Three seconds of wrk beside what else happens, where there is one. Afterwards the list holds what
    it had to say, or a word that it is missing."""
    said: list[str] = []
    found = shutil.which("wrk")
    if found is None:
        yield said
        said.append("requests in, if there were a wrk")
        return
    command = [found, "-t1", f"-c{connections}", "-d3s", "--timeout", "60s", server.url + target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield said
            said.append(process.communicate(timeout=LONG)[0])
        finally:
            process.kill()


def judged(answer: Answer) -> str:
    """What a response of /digested is while processes die: right and whole, cut short and *seen* to be so, or
    502. Never wrong."""
    if answer.status == 502:
        assert answer.whole
        return "502"
    assert answer.status == 200
    if not answer.whole:
        return "cut short"
    assert digest(answer.body) == answer["X-Digest"], "wrong, and taken for whole"
    return "right"


class Crowd:
    """Clients in threads that ask again and again, each on its own connection, until told to stop.

    Every answer is judged by `judge`; what it returns is kept in `seen`, and what it complains of in
    `wrong`. A connection that breaks is counted in `broken`, and replaced by a new one.
    """

    def __init__(
        self, server: Server, targets: list[str], judge: Callable[[Answer], str], *fields: str
    ) -> None:
        """`fields`: header lines of all requests."""
        self._server = server
        self._fields = fields
        self._judge = judge
        self._over = threading.Event()
        self.seen: list[str] = []
        self.broken: list[str] = []
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._ask_on, args=[target]) for target in targets]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(LONG)
        assert not any(thread.is_alive() for thread in self._threads), "a client waits for ever"

    def until_lately(self, outcome: str) -> None:
        """Until one of the last responses was this."""
        until(lambda: outcome in self.seen[-20:])

    def until_seen(self, more: int) -> None:
        """Until so many more responses have come."""
        aim = len(self.seen) + more
        until(
            lambda: len(self.seen) >= aim or self._over.is_set(), told=lambda: f"{self.broken} {self.wrong}"
        )

    def _ask_on(self, target: str) -> None:
        port = self._server.port
        client: Client | None = None
        answer: Answer | None
        while not self._over.is_set():
            try:
                client = client or Client(("127.0.0.1", port))
                client.send(request(target, *self._fields))
                answer = found = client.answer()
            except (OSError, AssertionError) as error:
                self.broken.append(repr(error))
                answer = None
                self._over.wait(0.01)
            else:
                self._take(found)
            if client is not None and (answer is None or not answer.whole or answer["Connection"] == "close"):
                client.close()
                client = None
        if client is not None:
            client.close()

    def _take(self, answer: Answer) -> None:
        try:
            self.seen.append(self._judge(answer))
        except AssertionError as error:
            self.wrong.append(f"{error} {answer.line} {answer.body[:100]!r}")
