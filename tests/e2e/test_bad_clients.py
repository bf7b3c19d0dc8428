"""Who gives the thread back: with T threads and T + 2 bad clients of one kind, the next request is
answered, memory stays bounded, and a slow reader that reads on gets every byte.

Nobody counts milliseconds: a server that ties a thread to a bad client does not answer the next
request at all, so `AT_ONCE` may be generous.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from tests.e2e.harness import AT_ONCE, MIB, Client, Server, digest, pattern, request, resident, serving, until

THREADS = 2
BAD = THREADS + 2
LARGE = 32 * MIB
LIMIT = "2"
"""Seconds, of each time limit. A client that a busy machine keeps waiting is still far from it."""
GROWTH = 60 * MIB
"""Of the pump and of the worker, with BAD readers of LARGE each: 128 MiB that must not be in memory."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "large").write_bytes(pattern(LARGE))
    (folder / "public").mkdir()
    (folder / "public/file").write_bytes(b"a file\n")
    # Each of the slow ones reads on when the one before it has all, which may take a busy machine minutes.
    patient = ("--send-timeout", "600", "--min-rate", "0")
    with serving(folder, "story:app", "/public=./public", "--threads", str(THREADS), *patient) as server:
        # The worker makes its 32 MiB once, before anything is measured.
        assert len(server.get("/whole").body) == LARGE
        yield server


def says_nothing(client: Client) -> None:
    """Connected, and silent."""


def sends_half_a_head(client: Client) -> None:
    client.send(b"GET /hello HTTP/1.1\r\nHost: story.test\r\nX-Half: ")


def stalls_an_upload(client: Client) -> None:
    client.send(
        b"POST /received HTTP/1.1\r\nHost: story.test\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000
    )


def stalls_a_chunked_upload(client: Client) -> None:
    client.send(
        b"POST /received HTTP/1.1\r\nHost: story.test\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nhalf"
    )


def asks(target: str) -> Callable[[Client], None]:
    def and_reads_slowly(client: Client) -> None:
        client.send(request(target))

    return and_reads_slowly


READERS = {
    "of bytes": asks("/whole"),
    "of a generator": asks("/pieces"),
    "of a file_wrapper": asks("/wrapped?file=large"),
}
SENDERS = {
    "idle": says_nothing,
    "half a head": sends_half_a_head,
    "a stalled upload": stalls_an_upload,
    "a stalled chunked upload": stalls_a_chunked_upload,
}


def a_good_one_is_served(server: Server) -> None:
    with server.client(seconds=AT_ONCE) as good:
        assert good.ask("/hello").body == b"hello\n"
        assert good.ask("/public/file").body == b"a file\n"


@pytest.mark.parametrize("kind", SENDERS)
def test_clients_that_do_not_finish_their_request_hold_no_thread(site, kind):
    with contextlib.ExitStack() as crowd:
        for _ in range(BAD):
            SENDERS[kind](crowd.enter_context(site.client()))
        a_good_one_is_served(site)


@pytest.mark.parametrize("kind", READERS)
def test_clients_that_do_not_read_their_response_hold_no_thread_and_no_memory(site, kind):
    pump, (worker,) = site.pump, site.workers("story:app")
    before = resident(pump), resident(worker)
    with contextlib.ExitStack() as crowd:
        slow = [crowd.enter_context(site.client(receive_buffer=8192)) for _ in range(BAD)]
        for client in slow:
            READERS[kind](client)
        for client in slow:
            assert client.socket.recv(1) == b"H"  # the response has begun
        a_good_one_is_served(site)
        assert resident(pump) - before[0] < GROWTH
        assert resident(worker) - before[1] < GROWTH
        # When they read on after all, each gets everything.
        expected = digest(pattern(LARGE))
        for client in slow:
            client.unread += b"H"
            answer = client.answer()
            assert answer.whole
            assert digest(answer.body) == expected
            assert client.ask("/hello").body == b"hello\n"
        assert resident(pump) - before[0] < GROWTH


def test_a_slow_reader_gets_every_byte_beyond_what_is_spooled(tmp_path):
    """Past reply_spool there is a pipe, and then the handler's thread does wait for its client; but
    not for another's, and nothing is lost."""
    arguments = ("--threads", "2", "--reply-memory", "64K", "--reply-spool", "1M")
    with serving(tmp_path, "story:app", *arguments) as server, server.client(receive_buffer=8192) as slow:
        slow.send(request("/pieces"))
        assert slow.socket.recv(1) == b"H"
        a_good = server.get("/hello")
        assert a_good.body == b"hello\n"
        slow.unread += b"H"
        answer = slow.answer()
        assert answer.whole
        assert digest(answer.body) == digest(pattern(LARGE))
        until(lambda: server.get("/hello").status == 200)


def test_many_idle_connections_are_kept_beside_good_ones(site):
    with contextlib.ExitStack() as crowd:
        idle = [crowd.enter_context(site.client()) for _ in range(200)]
        for client in idle[::10]:
            assert client.ask("/hello").status == 200
        a_good_one_is_served(site)
        for client in idle[::10]:
            assert client.ask("/public/file").status == 200


def test_time_limits_free_what_bad_clients_hold(tmp_path):
    """Each kind has a limit of its own, and a client whose request has begun gets a 408."""
    limits = (
        "--head-timeout",
        LIMIT,
        "--body-timeout",
        LIMIT,
        "--keep-alive",
        LIMIT,
        "--send-timeout",
        LIMIT,
    )
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            serving(
                tmp_path, "story:app", *limits, "--access-logfile", "access", "--access-logformat", "json"
            )
        )

        def client() -> Client:
            return stack.enter_context(server.client(receive_buffer=8192))

        sends_half_a_head(half := client())
        stalls_an_upload(stalled := client())
        assert (kept := client()).ask("/hello").status == 200
        (reader := client()).send(request("/whole"))
        assert client().is_closed()  # silent
        for one in (half, stalled):
            answer = one.answer()
            assert (answer.status, answer["Connection"]) == (408, "close")
            assert one.is_closed()
        assert kept.is_closed()
        log = tmp_path / "access"
        endings = ("head_timeout", "body_timeout", "send_timeout")
        until(lambda: all(f'"{ending}"' in log.read_text() for ending in endings))
        reader.unread.clear()
        assert len(reader.rest()) < LARGE  # what was on its way, and then a reset


def test_a_trickle_below_the_minimum_rate_is_ended(tmp_path):
    """Every byte is progress; but 5 bytes a second is not 500."""
    limits = ("--rate-grace", "0.5", "--min-rate", "500", "--body-timeout", "60")
    with serving(tmp_path, "story:app", *limits) as server, server.client() as slow:
        stalls_an_upload(slow)
        slow.socket.settimeout(0.2)
        answered = b""

        def trickled() -> bytes:
            nonlocal answered
            try:
                slow.send(b"x")
                answered = slow.socket.recv(100)
            except TimeoutError:
                return b""
            return answered

        assert b" 408 " in until(trickled)
