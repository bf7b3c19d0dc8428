"""Bodies that are not sent (HEAD, 204, 304), trailers behind one piece, and a `send` that is cancelled."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from halfsync.wire.messages import ABORTED, DONE, RESPONSE_WINDOW, UNFINISHED, Part, Reply
from tests.asgi_stage import Stage, respond, settled

HEAD = "HEAD / HTTP/1.1\nHost: x"


async def start(send: Any, status: int = 200, headers: Any = (), **more: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers, **more})


async def body(send: Any, data: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


# --- no body ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "said", "length"),
    [
        ([b"abc"], None, 3),
        ([b"abc", b"de"], None, -1),  # the same GET would have chunks
        ([b"abc", b""], None, -1),
        ([b"abc", b"de"], 5, 5),
        ([b""], 5, 5),
    ],
)
def test_head_says_the_length_that_get_would_say(pieces: list[bytes], said: int | None, length: int):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, headers=[(b"content-length", b"%d" % said)] if said is not None else [])
        for number, one in enumerate(pieces):
            await body(send, one, more=number < len(pieces) - 1)
        assert await receive() == {"type": "http.disconnect"}

    [reply] = respond(app, HEAD).sent
    assert (reply.length, reply.body, reply.ending) == (length, b"", DONE)
    if said is None:
        got = respond(app, HEAD.replace("HEAD", "GET")).sent[0]
        assert got.length == length


def test_head_with_an_empty_body_says_no_length():
    """The application may give it because it was asked for the head alone: how long the body of GET would be
    is not known."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send)

    [reply] = respond(app, HEAD).sent
    assert (reply.length, reply.body, reply.ending) == (-1, b"", DONE)


@pytest.mark.parametrize(("head", "status"), [(HEAD, 200), (HEAD, 204), (HEAD.replace("HEAD", "GET"), 304)])
def test_the_first_event_of_the_body_sends_the_head_and_the_client_has_all_of_it(head: str, status: int):
    """An endless stream has an end there: whoever listens for the client's leaving is told of it."""
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, status)
        await receive()
        listener = asyncio.ensure_future(receive())
        await settled()
        assert not listener.done()
        await body(send, b"1", more=True)
        assert await listener == {"type": "http.disconnect"}
        left.set()
        await body(send, b"2", more=True)
        await asyncio.Event().wait()

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task(head)):
            await asyncio.wait_for(left.wait(), 60)
            await settled()
            [reply] = stage.sent
            assert (reply.status, reply.ending) == (status, DONE)
            stage.sent.clear()
            break_off(stage)
        assert stage.sent == []

    def break_off(stage: Stage) -> None:
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    asyncio.run(run())


def test_one_that_never_stops_and_does_not_listen_is_stopped(capfd):
    """It would keep the loop for itself, since nothing makes its `send` wait."""
    pieces = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal pieces
        await start(send)
        while True:
            await body(send, bytes(1000), more=True)
            pieces += 1

    [reply] = respond(app, HEAD).sent
    assert (reply.status, reply.ending) == (200, DONE)
    assert 0 < pieces <= RESPONSE_WINDOW // 1000
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_what_ends_amid_a_body_that_is_not_sent_is_logged_and_nothing_more_is_sent(ends: str, capfd):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"1", more=True)
        if ends == "raises":
            raise RuntimeError("amid")

    [reply] = respond(app, HEAD).sent
    assert reply.ending is DONE
    said = capfd.readouterr().err
    assert ("before its response was complete" if ends == "returns" else "RuntimeError: amid") in said


def test_trailers_and_files_are_dropped_too(tmp_path, capfd):
    (tmp_path / "file").write_bytes(b"abc")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, trailers=True)
        await body(send, b"1", more=True)
        with (tmp_path / "file").open("rb") as file:
            await send({"type": "http.response.zerocopysend", "file": file, "more_body": True})
            await send({"type": "http.response.zerocopysend", "file": file})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})

    [reply] = respond(app, HEAD).sent
    assert (reply.length, reply.ending) == (-1, DONE)
    assert capfd.readouterr().err == ""


# --- trailers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["body", "path", "file"])
def test_a_body_of_one_piece_with_trailers_has_no_length(how: str, tmp_path):
    """HTTP/1.1 has trailers behind chunks alone."""
    (tmp_path / "file").write_bytes(b"abc")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, trailers=True)
        with (tmp_path / "file").open("rb") as file:
            await send(
                {
                    "body": {"type": "http.response.body", "body": b"abc"},
                    "path": {"type": "http.response.pathsend", "path": str(tmp_path / "file")},
                    "file": {"type": "http.response.zerocopysend", "file": file},
                }[how]
            )
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})

    stage = respond(app)
    reply, last = stage.sent[0], stage.sent[-1]
    assert isinstance(reply, Reply)
    assert isinstance(last, Part)
    assert (reply.length, reply.ending) == (-1, UNFINISHED)
    assert (last.trailers, last.ending) == (b"x-sum: 1\r\n", DONE)
    assert stage.body == b"abc"


# --- a `send` that is cancelled --------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_a_response_of_which_a_piece_was_sent_in_part_never_looks_whole(first: bool, capfd):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        if not first:
            await body(send, b"first", more=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await body(send, bytes(2 * RESPONSE_WINDOW), more=True)
        with pytest.raises(RuntimeError, match="cancelled amid its piece"):
            await body(send, b"more", more=True)
        await body(send, b"last")

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")) as invocation:
            await asyncio.wait([invocation.running], timeout=60)
        assert stage.ending is ABORTED

    asyncio.run(run())
    assert capfd.readouterr().err.count("cancelled amid its piece") == 2


def test_a_piece_that_was_cancelled_before_any_of_it_was_sent_can_be_sent_again():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for number in itertools.count():
            try:
                async with asyncio.timeout(0.05):
                    await body(send, b"%06d" % number + bytes(50_000), more=True)
            except TimeoutError:
                break
        waits.set()
        await body(send, b"%06d" % number)
        numbers.append(number)

    waits = asyncio.Event()
    numbers: list[int] = []

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")) as invocation:
            await asyncio.wait_for(waits.wait(), 60)
            invocation.taken(RESPONSE_WINDOW)
            await asyncio.wait([invocation.running], timeout=60)
        assert stage.ending is DONE
        [last] = numbers
        assert stage.body == b"".join(b"%06d" % one + bytes(50_000) for one in range(last)) + b"%06d" % last

    asyncio.run(run())
