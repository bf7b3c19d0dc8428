"""A real pump in the test's own process, with real sockets on both of its sides.

Theory of operation
-------------------
A `Stage` holds a `Pump` that listens on a real port, and the test holds the other ends: `Client`s
(real TCP sockets) and `Hand`s (a worker's ends of real `SOCK_SEQPACKET` pairs and of a real scoreboard).
There is no second thread: the test says when the pump takes a turn, so what happens between two
lines of a test is known. A turn never waits; time is a `FakeTime` that only the test moves.

On a busy machine the kernel may deliver a loopback segment a moment late. So what a `Client` sends has
arrived when the call returns (see `prompt.py`), and for what the pump sends a test says what it waits for
(`stage.until(...)`, `client.answer()`), and the stage takes turns until it is there; the timeout of seconds
in there is only how long a failing test takes.
"""

from __future__ import annotations

import _socket
import contextlib
import gc
import os
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Self
from unittest import mock

import msgspec
import pytest

from halfsync.objects import SimpleObject
from halfsync.plan.plan import Kind, Listener, Plan, PoolPlan, RoutePlan, SitePlan
from halfsync.pump import acceptor as acceptor_module
from halfsync.pump import clock as clock_module
from halfsync.pump.connection import Connection
from halfsync.pump.descriptors import Descriptor
from halfsync.pump.loop import Pump
from halfsync.pump.pools.concurrency import Reading
from halfsync.pump.pools.workers import Worker
from halfsync.pump.transport import PlainTransport
from halfsync.settings.table import Settings
from halfsync.tls.certificates import Certificates
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import (
    BODY_WINDOW,
    MAX_DESCRIPTORS,
    MAX_PACKET,
    AlikeReplies,
    Credit,
    Ending,
    Lease,
    LogTask,
    Part,
    Piece,
    Reply,
    StreamedTask,
    Task,
    ToWatch,
    ToWorker,
    decode_tasks,
    decode_watch,
    encode,
)
from halfsync.wire.orders import Join
from halfsync.wire.task_slots import SCOREBOARD_BYTES, SCOREBOARD_SLOTS
from halfsync.wire.thread_rows import WORDS, at_work
from tests.ports import free_port
from tests.pump import tls_ends
from tests.pump.prompt import PromptSocket
from tests.pump.transports import TRANSPORTS

TIMEOUT = 60.0
"""Seconds of real time until a test that waits for something fails."""

BUILT_IN, APP = 0, 1
"""The stage's pools."""


def transport() -> str:
    """The name of the one that all stages use: one of transports.py, or "tls"."""
    return os.environ.get("HALFSYNC_TEST_TRANSPORT", "plain")


def skip_with_single_bytes(why: str) -> None:
    if transport() == "bytes":
        pytest.skip(f"what is read in single bytes {why}")


def skip_with_records(why: str) -> None:
    if transport() == "records":
        pytest.skip(f"what is read in records {why}")


def skip_with_tls(why: str) -> None:
    if transport() == "tls":
        pytest.skip(f"over TLS {why}")


class FakeTime:
    """Stands in for the `time` module in `halfsync.pump.clock`."""

    def __init__(self) -> None:
        self._now = 1000.0

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return 1_700_000_000.0 - 1000.0 + self._now

    def monotonic_ns(self) -> int:
        return round(self._now * 1e9)

    def advance(self, seconds: float) -> None:
        self._now += seconds


class _Watched:
    """The pump's poll, which never waits, and remembers how many events the last one gave."""

    def __init__(self, poll: Callable[[float, int], list[tuple[int, int]]]) -> None:
        self._poll = poll
        self.last = 0

    def poll(self, _timeout: float, count: int) -> list[tuple[int, int]]:
        events = self._poll(0.0, count)
        self.last = len(events)
        return events


class Stage:
    """A pump, its clients and its workers. Use it as a context manager."""

    def __init__(
        self,
        *,
        routes: tuple[RoutePlan, ...] | None = None,
        sites: tuple[SitePlan, ...] | None = None,
        served: tuple[int, ...] = (),
        unix: bool = False,
        tls: Certificates | None = None,
        proxied: bool = False,
        **settings: Any,
    ) -> None:
        """`tls`: it listens for https, with these certificates. `sites`: the default one, and those that
        have certificates, if not given; `served`: those of them that are, if not all. `proxied`: with
        proxy_protocol."""
        self.time = FakeTime()
        self._undo = contextlib.ExitStack()
        self._undo.enter_context(mock.patch.object(clock_module, "time", self.time))
        self._undo.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        self.folder = self._undo.enter_context(tempfile.TemporaryDirectory())
        if unix:
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind(self.folder + "/socket")
        else:
            self.listener = socket.socket()
            # Not one of the kernel's choice: a client of another test, whose server has ended, may still
            # try to connect to that.
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", free_port()))
            self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Accepted sockets inherit it: a response of megabytes does not fit, as on a real network.
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.listener.listen(512)
        name = self.listener.getsockname()
        if transport() == "tls" and not unix and tls is None:
            tls = tls_ends.certificates()
            self._undo.callback(os.close, tls.fd)
        self.tls = tls
        if sites is None:
            named = () if tls is None else tls.sites
            sites = (SitePlan(), *(SitePlan(one.name, one.hosts) for one in named if one.name))
        if routes is None:
            streams = settings.get("stream_body", False)
            routes = tuple(
                RoutePlan("", "app:app", Kind.WSGI, APP, site=index, streams=streams)
                for index in range(len(sites))
            )
        settings.setdefault("reply_memory", 64 << 20)  # tests give more in memory than a worker does
        self.plan = Plan(
            Settings(**settings),
            routes,
            (PoolPlan("built-in", None, 1, 4), PoolPlan("app:app", "app:app", 1, 8)),
            (
                Listener(
                    str(name),
                    "" if unix else "127.0.0.1",
                    0 if unix else name[1],
                    self._pumps_own(),
                    sites=served or tuple(range(len(sites))),
                    scheme="http" if tls is None else "https",
                    is_proxied=proxied,
                ),
            ),
            sites=sites,
            certificates=tls,
        )
        self.hung: list[Worker] = []
        self.interrupted: list[Worker] = []
        self.lost: list[int] = []  # ids of workers that the pump gave up
        self.status: int | None = signal.SIGKILL  # how lost workers end; None: the parent does not say
        self.pump = Pump(
            self.plan,
            spool_folder=self.folder,
            log_needs=(True, True),
            report_hung=self.hung.append,
            report_interrupted=self.interrupted.append,
            report_lost=self._lose,
        )
        self.pump.pools.overload.delay = lambda: 0.0  # this test's clock goes on by itself alone
        # Its workers are no processes, so they have no processor time either.
        self.pump.pools.overload.concurrency.read = lambda pids: Reading(self.time.monotonic(), {}, {})
        if tls is None:  # TLS is a transport of its own, and knows the plain one beneath it
            self.pump.acceptor.transport = TRANSPORTS.get(transport(), PlainTransport)
        self._watched = _Watched(self.pump.poller.poll)
        self.pump.poller.poll = self._watched.poll  # type: ignore[assignment]
        self.with_loops = False  # workers of applications have event loops
        self.hands: list[Hand] = []
        self.helpers: list[Callable[[], int]] = []  # what else goes on; each says how much it did
        self.clients: list[Client] = []
        self.handler: Callable[[Hand, Task], None] | None = None
        with mock.patch.object(acceptor_module, "DEFER_ACCEPT", 0):  # else silent clients come after a second
            self.pump.acceptor.start()

    def _pumps_own(self) -> socket.socket:
        """The pump closes its copy of the listening socket at a stop; the stage's is the parent's."""
        return socket.socket(fileno=os.dup(self.listener.fileno()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.sock.close()
        for conn in list(self.pump.connections.values()):
            self.pump.endings.close(conn, CloseReason.INTERNAL_ERROR)
        for worker in list(self.pump.pools.workers.values()):
            worker.close()
        for hand in self.hands:
            hand.close()
        self.listener.close()
        for one in self.plan.listeners:
            one.socket.close()
        self.pump.poller.close()
        os.close(self.pump.helpers.wakeup)
        self._undo.close()

    def _lose(self, worker: Worker) -> None:
        """The parent's part: it says how the worker ended."""
        self.lost.append(worker.id)
        if self.status is not None:
            self.pump.pools.ended(worker.id, self.status)

    # --- turning ---------------------------------------------------------------------------------

    def turn(self) -> int:
        """One turn of the loop, and whatever the workers do of themselves; how much happened."""
        self.pump._turn()
        happened = self._watched.last + (not self.pump.run_queue.is_empty) + self.pump.timeouts.is_under_way
        for hand in self.hands:
            happened += hand.work()
        for helper in self.helpers:
            happened += helper()
        return happened

    def settle(self) -> None:
        """Turn until nothing happens any more."""
        for _ in range(100_000):
            if not self.turn():
                return
        raise AssertionError("it never comes to rest: something spins")

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Turn until it is so."""
        give_up = time.monotonic() + TIMEOUT
        while not condition():
            if not self.turn() and time.monotonic() > give_up:
                raise AssertionError(f"this never came: {what or condition}")

    def later(self, seconds: float) -> None:
        """Let time pass, as the pump sees it when it looks twice a second."""
        self.settle()
        whole, rest = divmod(seconds, 0.5)
        for _ in range(int(whole)):
            self.time.advance(0.5)
            self.settle()
        self.time.advance(rest)
        self.settle()

    def reasons(self) -> list[CloseReason]:
        """How the exchanges that were logged have ended, in order; for a stage with an access log
        and no worker to write it."""
        return [CloseReason(record[9]) for record in self.pump.access.records]

    # --- the others ------------------------------------------------------------------------------

    def client(self, *, rcvbuf: int = 0, in_clear: bool = False, **tls: Any) -> Client:
        """A connected client that the pump has accepted. `tls`: see TLSSocket; with `in_clear` it does not
        speak that."""
        before = set(self.pump.connections.values())  # some of them may end meanwhile
        client = Client(self, rcvbuf, in_clear=in_clear, **tls)
        self.clients.append(client)
        self.until(lambda: not before.issuperset(self.pump.connections.values()), "a connection")
        new = [conn for conn in self.pump.connections.values() if conn not in before]  # to ask all takes long
        transports = [getattr(conn.transport, "plain", conn.transport) for conn in new]
        client.sock.find_peer([one for one in transports if isinstance(one, _socket.socket)])
        client.conn = new[-1]
        if transport() == "tls":
            self.settle()  # the handshake is over for the client, and may not be for the pump
        return client

    def hand(self, pool: int = APP, *, threads: int = 8, answers: bool = False) -> Hand:
        """A worker. With `answers` it gives each task to `stage.handler` (or `echo`) by itself."""
        hand = Hand(self, len(self.hands) + 1, pool, threads, answers)
        self.hands.append(hand)
        return hand


class Client:
    """A browser, or something worse."""

    def __init__(
        self,
        stage: Stage,
        rcvbuf: int = 0,
        *,
        in_clear: bool = False,
        turn: Callable[[], object] | None = None,
        **tls: Any,
    ) -> None:
        """`turn`: what happens until its handshake is over, if not a turn of the stage."""
        self.stage = stage
        self.conn: Connection | None = None  # the pump's
        self.sock: Any = PromptSocket(stage.listener.family)
        self.sock.setblocking(True)  # the pump has changed the default
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.connect(stage.listener.getsockname())
        self.sock.setblocking(False)
        if stage.tls is not None and not in_clear:
            self.sock = tls_ends.TLSSocket(self.sock, turn or stage.turn, **tls)
        self.inbox = b""
        self.ended = False  # end of file, in good order
        self.reset = False

    @property
    def over(self) -> bool:
        return self.ended or self.reset

    def send(self, data: bytes) -> None:
        """Send all of it, and let the pump see it. What nobody wants any more is dropped."""
        give_up = time.monotonic() + TIMEOUT
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                assert time.monotonic() < give_up, "nobody reads"
            except OSError:
                break
            self.stage.settle()
        self.stage.settle()

    def finish(self) -> None:
        """Say that nothing more will come."""
        self.sock.shutdown(socket.SHUT_WR)
        self.stage.settle()

    def leave(self) -> None:
        """Go without a word."""
        self.stage.clients.remove(self)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.stage.settle()

    def receive(self, most: int = 1 << 20) -> int:
        """Read what is there; how much that was."""
        if self.over:
            return 0
        try:
            data = self.sock.recv_promptly(most)
        except BlockingIOError:
            return 0
        except OSError:
            self.reset = True
            return 0
        self.inbox += data
        self.ended = not data
        return len(data)

    def answer(self, method: str = "GET") -> Answer:
        """The next final response, whole."""
        while True:
            found = self._interim_or_answer(method)
            if found.status >= 200:
                return found

    def interim(self) -> Answer:
        """The next response of any status."""
        return self._interim_or_answer("GET")

    def _interim_or_answer(self, method: str) -> Answer:
        found: list[Answer] = []

        def whole() -> bool:
            self.receive()
            answer = parse_answer(self.inbox, method, self.ended)
            if answer is not None:
                found.append(answer)
            elif self.over:
                raise AssertionError(f"closed, and all there is of an answer is {self.inbox[:300]!r}")
            return bool(found)

        self.stage.until(whole, f"an answer; there is {self.inbox[:300]!r}")
        self.inbox = self.inbox[found[0].size :]
        return found[0]

    def ask(self, head: bytes | str = b"/", method: str = "GET") -> Answer:
        """Send a head (or GET a path) and wait for the response."""
        self.send(get(head) if isinstance(head, str) else head)
        return self.answer(method)

    def rest(self) -> bytes:
        """All that comes until the pump closes."""

        def over() -> bool:
            self.receive()
            return self.over

        self.stage.until(over, "the end of the connection")
        data, self.inbox = self.inbox, b""
        return data

    def quiet(self) -> bool:
        """Whether nothing comes."""
        self.stage.settle()
        self.receive()
        return not self.inbox and not self.over


class Answer(msgspec.Struct):
    """A response, as a strict client reads it."""

    status: int
    fields: dict[str, str]
    body: bytes
    size: int  # on the wire
    until_close: bool  # its end was told by the close alone
    head: bytes

    @property
    def closes(self) -> bool:
        return self.fields.get("connection", "") == "close"


def parse_answer(data: bytes, method: str = "GET", ended: bool = False) -> Answer | None:
    """None: it is not whole."""
    head, found, _ = data.partition(b"\r\n\r\n")
    if not found:
        return None
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = status_line.split(" ", 2)
    assert version == "HTTP/1.1", status_line
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        assert colon, line
        assert name.lower() not in fields, f"{name} comes twice"
        fields[name.lower()] = value.strip()
    start = len(head) + 4
    code = int(status)
    until_close = False
    if code >= 200:
        assert "date" in fields, head
    if method == "HEAD" or code < 200 or code in (204, 304):
        assert "transfer-encoding" not in fields or method == "HEAD"
        body, size = b"", start
    elif "transfer-encoding" in fields:
        assert "content-length" not in fields
        decoded = _dechunk(data[start:])
        if decoded is None:
            return None
        body, used = decoded
        size = start + used
    elif "content-length" in fields:
        size = start + int(fields["content-length"])
        if len(data) < size:
            return None
        body = data[start:size]
    else:
        if not ended:
            return None
        body, size, until_close = data[start:], len(data), True
    return Answer(code, fields, body, size, until_close, head)


def _dechunk(data: bytes) -> tuple[bytes, int] | None:
    body, at = b"", 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        count = int(data[at:end], 16)
        at = end + 2
        if len(data) < at + count + 2:
            return None
        body += data[at : at + count]
        assert data[at + count : at + count + 2] == b"\r\n"
        at += count + 2
        if count == 0:
            return body, at


class Hand:
    """A worker's side of the seam, played by the test."""

    def __init__(self, stage: Stage, number: int, pool: int, threads: int, answers: bool) -> None:
        self.stage = stage
        self.number = number
        self.answers = answers
        self.open = True
        theirs, self.tasks_sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs_watch, self.watch_sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._scoreboard_fd = os.memfd_create("scoreboard")
        os.ftruncate(self._scoreboard_fd, SCOREBOARD_BYTES)
        for sock in (self.tasks_sock, self.watch_sock):
            sock.setblocking(False)
        self.packets: list[ToWorker] = []  # as they came
        self.tasks: list[Task] = []  # taken, and not yet answered by the test
        self.log_tasks: list[LogTask] = []
        self.nudges = 0
        self.bodies: dict[int, bytes] = {}  # by slot: what came in a descriptor
        fds = [theirs.detach(), theirs_watch.detach(), os.dup(self._scoreboard_fd)]
        join = Join(number, 4000 + number, pool, threads, stage.with_loops)
        stage.pump.pools.join(join, [Descriptor(fd) for fd in fds])
        stage.settle()

    @property
    def worker(self) -> Worker | None:
        """The pump's side of it, while it has one."""
        return self.stage.pump.pools.workers.get(self.number)

    def close(self) -> None:
        if self.open:
            self.open = False
            self.tasks_sock.close()
            self.watch_sock.close()
            os.close(self._scoreboard_fd)

    def die(self) -> None:
        self.close()
        self.stage.settle()

    # --- taking ----------------------------------------------------------------------------------

    def work(self) -> int:
        """Take all packets that came; answer them if that is what it does. How many there were."""
        count = 0
        while self.open and self._take_packet():
            count += 1
        if self.answers:
            tasks, self.tasks = self.tasks, []
            for task in tasks:
                self.begin(task)
                (self.stage.handler or echo)(self, task)
        return count

    def _take_packet(self) -> bool:
        try:
            data, ancillary, flags, _ = self.tasks_sock.recvmsg(
                MAX_PACKET + 4096, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
            )
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        fds = [fd for _, _, raw in ancillary for fd in memoryview(raw).cast("i")]
        packet = decode_tasks(data)
        self.packets.append(packet)
        for message in packet:
            if isinstance(message, Task):
                self.tasks.append(message)
                if isinstance(message, StreamedTask):
                    self.bodies[message.number] = message.first
                elif message.body is None:
                    fd = fds.pop(0)
                    self.bodies[message.number] = os.pread(fd, message.body_size + 1, 0)
                    os.close(fd)
                else:
                    self.bodies[message.number] = message.body
            elif isinstance(message, LogTask):
                self.log_tasks.append(message)
            else:
                self.nudges += 1
        assert not fds
        return True

    def take(self, *, begin: bool = True) -> Task:
        """The next task, whose handler then has begun."""
        self.stage.until(lambda: self.tasks, "a task")
        task = self.tasks.pop(0)
        if begin:
            self.begin(task)
        return task

    def begin(self, task: Task) -> None:
        os.pwrite(
            self._scoreboard_fd,
            struct.pack("Q", self.stage.time.monotonic_ns()),
            task.number % SCOREBOARD_SLOTS * 8,
        )

    def thread_works(self, thread: int) -> None:
        """Its row says so from now on."""
        word = struct.pack("Q", at_work(self.stage.time.monotonic_ns()))
        os.pwrite(self._scoreboard_fd, word, SCOREBOARD_BYTES - 8 * (WORDS - thread))

    def heard(self) -> ToWatch:
        """What came on the watch socket."""
        self.stage.settle()
        messages: ToWatch = []
        while (packet := self._watch_packet()) is not None:
            messages += packet
            self.stage.settle()
        return messages

    def _watch_packet(self) -> ToWatch | None:
        try:
            return decode_watch(self.watch_sock.recv(MAX_PACKET + 4096))
        except BlockingIOError:
            return None

    # --- a streamed body ---------------------------------------------------------------------------

    def ask(self, task: Task, size: int = BODY_WINDOW) -> None:
        """The handler reads: so many more bytes may come."""
        self.send([Credit(task.number, size)])

    def collect(self, task: Task) -> Ending:
        """Take what came of the body, which is added to what `bodies` has of it; how far it is now."""
        ending = Ending.UNFINISHED
        for message in self.heard():
            if isinstance(message, Piece) and message.number == task.number:
                assert ending is Ending.UNFINISHED, "behind the end"
                ending = message.ending
                if ending is not Ending.ABORTED:
                    assert message.offset == len(self.bodies[task.number])
                self.bodies[task.number] += message.data
        return ending

    # --- replying --------------------------------------------------------------------------------

    def reply(
        self,
        task: Task,
        body: bytes = b"",
        *,
        status: int = 200,
        reason: str = "OK",
        fields: bytes = b"Content-Type: text/plain\r\n",
        length: int | None = None,
        objects: list[SimpleObject] | None = None,
        fds: tuple[int, ...] = (),
        ending: Ending = Ending.DONE,
        close: bool = False,
        lease: Lease | None = None,
        handler_ns: int = 5_000_000,
    ) -> None:
        """Answer. `length`: what Content-Length says; by default that of all objects together."""
        objects = objects or []
        if length is None:
            sizes = [item.length for item in objects]
            whole = ending is Ending.DONE and None not in sizes
            length = len(body) + sum(size or 0 for size in sizes) if whole else -1
        message = Reply(
            task.number,
            status,
            reason,
            fields,
            length,
            body,
            objects,
            ending,
            False,
            close,
            lease,
            handler_ns,
        )
        self.send([message], fds)

    def reply_alike(
        self,
        replies: list[tuple[Task, bytes]],
        *,
        status: int = 200,
        reason: str = "OK",
        fields: bytes = b"Content-Type: text/plain\r\n",
        dated: bool = False,
        handler_ns: int = 5_000_000,
    ) -> None:
        """Answer several with one message. `replies`: what body each gets."""
        numbers = [task.number for task, _ in replies]
        bodies = [body for _, body in replies]
        times = [handler_ns] * len(replies)
        self.send([AlikeReplies(status, reason, fields, dated, numbers, bodies, times)])

    def part(
        self,
        task: Task,
        *objects: SimpleObject,
        ending: Ending = Ending.UNFINISHED,
        fds: tuple[int, ...] = (),
        handler_ns: int = 5_000_000,
    ) -> None:
        self.send([Part(task.number, list(objects), ending, handler_ns)], fds)

    def send(self, messages: list[Any], fds: tuple[int, ...] = ()) -> None:
        """One packet. The descriptors are closed here then, as a worker does."""
        self.send_packet(encode(messages), fds)

    def send_packet(self, packet: bytes, fds: tuple[int, ...] = ()) -> None:
        try:
            socket.send_fds(self.tasks_sock, [packet], list(fds))
        finally:
            for fd in fds:
                os.close(fd)
        if not self.answers:
            self.stage.settle()


def echo(hand: Hand, task: Task) -> None:
    """Answers with what it was asked: request line, and body."""
    line = task.head.partition(b"\r\n")[0]
    hand.reply(task, line + b"\n" + hand.bodies[task.number])


def get(path: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A head."""
    host = ["Host: a"] if version == "1.1" else []
    return "\r\n".join([f"{method} {path} HTTP/{version}", *host, *lines, "", ""]).encode("latin-1")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def no_descriptor_left(stage: Stage) -> Iterator[None]:
    """Within it as many descriptors are closed as are opened."""
    stage.settle()
    gc.collect()  # what earlier tests have left in circles is not to be closed in between
    before = open_descriptors()
    yield
    stage.until(lambda: open_descriptors() <= before, f"{before} descriptors; there are {open_descriptors()}")
    assert open_descriptors() == before
