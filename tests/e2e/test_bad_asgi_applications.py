"""ASGI applications that do what no application should: each costs its own requests, and no more."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.harness import AT_ONCE, Server, serving

APP = """
import asyncio
from pathlib import Path

START = {"type": "http.response.start", "status": 200, "headers": []}
LEFT = set()

async def app(scope, receive, send):
    if scope["type"] == "http":
        await globals()["do_" + (scope["path"].strip("/") or "hello")](receive, send)

async def do_hello(receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": b"hello"})

async def do_swallow(receive, send):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            Path("swallowed").touch()

async def do_leave(receive, send):
    # Its response is to come from a task that it leaves behind.
    LEFT.add(asyncio.create_task(later(send)))

async def later(send):
    await asyncio.sleep(0.1)
    try:
        await do_hello(None, send)
    except RuntimeError as error:
        Path("told").write_text(str(error))

async def do_left_in_the_middle(receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": b"some", "more_body": True})
    LEFT.add(asyncio.create_task(later(send)))

async def do_two_senders(receive, send):
    await send(START)
    async def some(letter):
        for _ in range(100):
            await send({"type": "http.response.body", "body": letter * 5000, "more_body": True})
    await asyncio.gather(some(b"a"), some(b"b"))
    await send({"type": "http.response.body"})

async def do_never_return(receive, send):
    await do_hello(receive, send)
    await asyncio.Event().wait()

async def do_raise_in_callback(receive, send):
    asyncio.get_running_loop().call_soon(raising)
    await asyncio.sleep(0)
    await do_hello(receive, send)

def raising():
    raise RuntimeError("in a callback")

async def do_cancel_itself(receive, send):
    asyncio.current_task().cancel()
    await asyncio.sleep(3600)

async def do_cancel_others(receive, send):
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await do_hello(receive, send)

async def do_receive_in_vain(receive, send):
    while (await receive())["type"] != "http.disconnect":
        pass

async def do_swallow_receive(receive, send):
    # Reads on after the client has left: each event says so again.
    for _ in range(1000):
        await receive()
    Path("read on").touch()
"""


TIMEOUTS = ("--handler-timeout", "1.5", "--handler-grace", "0.5", "--graceful-timeout", "2")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad-asgi")
    (folder / "badly.py").write_text(APP)
    with serving(folder, "badly:app", *TIMEOUTS) as server:
        server.tracebacks = -1
        yield server


def goes_on(site: Server) -> None:
    with site.client(seconds=AT_ONCE) as client:
        assert client.ask("/").body == b"hello"
        assert client.ask("/").body == b"hello"
    site.until(lambda: len(site.workers("badly:app")) == 1)  # none has ended, or its successor is there


def test_the_worker_of_one_that_swallows_its_cancellation_is_replaced(site):
    """And ends, though the application goes on."""
    old = site.workers("badly:app")
    assert site.get("/swallow").status == 504
    site.until((site.folder / "swallowed").exists)
    goes_on(site)
    site.until_logged(r"GET '/swallow' goes on .* after its deadline")
    site.until_gone(old)
    goes_on(site)


def test_a_response_that_is_left_to_another_task_comes_too_late(site):
    assert site.get("/leave").status == 500
    site.until_logged(r"GET /leave from 127.0.0.1: the application broke a rule of ASGI: it returned without")
    site.until((site.folder / "told").exists)
    site.until_logged(r"GET /leave .* it sent 'http.response.start', but the response is complete")
    goes_on(site)


def test_a_response_that_is_left_in_the_middle_is_cut(site):
    assert not site.get("/left_in_the_middle").whole
    site.until_logged(r"GET /left_in_the_middle .*: it returned before its response was complete")
    goes_on(site)


def test_two_tasks_may_send_pieces(site):
    """Each piece is whole."""
    body = site.get("/two_senders").body
    assert len(body) == 1_000_000
    assert {body[at : at + 5000] for at in range(0, len(body), 5000)} == {b"a" * 5000, b"b" * 5000}


def test_an_exception_in_a_callback_costs_no_request(site):
    assert site.get("/raise_in_callback").body == b"hello"
    site.until_logged("RuntimeError: in a callback")
    goes_on(site)


def test_one_that_cancels_itself_is_a_500(site):
    assert site.get("/cancel_itself").status == 500
    goes_on(site)


def test_one_that_cancels_all_others_costs_no_more_than_these(site):
    assert site.get("/cancel_others").body == b"hello"
    goes_on(site)


def test_one_that_only_reads_is_past_its_deadline(site):
    assert site.get("/receive_in_vain").status == 504
    goes_on(site)


def test_one_that_reads_on_after_its_client_has_left_does_not_wait(site):
    with site.client() as client:
        client.send(b"GET /swallow_receive HTTP/1.1\r\nHost: a\r\n\r\n")
    site.until((site.folder / "read on").exists)
    goes_on(site)


def test_one_that_never_returns_has_responded_and_does_not_hold_up_a_reload_for_ever(site):
    assert site.get("/never_return").body == b"hello"
    old = site.workers("badly:app")
    before = site.log().count("background tasks, are cancelled at graceful_timeout")
    site.signal(signal.SIGHUP)
    site.until_gone(old)
    assert site.log().count("background tasks, are cancelled at graceful_timeout") == before + 1
    goes_on(site)
