"""A worker's fast path for small whole responses has the same outcome as its general one.

Each application runs on both. What the pump is told is the same to the byte, except for the time in the
handler; so are the error log, what the application sees of its request, and in which order it is called.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from halfsync.handlers import wsgi_response
from halfsync.http.response import head_of
from halfsync.wire.messages import (
    MAX_PACKET,
    EarlyHints,
    Ending,
    Part,
    Reply,
    Task,
    decode_replies,
    encode,
    one_by_one,
)
from halfsync.wire.task_slots import SCOREBOARD_SLOTS
from halfsync.worker.bodies import TaskResponder
from halfsync.worker.counting import RequestCount
from tests.worker_stage import Stage

PLAIN = [("Content-Type", "text/plain")]
GET = "GET /a%20b?c HTTP/1.1\nHost: example.org"

Events = list[Any]


class RecordingStage(Stage):
    """Keeps what the worker says, and which tasks took the fast path; with `general`, there is none."""

    def __init__(self, application: Any, *, general: bool, **more: Any) -> None:
        self.said: list[Reply | Part] = []
        self.fast: list[int] = []
        super().__init__(application, threads=1, **more)
        self.record(self.threads._quick[0])
        if general:
            self.threads._quick = [None]

    def record(self, quick: Any) -> None:
        """Take the fast path by this method, and note what it responds to."""

        def recorded(task: Task, began: int, responder: TaskResponder) -> int:
            ended: int = quick(task, began, responder)
            if ended:
                self.fast.append(task.number)
            return ended

        self.threads._quick = [recorded]

    def __enter__(self) -> RecordingStage:
        return self

    def _take(self, message: Any, descriptors: Any) -> None:
        self.said.append(message)
        super()._take(message, descriptors)


def responding(
    result: Callable[[Events], Any], status: str = "200 OK", fields: Any = PLAIN
) -> Callable[[Events], Any]:
    """Makes an application that notes events, and returns what `result` gives."""

    def make(events: Events) -> Any:
        def app(environ, start_response):
            events.append(sorted((key, describe(value)) for key, value in environ.items()))
            events.append(environ["wsgi.input"].read())
            start_response(status, list(fields))
            return result(events)

        return app

    return make


def describe(value: Any) -> Any:
    return value if isinstance(value, (str, bool, tuple)) else type(value).__name__


class Closing:
    """An iterable with a close(); each may raise."""

    def __init__(self, events: Events, pieces: list[Any], *, fails: bool = False) -> None:
        self.events, self.pieces, self.fails = events, pieces, fails

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self):
        self.events.append("closed")
        if self.fails:
            raise OSError("close")


class ClosingList(list[bytes]):
    def close(self):
        raise OSError("a list's close")


class SubclassOfBytes(bytes):
    pass


def raw(function: Callable[..., Any]) -> Callable[[Events], Any]:
    """An application that is given the events too."""
    return lambda events: lambda environ, start_response: function(events, environ, start_response)


def write(events, environ, start_response):
    start_response("200 OK", PLAIN)(b"written")
    return [b"and returned"]


def write_all(events, environ, start_response):
    start_response("200 OK", [("Content-Length", "7")])(b"written")
    return [b""]


def write_nothing(events, environ, start_response):
    start_response("200 OK", PLAIN)(b"")
    return [b"body"]


def start_twice(events, environ, start_response):
    start_response("200 OK", PLAIN)
    start_response("201 Created", PLAIN)
    return [b"body"]


def start_again_for_an_error(events, environ, start_response):
    start_response("200 OK", PLAIN)
    try:
        raise KeyError("why")
    except KeyError as error:
        start_response("500 Oops", [("X-A", "b")], (KeyError, error, error.__traceback__))
    return [b"body"]


def start_again_too_late(events, environ, start_response):
    start_response("200 OK", PLAIN)(b"written")
    error = KeyError("why")
    start_response("500 Oops", [("X-A", "b")], (KeyError, error, None))
    return [b"body"]


def start_late(events, environ, start_response):
    def generate() -> Any:
        start_response("200 OK", PLAIN)
        yield b"late"

    return generate()


def never_start(events, environ, start_response):
    return [b"body"]


def raise_at_once(events, environ, start_response):
    raise ValueError("at once")


def raise_after_start(events, environ, start_response):
    start_response("200 OK", PLAIN)
    raise ValueError("after start")


def exit_at_once(events, environ, start_response):
    raise SystemExit(3)


def lease(events, environ, start_response):
    environ["halfsync.lease"](2.5, "Accept")
    start_response("200 OK", PLAIN)
    return [b"leased"]


def lease_with_a_cookie(events, environ, start_response):
    environ["halfsync.lease"](2.5)
    start_response("200 OK", [("Set-Cookie", "a=b")])
    return [b"not leased"]


def a_method_of_its_own(events, environ, start_response):
    """As what overrides methods does: the client's counts."""
    environ["REQUEST_METHOD"] = "HEAD" if environ["REQUEST_METHOD"] != "HEAD" else "GET"
    start_response("200 OK", PLAIN)
    return [b"body"]


def call_all_later(events, environ, start_response):
    """What the application was given is of no use to it after its response."""
    kept = globals().setdefault("_kept", [])
    if kept:
        old_write, old_start, old_lease = kept.pop()
        calls: Any = (
            lambda: old_write(b"late"),
            lambda: old_start("200 OK", PLAIN),
            lambda: old_start("500 Oops", PLAIN, (KeyError, KeyError("late"), None)),
        )
        for late in calls:
            try:
                late()
                events.append("nothing")
            except Exception as error:
                events.append("raised" if not isinstance(error, KeyError) else error.args)
        old_lease(5)
    kept.append((start_response("200 OK", PLAIN), start_response, environ["halfsync.lease"]))
    return [b"body"]


LENGTH = [*PLAIN, ("Content-Length", "4")]
LARGE = 64 * 1024

# name -> (application, whether its answers to a GET and to a HEAD take the fast path)
TABLE: dict[str, tuple[Callable[[Events], Any], bool]] = {
    "one piece": (responding(lambda _: [b"body"]), True),
    "one empty piece": (responding(lambda _: [b""]), True),
    "with its length": (responding(lambda _: [b"body"], fields=LENGTH), True),
    "with a date": (responding(lambda _: [b"body"], fields=[("Date", "today")]), True),
    "with a field that is dropped": (responding(lambda _: [b"body"], fields=[("Connection", "close")]), True),
    "sets a cookie": (responding(lambda _: [b"body"], fields=[("Set-Cookie", "a=b")]), True),
    "404": (responding(lambda _: [b"body"], "404 Not Found"), True),
    "a status without a reason": (responding(lambda _: [b"body"], "418"), True),
    "as large as may be": (responding(lambda _: [bytes(LARGE)]), True),
    "larger": (responding(lambda _: [bytes(LARGE + 1)]), False),
    "204": (responding(lambda _: [b"body"], "204 No Content"), False),
    "304": (responding(lambda _: [b"body"], "304 Not Modified", LENGTH), False),
    "too little": (responding(lambda _: [b"bod"], fields=LENGTH), False),
    "nothing of a length": (responding(lambda _: [b""], fields=LENGTH), False),
    "too much": (responding(lambda _: [b"bodies"], fields=LENGTH), False),
    "two pieces": (responding(lambda _: [b"bo", b"dy"]), False),
    "no piece": (responding(lambda _: []), False),
    "a tuple": (responding(lambda _: (b"body",)), False),
    "bytes": (responding(lambda _: b"body"), False),
    "a generator": (responding(lambda _: (piece for piece in (b"bo", b"dy"))), False),
    "str": (responding(lambda _: ["body"]), False),
    "None": (responding(lambda _: [None]), False),
    "no iterable": (responding(lambda _: None), False),
    "bytearray": (responding(lambda _: [bytearray(b"body")]), False),
    "a subclass of bytes": (responding(lambda _: [SubclassOfBytes(b"body")]), False),
    "a list with close": (responding(lambda _: ClosingList([b"body"])), False),
    "close": (responding(lambda events: Closing(events, [b"body"])), False),
    "close that raises": (responding(lambda events: Closing(events, [b"body"], fails=True)), False),
    "an iterator that raises": (responding(lambda events: Closing(events, [ValueError("at first")])), False),
    "raises amid": (responding(lambda events: Closing(events, [b"some", ValueError("amid")])), False),
    "a bad status": (responding(lambda _: [b"body"], "OK"), False),
    "a bad field": (responding(lambda _: [b"body"], fields=[("X", "a\nb")]), False),
    "fields that are no pairs": (responding(lambda _: [b"body"], fields=[["X", "y"]]), False),
    "write": (raw(write), False),
    "write all": (raw(write_all), False),
    "write nothing": (raw(write_nothing), False),
    "start twice": (raw(start_twice), False),
    "start again for an error": (raw(start_again_for_an_error), True),
    "start again too late": (raw(start_again_too_late), False),
    "start late": (raw(start_late), False),
    "never start": (raw(never_start), False),
    "raise at once": (raw(raise_at_once), False),
    "raise after start": (raw(raise_after_start), False),
    "exit": (raw(exit_at_once), False),
    "lease": (raw(lease), False),
    "lease with a cookie": (raw(lease_with_a_cookie), False),
    "a method of its own": (raw(a_method_of_its_own), True),
    "call all later": (raw(call_all_later), True),
}

COOKIES = "\nCookie: a=1", "\nCookie: a=2", "\ncookie: a=3\nCookie: b=4"
HEAD = GET.replace("GET", "HEAD")
HEADS = [GET, GET, HEAD, HEAD, *(GET + cookie for cookie in COOKIES), GET]
BODIES = [(GET.replace("GET", "POST") + "\nContent-Length: 4", b"data"), (GET, b"")]


def outcome(make: Callable[[Events], Any], *, general: bool, capfd: Any, **more: Any) -> tuple[Any, ...]:
    """Of requests with heads that come again, with other cookies, and with bodies. What is the same on both
    paths; then which tasks took the fast one."""
    globals().pop("_kept", None)
    forget_warnings()
    events: Events = []
    with RecordingStage(make(events), general=general, **more) as stage:
        for head, body in [*((head, b"") for head in HEADS), *BODIES]:
            stage.ask(head, body)
        said = []
        for message in stage.said:
            assert (message.handler_ns > 0) == (message.ending is not Ending.UNFINISHED)
            message.handler_ns = 0
            said.append(encode([message]))
    return said, events, log_of(capfd), stage.fast


def log_of(capfd: Any) -> str:
    """Without times, and without what a traceback says of our own files."""
    text = re.sub(r"^\S+ \S+ \+0000 \[\d+\]", "", capfd.readouterr().err, flags=re.MULTILINE)
    return re.sub(r'^ +File "[^"]*/src/halfsync/.*\n(?: {6,}.*\n)+', "", text, flags=re.MULTILINE)


def forget_warnings() -> None:
    """Those that are said once a process."""
    wsgi_response._warn_of_dropped.cache_clear()
    wsgi_response._warn_of_lease.cache_clear()


@pytest.fixture(autouse=True)
def _warnings_are_said_again():
    yield
    forget_warnings()


@pytest.mark.parametrize("name", TABLE)
def test_both_paths_have_the_same_outcome(capfd, name):
    make, is_fast = TABLE[name]
    fast = outcome(make, general=False, capfd=capfd)
    general = outcome(make, general=True, capfd=capfd)
    assert fast[0] == general[0]
    assert fast[1] == general[1]
    assert fast[2] == general[2]
    assert general[3] == []
    asked = [*HEADS, *(head for head, _ in BODIES)]
    everything_else = [n for n, head in enumerate(asked, 1) if head != HEAD]
    if name.startswith("lease"):
        everything_else, is_fast = [1 + len(HEADS)], True  # of a POST there is none
    assert fast[3] == (everything_else if is_fast else [])


@pytest.mark.parametrize(
    "result",
    [
        lambda piece: [piece],
        lambda piece: [piece, piece],
        lambda piece: iter([piece, piece]),
        lambda piece: iter([piece] * 200),
    ],
)
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_subclass_of_bytes_is_as_good_as_bytes(result, size):
    """And costs the other responses of its packet nothing."""

    class Odd(SubclassOfBytes):
        def __bytes__(self):
            return b"something else"

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return result(Odd(b"x" * size))

    expected = b"".join(result(b"x" * size))
    with Stage(app) as stage:
        assert stage.get("/").body == expected


@pytest.mark.parametrize("general", [False, True])
def test_requests_are_counted_once_on_both_paths(general):
    told: list[int] = []

    def tell(served: int) -> bool:
        told.append(served)
        return True

    make, _ = TABLE["one piece"]
    with RecordingStage(make([]), general=general) as stage:
        count = RequestCount(3, 0, tell)
        handlers = [count.counted(handler) for handler in stage.threads._handlers if handler is not None]
        stage.threads._handlers = handlers
        if not general:
            stage.record(handlers[0].quick)  # type: ignore[attr-defined]
        assert stage.ask(GET).body == stage.ask(GET, b"x", spooled=True).body == b"body"
        assert told == []
        assert stage.ask(GET).body == b"body"
        assert told == [3]
        assert stage.fast == ([] if general else [1, 3])


# --- the time, the scoreboard, and what waits -------------------------------------------------------


def test_the_next_handler_begins_when_the_one_before_ended_and_not_before_its_request():
    make, _ = TABLE["one piece"]
    with RecordingStage(make([]), general=False) as stage:
        tasks = [stage.task(GET) for _ in range(4)]
        tasks[2].queued_ns = time.monotonic_ns() + 10**15  # whatever comes later than the time that is known
        stage.send(*tasks)
        for task in tasks:
            stage.wait(task.number)
        begun = [stage.scoreboard[task.number] for task in tasks]
        ended = [begun[i] + message.handler_ns for i, message in enumerate(stage.said)]
    assert begun[1] == ended[0]
    assert begun[2] >= ended[1]
    assert begun[3] == ended[2]


def test_a_withdrawn_task_is_dropped_between_two_on_the_fast_path():
    events: Events = []
    make, _ = TABLE["one piece"]
    with RecordingStage(make(events), general=False) as stage:
        tasks = [stage.task(GET) for _ in range(3)]
        stage.scoreboard[SCOREBOARD_SLOTS + tasks[1].number] = tasks[1].number
        stage.send(*tasks)
        for task in tasks:
            stage.wait(task.number)
        assert stage.fast == [tasks[0].number, tasks[2].number]
        assert stage.answers[tasks[1].number].ending is Ending.NOT_BEGUN
        assert stage.scoreboard[tasks[1].number] > 0


def test_the_stack_is_that_of_the_task_that_hangs_and_of_none_before_or_after(capfd):
    inside, go_on = threading.Event(), threading.Event()

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/wait":
            inside.set()
            assert go_on.wait(60)
        start_response("200 OK", PLAIN)
        return [b"body"]

    with RecordingStage(app, general=False) as stage:
        first, hanging = stage.task(GET), stage.task("GET /wait HTTP/1.1\nHost: a")
        stage.send(first, hanging)
        assert inside.wait(60)
        stage.threads.log_stack(first.number)
        assert capfd.readouterr().err == ""
        stage.threads.log_stack(hanging.number)
        assert "GET /wait from" in capfd.readouterr().err
        go_on.set()
        stage.wait(hanging.number)
    stage.threads.log_stack(hanging.number)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [0, 13, LARGE])
def test_a_small_response_is_encoded_as_the_message_is(size):
    make, _ = TABLE["one piece"]
    with Stage(make([])) as stage:
        head = head_of("200 OK", [("Date", "today"), ("X-A", "b")])
        began = time.monotonic_ns()
        ended = stage.threads.outbox.whole(7, head, bytes(size), began)
        stage.threads.outbox.flush()
        packet = stage.tasks.recv(MAX_PACKET)
    messages = decode_replies(packet)
    expected = Reply(7, 200, "OK", head.fields, size, bytes(size), dated=True, handler_ns=ended - began)
    assert packet == encode(messages)
    assert one_by_one(messages) == [expected]


def test_small_responses_of_a_batch_leave_by_their_heads():
    """In one packet, each with what is its own; behind other messages of the same tasks."""
    heads = [
        head_of("200 OK", [("X-A", "b"), ("Content-Length", "3")]),
        head_of("200 OK", [("X-A", "b")]),  # no other than the first, when its length is known
        head_of("200 OK", [("X-A", "c")]),
        head_of("404 Not Found", [("X-A", "b")]),
        head_of("200 Fine", [("X-A", "b")]),
        head_of("200 OK", [("X-A", "b"), ("Date", "today")]),
    ]
    make, _ = TABLE["one piece"]
    with Stage(make([])) as stage:
        outbox = stage.threads.outbox
        replies = []
        for number in range(60):
            head = heads[number * 7 % len(heads)]
            body = b"%3d" % number
            ended = outbox.whole(number, head, body, 5)
            reply = Reply(number, head.status, head.reason, head.fields, 3, body, dated=head.dated)
            replies.append(msgspec.structs.replace(reply, handler_ns=ended - 5))
        outbox.put(EarlyHints(59, b"Link: x\r\n"), 0, 1)
        outbox.flush()
        messages = decode_replies(stage.tasks.recv(MAX_PACKET))
    assert len(messages) == 1 + 5
    first, *others = one_by_one(messages)
    assert first == EarlyHints(59, b"Link: x\r\n")
    assert sorted(others, key=lambda reply: reply.number) == replies


def test_threads_that_put_and_flush_at_once_lose_nothing():
    """Each response leaves once, with its own head."""
    heads = [head_of("200 OK", [("X-A", str(number))]) for number in range(4)]
    make, _ = TABLE["one piece"]
    with Stage(make([])) as stage:
        outbox = stage.threads.outbox

        def put(thread: int) -> None:
            for number in range(500):
                outbox.whole(thread * 1000 + number, heads[number % 4], b"%d" % (number % 4), 0)
                if not number % (thread + 2):
                    outbox.flush()
            outbox.flush()

        threads = [threading.Thread(target=put, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        found: list[int] = []
        while len(found) < 2000:
            for reply in one_by_one(decode_replies(stage.tasks.recv(MAX_PACKET))):
                assert isinstance(reply, Reply)
                assert reply.fields == b"X-A: %s\r\n" % reply.body
                found.append(reply.number)
        for thread in threads:
            thread.join()
    assert sorted(found) == sorted(thread * 1000 + number for thread in range(4) for number in range(500))


def test_small_responses_leave_beside_files_and_in_order(tmp_path):
    """In one packet with what has descriptors, and in several."""

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        if environ["PATH_INFO"] == "/file":
            return environ["wsgi.file_wrapper"]((tmp_path / "file").open("rb"))
        return [b"small" * 2000]

    (tmp_path / "file").write_bytes(b"file" * 1000)
    with RecordingStage(app, general=False) as stage:
        tasks = [stage.task(f"GET {'/file' if n % 3 else '/'} HTTP/1.1\nHost: a") for n in range(60)]
        stage.send(*tasks)
        for n, task in enumerate(tasks):
            assert stage.wait(task.number).body == (b"file" * 1000 if n % 3 else b"small" * 2000)
        assert len(stage.fast) == 20
        said = [message.number for message in stage.said]
        files = [task.number for n, task in enumerate(tasks) if n % 3]
        assert [number for number in said if number in files] == files
        assert sorted(said) == [task.number for task in tasks]
        assert not stage.threads.outbox._with_objects
        stage.get("/")
        assert len(stage.fast) == 21
