"""Pipelined requests in several writes, with pauses that fall into every place.

A client sends a mix of requests (leased and not, with bodies of both framings, HEAD) whose responses all
differ; the pump takes a number of turns between two writes. However the bytes are cut, the client gets
the response to each request, whole, once and in order.

A connection has a share of each turn (`STEPS_A_TURN`). With the real one it takes a hundred requests to
use it up; the tests make it small, so that it ends within the mix.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator, Sequence
from unittest import mock

import pytest

from halfsync.pump import loop
from halfsync.wire.messages import Lease, Task
from tests.pump.harness import TIMEOUT, Client, Hand, Stage, get, parse_answer

LEASED = get("/leased")
FEW_STEPS = [1, 2, 5]
A_HUNDRED = 100


def counted(number: int) -> bytes:
    body = b"body %d" % number
    return b"POST /p%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)


def chunked(number: int) -> bytes:
    head = b"POST /c%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % number
    rest = b"y %d" % number
    return head + b"3\r\nbod\r\n%x;x=y\r\n%s\r\n0\r\nT: v\r\n\r\n" % (len(rest), rest)


def head(number: int) -> bytes:
    return get(f"/h{number}", method="HEAD")


MIX = [LEASED, get("/1"), LEASED, counted(2), LEASED, LEASED, chunked(3), head(4), LEASED, get("/5"), LEASED]
SHORT_MIX = [LEASED, counted(2), LEASED, chunked(3), head(4)]


def respond(hand: Hand, task: Task) -> None:
    """Says what was asked, and grants a lease for /leased."""
    text = told(task.head, hand.bodies[task.number])
    lease = Lease(1000, ()) if task.head == LEASED else None
    if task.head.startswith(b"HEAD"):
        hand.reply(task, length=len(text))
    else:
        hand.reply(task, text, lease=lease)


def told(head: bytes, body: bytes) -> bytes:
    return head.partition(b" HTTP")[0] + b" " + body


def expected(request: bytes) -> tuple[str, bytes]:
    """Method, and what comes back."""
    head, _, body = request.partition(b"\r\n\r\n")
    if b"chunked" in head:
        body = b"body %d" % int(head.split(b" ")[1][2:])
    return head.split(b" ")[0].decode(), told(head, body)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        stage.handler = respond
        stage.hand(answers=True)
        first = stage.client()
        first.ask(LEASED)
        first.ask(LEASED)  # from now on the bytes themselves are known
        first.leave()
        yield stage


def send_in(stage: Stage, client: Client, parts: Sequence[bytes], turns: int) -> None:
    """Each part in a write and a segment of its own, with so many turns behind it."""
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        view = memoryview(part)
        while view:
            try:
                view = view[client.sock.send(view) :]
            except BlockingIOError:
                stage.turn()
        for _ in range(turns):
            stage.turn()


def check(stage: Stage, client: Client, requests: Sequence[bytes], told: object) -> None:
    """The responses to `requests`, in order, and nothing behind them."""
    for number, request in enumerate(requests):
        method, text = expected(request)
        answer = None
        give_up = time.monotonic() + TIMEOUT
        while (answer := parse_answer(client.inbox, method)) is None:
            happened = stage.turn()
            assert client.receive() or happened or time.monotonic() < give_up, (
                f"request {number} of {len(requests)} is lost ({told})"
            )
            assert not client.over, f"closed before the response to request {number} ({told})"
        client.inbox = client.inbox[answer.size :]
        assert answer.status == 200, (number, told)
        if method == "HEAD":
            assert answer.fields["content-length"] == str(len(text)), (number, told)
        else:
            assert answer.body == text, f"wrong response to request {number} ({told})"
    assert client.quiet(), f"something is behind the last response ({told})"


def exchange(stage: Stage, requests: Sequence[bytes], parts: Sequence[bytes], turns: int) -> None:
    client = stage.client()
    send_in(stage, client, parts, turns)
    check(stage, client, requests, ([len(part) for part in parts], turns))
    client.leave()


def cuts_in_two(data: bytes) -> Iterator[list[bytes]]:
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def notable_cuts(requests: Sequence[bytes]) -> list[int]:
    """Around each end of a line, of a request, and of a body."""
    data = b"".join(requests)
    ends = set(itertools.accumulate(map(len, requests)))
    ends.update(at + 1 for at, byte in enumerate(data) if byte == 10)
    near = {end + by for end in ends for by in (-1, 0)}
    return sorted(at for at in near if 0 < at < len(data))


@pytest.fixture(params=FEW_STEPS)
def few_steps(request: pytest.FixtureRequest) -> Iterator[None]:
    """A share of a turn that ends during a mix."""
    with mock.patch.object(loop, "STEPS_A_TURN", request.param):
        yield


# --- every cut ------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.usefixtures("few_steps")
def test_a_mix_in_two_writes(stage: Stage, turns: int):
    """Cut around each end of a line, of a request and of a body, and at every third byte: with another number
    of turns at the others."""
    notable = {*notable_cuts(MIX)}
    for parts in cuts_in_two(b"".join(MIX)):
        at = len(parts[0])
        if at in notable or at % 3 == turns:
            exchange(stage, MIX, parts, turns)


@pytest.mark.parametrize(("steps", "turns"), [(1, 1), (3, 1), (2, 2)])
def test_a_mix_in_three_writes(stage: Stage, steps: int, turns: int):
    """Cut at every two places near the end of a line, a request or a body."""
    data = b"".join(SHORT_MIX)
    with mock.patch.object(loop, "STEPS_A_TURN", steps):
        for one, two in itertools.combinations(notable_cuts(SHORT_MIX), 2):
            exchange(stage, SHORT_MIX, [data[:one], data[one:two], data[two:]], turns)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 61])
@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.usefixtures("few_steps")
def test_a_mix_in_equal_pieces(stage: Stage, turns: int, size: int):
    """Byte by byte, and in pieces whose ends move through the requests."""
    data = b"".join(MIX * 3)
    exchange(stage, MIX * 3, [data[at : at + size] for at in range(0, len(data), size)], turns)


@pytest.mark.usefixtures("few_steps")
def test_each_request_in_a_write_of_its_own_while_earlier_ones_wait(stage: Stage):
    """A burst, and then one more after each turn: nothing passes what is buffered, nothing is overwritten."""
    for first in range(1, 12):
        for late in (LEASED, get("/late"), counted(9), chunked(9), head(9)):
            requests = [LEASED] * first + [late] + [LEASED] * 3 + [late]
            parts = [b"".join(requests[:first]), *requests[first:]]
            exchange(stage, requests, parts, 1)


@pytest.mark.parametrize("turns", [0, 1])
def test_bodies_that_go_to_a_file(turns: int):
    """As above; the pump writes each body to a temporary file while it comes."""
    with Stage(body_memory=4) as stage:
        stage.handler = respond
        stage.hand(answers=True)
        requests = [counted(1), chunked(2), counted(3), LEASED, chunked(4)]
        for parts in cuts_in_two(b"".join(requests)):
            exchange(stage, requests, parts, turns)


# --- the real share of a turn ---------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("last", [LEASED, get("/last"), counted(7), chunked(7), head(7)])
def test_more_requests_than_a_turn_answers_and_then_one_more(stage: Stage, turns: int, last: bytes):
    for burst in (A_HUNDRED, 2 * A_HUNDRED, 3 * A_HUNDRED):
        requests = [LEASED] * burst + [last, LEASED]
        exchange(stage, requests, [LEASED * burst, last, LEASED], turns)


@pytest.mark.parametrize("every", [2, 3, 7, 50])
@pytest.mark.parametrize("cut", [1, 40, 63, 64, 65, 100])
def test_leased_ones_mixed_with_others_by_the_hundred(stage: Stage, every: int, cut: int):
    requests = [
        LEASED
        if number % every
        else [get(f"/{number}"), counted(number), chunked(number), head(number)][number % 4]
        for number in range(2 * A_HUNDRED)
    ]
    data = [
        b"".join(requests[:cut]),
        *(b"".join(requests[at : at + cut]) for at in range(cut, len(requests), cut)),
    ]
    for turns in (1, 2):
        exchange(stage, requests, data, turns)


def test_the_client_closes_its_way_behind_a_burst(stage: Stage):
    """All that it asked is answered; then the connection ends in good order."""
    for last in (LEASED, get("/last"), counted(7)):
        client = stage.client()
        send_in(stage, client, [LEASED * A_HUNDRED, last], 1)
        client.finish()
        for request in [*[LEASED] * A_HUNDRED, last]:
            method, text = expected(request)
            assert client.answer(method).body == text
        assert client.rest() == b""
        assert not client.reset


def test_a_stop_during_a_burst_answers_what_was_asked_before(stage: Stage):
    """Once the pump drains, the next response closes the connection; none is lost before that, and none is
    out of order."""
    client = stage.client()
    send_in(stage, client, [LEASED * A_HUNDRED, get("/last")], 1)
    stage.pump.draining.begin(30.0)
    client.finish()
    data = client.rest()
    closed = False
    while data:
        answer = parse_answer(data)
        assert answer is not None, "cut short"
        assert not closed, "a response behind the last one"
        assert answer.body in (b"GET /leased ", b"GET /last ")
        closed = answer.closes
        data = data[answer.size :]
    assert closed
    assert not client.reset
