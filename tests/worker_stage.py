"""A stage for a worker's threads: real sockets, real descriptors, and this test in the pump's place."""

from __future__ import annotations

import array
import itertools
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from halfsync.http.header_rules import HeaderRule
from halfsync.objects import SAME_FILE, File, Memory
from halfsync.plan.plan import BUILT_IN, FileRules, Kind, Listener, Plan, PoolPlan, RoutePlan
from halfsync.settings.table import Settings
from halfsync.wire.messages import (
    MAX_DESCRIPTORS,
    MAX_PACKET,
    Credit,
    Ending,
    Lease,
    LogTask,
    Nudge,
    Part,
    Reply,
    Task,
    encode,
    one_by_one,
)
from halfsync.wire.packets import unpack
from halfsync.wire.task_slots import SCOREBOARD_BYTES
from halfsync.worker.bodies import ResponseLimits
from halfsync.worker.main import handlers_of, header_rules_of
from halfsync.worker.threads import LogHandler, Threads

TIMEOUT = 60.0


@dataclass
class Answer:
    """What the pump would have learnt of one reply."""

    reply: Reply | None = None
    body: bytes = b""
    kinds: list[str] = field(default_factory=list)  # of simple objects, in order
    ending: Ending = Ending.UNFINISHED
    messages: int = 0
    file: int = -1
    pipe: int = -1

    @property
    def status(self) -> int:
        assert self.reply is not None
        return self.reply.status

    @property
    def fields(self) -> dict[str, str]:
        assert self.reply is not None
        lines = self.reply.fields.decode("latin-1").split("\r\n")
        assert lines.pop() == ""
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @property
    def length(self) -> int:
        assert self.reply is not None
        return self.reply.length

    @property
    def lease(self) -> Lease | None:
        assert self.reply is not None
        return self.reply.lease

    @property
    def done(self) -> bool:
        return self.ending is Ending.DONE


class Seam:
    """The pump's end of one worker's `tasks`."""

    def __init__(self, tasks: socket.socket) -> None:
        self.tasks = tasks
        tasks.settimeout(TIMEOUT)
        self.slots = itertools.count(1)
        self.answers: dict[int, Answer] = {}
        self.packets = 0
        self.credits: list[Credit] = []

    def close(self) -> None:
        for answer in self.answers.values():
            for descriptor in (answer.file, answer.pipe):
                if descriptor >= 0:
                    os.close(descriptor)
        self.tasks.close()

    def task(
        self,
        head: str | bytes,
        body: bytes = b"",
        *,
        route: int = 0,
        client: str = "192.0.2.1",
        spooled: bool = False,
    ) -> Task:
        raw = head if isinstance(head, bytes) else head.encode("latin-1")
        if not raw.endswith(b"\r\n\r\n"):
            raw = raw.replace(b"\n", b"\r\n") + b"\r\n\r\n"
        slot = next(self.slots)
        self.answers[slot] = Answer()
        data = None if spooled else body
        return Task(slot, route, raw, data, len(body), client, 4711, 0, time.monotonic_ns())

    def send(self, *messages: Task | LogTask | Nudge, descriptors: Sequence[int] = ()) -> None:
        socket.send_fds(self.tasks, [encode(list(messages))], list(descriptors))

    def start(self, head: str | bytes, body: bytes = b"", **more: Any) -> int:
        """Hand over one request; gives its slot."""
        task = self.task(head, body, **more)
        if task.body is None:
            with tempfile.TemporaryFile() as file:
                file.write(body)
                file.flush()
                self.send(task, descriptors=[file.fileno()])
        else:
            self.send(task)
        return task.number

    def ask(self, head: str | bytes, body: bytes = b"", **more: Any) -> Answer:
        """One request and its whole response."""
        return self.wait(self.start(head, body, **more))

    def get(self, target: str, fields: str = "", **more: Any) -> Answer:
        return self.ask(f"GET {target} HTTP/1.1\nHost: example.org{fields and chr(10) + fields}", **more)

    def wait(self, slot: int) -> Answer:
        while self.answers[slot].ending is Ending.UNFINISHED:
            self.read_packet()
        return self.answers[slot]

    def read_packet(self) -> None:
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
        packet, ancillary, _, _ = self.tasks.recvmsg(MAX_PACKET, room, socket.MSG_CMSG_CLOEXEC)
        assert packet, "the worker closed its end"
        self.packets += 1
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data)
        assert len(descriptors) <= MAX_DESCRIPTORS
        for message in one_by_one(unpack(memoryview(packet))):
            if isinstance(message, Credit):
                self.credits.append(message)
            elif isinstance(message, Reply | Part):
                self._take(message, descriptors)

    def _take(self, message: Reply | Part, descriptors: array.array[int]) -> None:
        answer = self.answers[message.number]
        assert answer.ending is Ending.UNFINISHED, "the worker had said that this was the end"
        answer.messages += 1
        if isinstance(message, Reply):
            assert answer.reply is None
            answer.reply = message
            answer.body += message.body
        for item in message.objects:
            answer.kinds.append(type(item).__name__)
            if isinstance(item, Memory):
                answer.body += item.data
            elif isinstance(item, File):
                if item.fd != SAME_FILE:
                    if answer.file >= 0:
                        os.close(answer.file)
                    answer.file = descriptors[item.fd]
                answer.body += os.pread(answer.file, item.count, item.offset)
            else:
                answer.pipe = descriptors[item.fd]
                while data := os.read(answer.pipe, 1 << 20):
                    answer.body += data
        answer.ending = message.ending


def plan_of(routes: Sequence[RoutePlan], pools: Sequence[PoolPlan], settings: Settings | None = None) -> Plan:
    listener = Listener("127.0.0.1:8000", "127.0.0.1", 8000, socket.socket())
    listener.socket.close()  # nobody accepts here
    return Plan(settings or Settings(), tuple(routes), tuple(pools), (listener,))


class Stage(Seam):
    """Threads in this process, with one handler."""

    def __init__(
        self,
        application: Callable[..., Any] | None = None,
        *,
        folder: str = "",
        prefix: str = "",
        threads: int = 2,
        processes: int = 1,
        lease: float = 1.0,
        rules: Mapping[str, Any] | None = None,  # of files, beside the lease
        log_handler: LogHandler | None = None,
        header_rules: Mapping[str, str] | None = None,
        served: list[int] | None = None,
        **settings: Any,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        pools = [PoolPlan("built-in", None, 1, threads), PoolPlan("app:app", "app:app", processes, threads)]
        pool = BUILT_IN if application is None else 1
        kind = Kind.FILES if application is None else Kind.WSGI
        headers = tuple(HeaderRule(name, (value,)) for name, value in (header_rules or {}).items())
        route = RoutePlan(
            prefix, folder or "app:app", kind, pool, FileRules(lease, **(rules or {})), headers=headers
        )
        plan = plan_of([route], pools, Settings(**settings))
        self.scoreboard = memoryview(bytearray(SCOREBOARD_BYTES)).cast("Q")
        self.threads = Threads(
            theirs,
            self.scoreboard,
            handlers_of(plan, pool, application, bool),
            log_handler,
            ResponseLimits.of(plan.settings),
            header_rules_of(plan),
            served=served,
        )
        self.threads.start(threads)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        self.tasks.shutdown(socket.SHUT_RDWR)
        self.threads.join()
        self.close()
