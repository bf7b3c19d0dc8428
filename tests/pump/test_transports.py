"""The contract of a transport: whatever carries a connection's bytes, in pieces of whatever size, the clients
get the same responses.

Here are the promises themselves, and tests of other files run again. With HALFSYNC_TEST_TRANSPORT=bytes,
=records or =tls all of tests/pump runs so; only tests that count how often a short cut is taken differ then.
"""

from __future__ import annotations

import os

import pytest

from halfsync.objects import File, Memory
from halfsync.pump.tls.transport import TLSTransport
from halfsync.wire.messages import Ending, Lease
from tests.pump.harness import Stage, get
from tests.pump.test_connections import (  # noqa: F401 (each is run here with every transport)
    stage,
    test_a_half_closed_client_gets_its_response,
    test_a_request_that_is_cut_off_reaches_nobody,
    test_bodies_in_memory_and_in_files,
    test_pipelined_requests_are_answered_in_order,
    test_responses_that_do_not_fit_the_socket,
)
from tests.pump.transports import TRANSPORTS


@pytest.fixture(autouse=True, params=["bytes", "records", "tls"])
def _transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALFSYNC_TEST_TRANSPORT", request.param)


def test_the_transport_is_in_use():
    with Stage() as ground:
        ground.client()
        (conn,) = ground.pump.connections.values()
        known = {**TRANSPORTS, "tls": TLSTransport}
        assert type(conn.transport) is known[os.environ["HALFSYNC_TEST_TRANSPORT"]]


def test_requests_that_were_read_together_are_all_answered():
    """What the transport keeps is not told by the kernel again: also when the head is known from before, and
    the request takes the fast path."""
    with Stage() as ground:
        ground.hand(answers=True)
        client = ground.client()
        for _ in range(3):
            client.send(get("/a") * 3 + get("/b") + get("/a"))
            paths = [client.answer().body.split()[1] for _ in range(5)]
            assert paths == [b"/a", b"/a", b"/a", b"/b", b"/a"]
        assert client.quiet()


@pytest.mark.parametrize("size", [10, 16_000, 16_384, 40_000])
def test_a_response_that_is_taken_in_part_goes_on(size: int):
    """A short send does not mean that the socket is full, so no event may follow."""
    with Stage() as ground:
        hand = ground.hand()
        client = ground.client()
        for _ in range(3):
            client.send(get("/x"))
            hand.reply(hand.take(), b"x" * size)
            assert client.answer().body == b"x" * size


def test_a_leased_response_is_repeated():
    with Stage() as ground:
        hand = ground.hand()
        client = ground.client()
        client.send(get("/x"))
        hand.reply(hand.take(), b"leased", lease=Lease(60.0, ()))
        assert client.answer().body == b"leased"
        client.send(get("/x") * 3)
        assert [client.answer().body for _ in range(3)] == [b"leased"] * 3
        assert not hand.tasks


def test_files_and_memory_are_sent_in_order(tmp_path):
    """A transport that can't send files by descriptor reads them."""
    (tmp_path / "file").write_bytes(b"0123456789" * 5000)
    with Stage() as ground:
        hand = ground.hand()
        client = ground.client()
        client.send(get("/x"))
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        task = hand.take()
        hand.reply(task, b"<", objects=[File(0, 10, 40_000)], fds=(fd,), ending=Ending.UNFINISHED)
        hand.part(task, Memory(b">"), ending=Ending.DONE)
        assert client.answer().body == b"<" + b"0123456789" * 4000 + b">"


def test_what_was_sent_before_the_client_closed_its_side_is_served():
    """The end of file is behind what the transport keeps."""
    with Stage() as ground:
        ground.hand(answers=True)
        client = ground.client()
        client.sock.sendall(get("/1") + get("/2", "Connection: close"))
        client.finish()
        assert client.answer().body.split()[1] == b"/1"
        assert client.answer().body.split()[1] == b"/2"
        assert client.rest() == b""
