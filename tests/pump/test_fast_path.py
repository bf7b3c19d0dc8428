"""The fast path: what it takes, what it leaves to the general road, and that nobody can tell them apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from halfsync.pump.clock import Clock
from halfsync.pump.pools.dispatch import Dispatcher
from halfsync.pump.pools.replies import Replies
from halfsync.pump.pools.workers import Pool, Worker
from halfsync.pump.states import ConnectionState, ExchangeState
from halfsync.pump.transport import FIRST_READ
from halfsync.scoreboard.counts import PoolCounts
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import (
    ALIKE_TAG,
    FromWorker,
    Lease,
    Task,
    ToPump,
    decode_tasks,
    encode,
    one_by_one,
)
from halfsync.wire.task_slots import MOST_SLOTS
from tests.pump.harness import (
    APP,
    Client,
    Hand,
    Stage,
    get,
    skip_with_records,
    skip_with_single_bytes,
    transport,
)


class Counted:
    """How often each half of the fast path was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken_in = 0
        self.put_out = 0
        take_in, put_out = Dispatcher.take_in, Replies._put_out

        def counted_in(path: Dispatcher, *arguments: Any) -> bool:
            taken = take_in(path, *arguments)
            self.taken_in += taken
            return taken

        def counted_out(path: Replies, worker: Any, messages: ToPump) -> list[FromWorker]:
            others = put_out(path, worker, messages)
            self.put_out += len(one_by_one(messages)) - len(others)
            return others

        monkeypatch.setattr(Dispatcher, "take_in", counted_in)
        monkeypatch.setattr(Replies, "_put_out", counted_out)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@contextmanager
def general_road(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as without:
        without.setattr(Dispatcher, "take_in", lambda *_: False)
        without.setattr(Replies, "_put_out", lambda _path, _worker, messages: one_by_one(messages))
        yield


# --- the same on both roads ------------------------------------------------------------------------

REQUESTS = {
    "plain": get("/x"),
    "cookie": get("/x", "Cookie: id=1", "Accept: */*"),
    "another cookie": get("/x", "Cookie: id=2", "Accept: */*"),
    "close": get("/x", "Connection: close"),
    "head": get("/x", method="HEAD"),
    "post": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    "old": get("/x", version="1.0"),
}
REPLIES: dict[str, dict[str, Any]] = {
    "small": {"body": b"hello"},
    "empty": {"body": b""},
    "no content": {"status": 204, "reason": "No Content"},
    "not modified": {"status": 304, "reason": "Not Modified", "length": 5},
    "not found": {"status": 404, "reason": "Not Found", "body": b"no"},
    "strange status": {"status": 299, "reason": "", "body": b"x"},
    "large": {"body": bytes(60_000)},
    "closing": {"body": b"x", "close": True},
    "long fields": {"body": b"x", "fields": b"X: " + b"y" * 2000 + b"\r\n"},
}


def story(
    request: bytes, reply: dict[str, Any], *, alike: bool = False
) -> tuple[list[bytes], list[Any], list[bytes]]:
    """Three such requests on a connection, as far as it is kept: what the client gets, what is logged, and
    what the worker was told of them. `alike`: the worker says so as of several that are alike."""
    method = request.split(b" ")[0].decode()
    with Stage(access_logfile="-") as stage:
        hand = stage.hand()
        client = stage.client()
        got, told = [], []
        for _ in range(3):
            client.send(request)
            task = hand.take()
            told.append(task.head)
            if alike:
                body = reply.get("body", b"")
                hand.reply_alike([(task, body)], **{k: v for k, v in reply.items() if k != "body"})
            else:
                hand.reply(task, **reply)
            answer = client.answer(method)
            got.append(answer.head + answer.body)
            if answer.closes:
                assert client.rest() == b""
                break
        assert len(got) == 3 or client.over
        logged = [(record[2:6], record[9:]) for record in stage.pump.access.records]
        states = {conn.state for conn in stage.pump.connections.values()}
        assert states <= {ConnectionState.IDLE, ConnectionState.LINGERING}
        return got, logged, told


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS)
def test_both_roads_give_the_same(
    request_bytes: bytes, reply: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """To the client, to the worker, and in the log."""
    fast = story(request_bytes, reply)
    with general_road(monkeypatch):
        general = story(request_bytes, reply)
    assert fast == general


@pytest.mark.parametrize("name", [name for name in REPLIES if name not in ("not modified", "closing")])
@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS)
def test_what_is_said_of_several_is_the_same(
    request_bytes: bytes, name: str, monkeypatch: pytest.MonkeyPatch
):
    """On both roads. (What closes, or has a length without a body, is never said so.)"""
    one = story(request_bytes, REPLIES[name])
    assert story(request_bytes, REPLIES[name], alike=True) == one
    with general_road(monkeypatch):
        assert story(request_bytes, REPLIES[name], alike=True) == one


def test_each_of_several_gets_its_own_body(counted: Counted):
    """Of whatever length, in whatever order; those of which one is for the general road, or for nobody any
    more, too."""
    with Stage() as stage:
        hand = stage.hand()
        clients = [warm(stage, hand, get("/x")) for _ in range(6)]
        odd, gone = clients[1], clients[3]
        for number, client in enumerate(clients):
            client.send(get("/x", "Connection: close") if client is odd else get(f"/{number}"))
        tasks = [hand.take() for _ in clients]
        gone.leave()
        bodies = [b"a", b"b" * 20_000, b"c", b"dd", b"", b"e" * 20_000]
        assert hand.worker is not None
        bytes_before = hand.worker.response_bytes
        hand.reply_alike(list(zip(tasks, bodies, strict=True))[::-1])
        for client, body in zip(clients, bodies, strict=True):
            if client is not gone:
                assert client.answer().body == body
        assert hand.worker.outstanding == 0
        assert hand.worker.request_count == 2 * len(clients) + len(clients)
        of_gone = len(bodies[3])
        assert hand.worker.response_bytes - bytes_before == sum(map(len, bodies)) - of_gone
        assert len(set(hand.worker.free)) == len(hand.worker.free) == hand.worker.slots


def test_handlers_times_are_counted_of_each_of_several():
    """In the pool's histogram, whatever their order; as those of messages of their own."""

    def counted_times(*, alike: bool) -> list[int]:
        with Stage() as stage:
            hand = stage.hand()
            for handler_ns in (0, 1, 5, 4, 1 << 40, 5, 5, (1 << 10) - 1, 1 << 10):
                client = warm(stage, hand, get("/x"))
                client.send(get("/x"))
                if alike:
                    hand.reply_alike([(hand.take(), b"x")], handler_ns=handler_ns)
                else:
                    hand.reply(hand.take(), b"x", handler_ns=handler_ns)
                client.answer()
            return list(stage.pump.pools.pools[APP].counts.words)

    assert counted_times(alike=True) == counted_times(alike=False)


@pytest.mark.parametrize(
    "times",
    [
        [5],
        [0, 0, 0],
        [4, 7, 5, 4],
        [3, 4, 1 << 40, 0, 4, 7, 8],
        [(1 << 10) - 1, 1 << 10] * 20,
        [1 << 40, *[1] * 50],
    ],
)
def test_times_of_a_batch_are_counted_as_one_by_one(times: list[int]):
    together, apart = (Pool("app", 1, PoolCounts(memoryview(bytearray(8 * 200)).cast("Q"))) for _ in "12")
    together.took_times(times)
    for one in times:
        apart.took_times([one])
    assert list(together.counts.words) == list(apart.counts.words)
    assert together.counts.total_ns == sum(times)
    assert sum(together.counts.times) == len(times)


def test_the_mean_of_handlers_times_follows_batches():
    """As far as it follows the same times one by one; how fast a pool counts as fast, or no longer, is the
    same."""
    together, apart = (Pool("app", 1, PoolCounts(memoryview(bytearray(8 * 200)).cast("Q"))) for _ in "12")
    assert not together.fast
    for handler_ns, count in ((2000, 3), (2000, 40), (90_000_000, 1), (3000, 64), (5_000_000, 8)):
        together.took_times([handler_ns] * count)
        for _ in range(count):
            apart.took_times([handler_ns])
        assert together.mean_ns == pytest.approx(apart.mean_ns)
        assert together.fast == apart.fast


def test_no_task_has_the_number_of_another():
    """Slots are taken again, numbers never: so a late message for an earlier task in a slot means nothing."""
    with Stage() as stage:
        hand = stage.hand()
        clients = [stage.client() for _ in range(4)]
        numbers: list[int] = []
        for _ in range(5):
            for client in clients:
                client.send(get("/x"))
            tasks = [hand.take() for _ in clients]
            numbers += [task.number for task in tasks]
            hand.reply_alike([(task, b"x") for task in tasks[:2]])
            for task in tasks[2:]:
                hand.reply(task, b"x")
            for client in clients:
                assert client.answer().body == b"x"
        assert len(set(numbers)) == len(numbers)
        assert len({number % MOST_SLOTS for number in numbers}) == len(clients)
        assert hand.worker is not None
        assert {number % MOST_SLOTS for number in hand.worker.free} == set(range(hand.worker.slots))


def test_requests_of_one_turn_have_times_of_their_own():
    clock = Clock()
    given = []
    for _ in range(3):
        clock.tick()
        given += [clock.next_ns(), clock.next_ns()]
        assert clock.now_ns <= given[-2] < given[-1] <= clock.now_ns + 2 * len(given)
    assert sorted(set(given)) == given


def test_replies_without_a_body_or_a_time_cost_the_worker(capfd: pytest.CaptureFixture[str]):
    """Such a message is malformed, and nothing of it is sent."""
    with Stage() as stage:
        hand = stage.hand()
        client = warm(stage, hand, get("/x"))
        client.send(get("/x"))
        task = hand.take()
        hand.send_packet(encode([(ALIKE_TAG, 200, "OK", b"", False, [task.number], [b"a", b"b"], [1])]))
        assert client.answer().status == 502
        assert stage.lost == [hand.number]
    assert "malformed message" in capfd.readouterr().err


def test_a_plain_request_takes_the_fast_path(counted: Counted):
    """From the second time on in, and every time out; with cookies that differ too."""
    skip_with_single_bytes("takes the general road")
    skip_with_records("takes the general road")
    with Stage() as stage:
        hand = stage.hand()
        for client in (stage.client(), stage.client()):
            for number in range(4):
                for request in (get("/x"), get("/x", f"Cookie: id={number}")):
                    client.send(request)
                    task = hand.take()
                    assert task.head == request
                    hand.reply(task, b"%d" % number)
                    assert client.answer().body == b"%d" % number
    assert counted.put_out == 16
    assert counted.taken_in == 16 - 2 - 1  # the first of a kind; and each connection's first is not from IDLE


# --- how much is read at once ----------------------------------------------------------------------

SIZES = [FIRST_READ - 1, FIRST_READ, FIRST_READ + 1, 2 * FIRST_READ]


def of_size(size: int, *, cookie: bool = False) -> bytes:
    """A plain request of so many bytes."""
    fields = ("Cookie: id=1",) if cookie else ()
    empty = get("/x", *fields, "X: ")
    return empty.replace(b"X: ", b"X: " + b"y" * (size - len(empty)))


@pytest.mark.parametrize("cookie", [False, True], ids=["", "cookie"])
@pytest.mark.parametrize("size", SIZES)
def test_a_request_may_fill_the_first_read(size: int, cookie: bool, counted: Counted):
    """Or be longer: what is behind it is read at once, too."""
    request = of_size(size, cookie=cookie)
    assert len(request) == size
    with Stage() as stage:
        hand = stage.hand()
        client = stage.client()
        for number in range(4):
            client.send(request)
            task = hand.take()
            assert task.head == request
            hand.reply(task, b"%d" % number)
            assert client.answer().body == b"%d" % number
    if transport() in ("plain", "tls"):
        assert counted.taken_in == 4 - 1


@pytest.mark.parametrize("lease", [None, Lease(100, ())], ids=["", "leased"])
@pytest.mark.parametrize("cookie", [False, True], ids=["", "cookie"])
@pytest.mark.parametrize("size", SIZES)
def test_what_comes_with_a_request_that_fills_the_first_read_is_served(
    size: int, cookie: bool, lease: Lease | None
):
    """The next request, or the first bytes of it."""
    request = of_size(size, cookie=cookie)
    for behind in (0, 1, 7, len(request) - 1, len(request)):
        with Stage() as stage:
            hand = stage.hand()
            client = stage.client()
            hand.answers = True
            stage.handler = lambda hand, task: hand.reply(task, b"body", lease=lease)
            assert client.ask(request).body == b"body"
            assert client.ask(request).body == b"body"
            client.send(request + request[:behind])
            assert client.answer().body == b"body"
            client.send(request[behind:])
            assert client.answer().body == b"body"
            assert client.ask(get("/last")).body == b"body"


@pytest.mark.parametrize("size", SIZES)
def test_a_request_that_comes_in_two_parts(size: int):
    """The first of which may fill the first read."""
    request = of_size(size)
    for first in sorted({1, FIRST_READ - 1, FIRST_READ, size - 1}):
        if first >= size:
            continue
        with Stage() as stage:
            hand = stage.hand()
            client = warm(stage, hand, request)
            client.send(request[:first])
            assert not hand.tasks
            client.send(request[first:])
            hand.reply(hand.take(), b"body")
            assert client.answer().body == b"body"


@pytest.mark.parametrize("size", SIZES)
def test_a_client_that_closes_its_side_with_such_a_request_has_its_response(size: int):
    request = of_size(size)
    with Stage() as stage:
        hand = stage.hand()
        client = warm(stage, hand, request)
        client.sock.send(request)
        client.finish()
        hand.reply(hand.take(), b"last")
        assert client.answer().body == b"last"
        assert client.rest() == b""


# --- what is left to the general road --------------------------------------------------------------


def warm(stage: Stage, hand: Hand, request: bytes) -> Client:
    """A client whose request was read before."""
    client = stage.client()
    for _ in range(2):
        client.send(request)
        hand.reply(hand.take(), b"first")
        client.answer()
    return client


def test_a_leased_response_is_not_asked_for_again(counted: Counted):
    """A head that was seen before there was a lease is answered from the lease."""
    with Stage() as stage:
        hand = stage.hand()
        client = warm(stage, hand, get("/x"))
        client.send(get("/x"))
        hand.reply(hand.take(), b"leased", lease=Lease(100, ()))
        assert client.answer().body == b"leased"
        for _ in range(3):
            assert client.ask("/x").body == b"leased"
        assert not hand.tasks


def test_a_lease_that_names_the_cookie_knows_each_requests_own(counted: Counted):
    """Requests share the parsed head; their cookies are their own."""
    with Stage() as stage:
        hand = stage.hand()
        client = warm(stage, hand, get("/x", "Cookie: id=0"))
        for number in (1, 2):
            client.send(get("/x", f"Cookie: id={number}"))
            hand.reply(hand.take(), b"for %d" % number, lease=Lease(100, ("cookie",)))
            client.answer()
        for number in (1, 2, 1):
            assert client.ask(get("/x", f"Cookie: id={number}")).body == b"for %d" % number
        client.send(get("/x", "Cookie: id=3"))
        assert hand.take().head.endswith(b"id=3\r\n\r\n")


def test_a_full_queue_refuses_on_the_fast_path_too():
    """503 as anywhere."""
    with Stage(queue_limit=2) as stage:
        hand = stage.hand(threads=1)
        first = warm(stage, hand, get("/x"))
        clients = [warm(stage, hand, get("/x")) for _ in range(4)]
        first.send(get("/x"))
        task = hand.take()
        for client in clients:
            client.send(get("/x"))
        statuses = [client.answer().status for client in clients[2:]]
        assert statuses == [503, 503]
        hand.reply(task, b"ok")


def test_pipelined_requests_behind_a_fast_one_are_answered(counted: Counted):
    """What came while a worker had the first is there when it is answered."""
    with Stage() as stage:
        hand = stage.hand()
        client = warm(stage, hand, get("/x"))
        client.send(get("/x"))
        task = hand.take()
        client.send(get("/y") + get("/z"))
        hand.reply(task, b"x")
        for path in (b"y", b"z"):
            task = hand.take()
            assert task.head.startswith(b"GET /" + path)
            hand.reply(task, path)
        assert [client.answer().body for _ in range(3)] == [b"x", b"y", b"z"]


@pytest.mark.parametrize("first", [0, 1, 17, 200])
def test_a_socket_that_takes_a_part(first: int, monkeypatch: pytest.MonkeyPatch, counted: Counted):
    """The rest goes the way of every response, and is logged when it was taken."""
    with Stage(access_logfile="-") as stage:
        hand = stage.hand()
        client = warm(stage, hand, get("/x"))
        stage.pump.access.records.clear()
        client.send(get("/x"))
        task = hand.take()
        [conn] = stage.pump.connections.values()
        whole = conn.transport

        class Reluctant:
            def __getattr__(self, name: str) -> Any:
                return getattr(whole, name)

            def send(self, data: bytes, *_: Any) -> int:
                conn.transport = whole
                if not first:
                    raise BlockingIOError
                return whole.send(data[:first])

        conn.transport = Reluctant()  # type: ignore[assignment]
        hand.reply(task, b"y" * 300)
        assert conn.exchange is None or conn.exchange.state is ExchangeState.SENDING
        assert client.answer().body == b"y" * 300
        assert stage.reasons() == [CloseReason.KEPT]
        [record] = stage.pump.access.records
        assert record[4] == 300


def test_a_client_that_has_left_when_its_fast_response_comes(counted: Counted):
    """Nothing is sent, and it is logged as left."""
    with Stage(access_logfile="-") as stage:
        hand = stage.hand()
        client = warm(stage, hand, get("/x"))
        client.send(get("/x"))
        task = hand.take()
        client.leave()
        hand.reply(task, b"late")
        stage.settle()
        assert stage.reasons()[-1] is CloseReason.CLIENT_DISCONNECTED
        assert hand.worker is not None
        assert hand.worker.outstanding == 0


def test_a_stop_says_so_on_the_fast_path_too():
    """`Connection: close` on the last response."""
    with Stage() as stage:
        hand = stage.hand()
        client = warm(stage, hand, get("/x"))
        client.send(get("/x"))
        task = hand.take()
        stage.pump.draining.begin(30)
        hand.reply(task, b"last")
        assert client.answer().closes


def test_what_a_worker_gets_is_a_task(monkeypatch: pytest.MonkeyPatch):
    """The columns are those of Task, in order."""
    sent: list[Any] = []
    send = Worker.send

    def recorded(worker: Worker, messages: Any, fds: list[int]) -> Any:
        sent.extend(messages)
        return send(worker, messages, fds)

    monkeypatch.setattr(Worker, "send", recorded)
    with Stage() as stage:
        hand = stage.hand()
        client = stage.client()
        client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        task = hand.take()
    [told] = sent
    [decoded] = decode_tasks(encode([told]))
    assert decoded == task
    assert encode([decoded]) == encode([told])
    assert len(told) == len(Task.__struct_fields__) + 1


# --- gathering -------------------------------------------------------------------------------------


def test_packets_are_gathered_while_events_come_and_workers_are_busy():
    """What comes within a few turns goes in one packet; and it goes without anything more coming."""
    with Stage() as stage:
        hand = stage.hand()
        busy = warm(stage, hand, get("/x"))
        clients = [warm(stage, hand, get("/x")) for _ in range(3)]
        busy.send(get("/x"))
        stage.pump.pools.pools[1].mean_ns = 1000.0
        packets = len(hand.packets)
        for client in clients:
            client.sock.send(get("/x"))
            stage.pump._turn()
            assert stage.pump.pools.dispatcher.gathered
        for _ in range(3):
            stage.pump._turn()
        hand.work()
        assert [len(packet) for packet in hand.packets[packets:]] == [3]
        assert not stage.pump.pools.dispatcher.gathered


@pytest.mark.parametrize(("mean_ns", "busy"), [(1e9, True), (1000.0, False)])
def test_slow_handlers_and_idle_workers_get_their_tasks_at_once(mean_ns: float, busy: bool):
    """Nothing is gained by waiting there."""
    with Stage() as stage:
        hand = stage.hand()
        other = warm(stage, hand, get("/x"))
        client = warm(stage, hand, get("/x"))
        if busy:
            other.send(get("/x"))
            hand.take()
        stage.pump.pools.pools[1].mean_ns = mean_ns
        client.sock.send(get("/x"))
        stage.pump._turn()
        assert not stage.pump.pools.dispatcher.gathered
        hand.work()
        assert len(hand.tasks) == 1
