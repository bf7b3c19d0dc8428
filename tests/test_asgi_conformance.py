"""The HTTP part of the ASGI specification, section by section, without a server around it."""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import Any

import pytest

from halfsync.handlers import asgi_http
from halfsync.objects import Memory
from halfsync.tls import facts as tls_facts
from halfsync.wire.messages import (
    ABORTED,
    BODY_WINDOW,
    DONE,
    RESPONSE_WINDOW,
    UNFINISHED,
    EarlyHints,
    cost_of,
)
from tests.asgi_stage import Stage, piece, respond, settled


async def start(send: Any, status: int = 200, headers: Any = (), **more: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers, **more})


async def body(send: Any, data: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


def scope_of(head: str = "GET / HTTP/1.1\nHost: x", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)
        await start(send)
        await body(send)

    respond(app, head, **more)
    return found


# --- Connection scope ------------------------------------------------------------------------------


def test_the_scope_has_every_key():
    scope = scope_of("GET /a/b?c=d HTTP/1.1\nHost: x\nX-Y: z")
    assert scope.pop("extensions").keys() >= {"http.response.pathsend", "http.response.zerocopysend"}
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a/b",
        "raw_path": b"/a/b",
        "query_string": b"c=d",
        "root_path": "",
        "headers": [(b"host", b"x"), (b"x-y", b"z")],
        "client": ("192.0.2.7", 5),
        "server": ("127.0.0.1", 80),
        "state": {"kept": 1},
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("GET / HTTP/1.0", {"http_version": "1.0"}),
        ("GET / HTTP/2.0", {"http_version": "2"}),
        ("GET /%C3%A4?%C3%A4 HTTP/1.1", {"path": "/\xe4", "raw_path": b"/%C3%A4", "query_string": b"%C3%A4"}),
        ("GET /%e4 HTTP/1.1", {"path": "/\ufffd", "raw_path": b"/%e4"}),
        ("GET /a%2Fb%25 HTTP/1.1", {"path": "/a/b%", "raw_path": b"/a%2Fb%25"}),
        ("GET /? HTTP/1.1", {"path": "/", "query_string": b""}),
        ("GET http://other/a?b HTTP/1.1", {"path": "/a", "query_string": b"b", "headers": [(b"host",
        b"other")]}), ("OPTIONS * HTTP/1.1", {"path": "/"}),
    ],
)  # fmt: skip
def test_the_request_line_is_told(line, said):
    scope = scope_of(f"{line}\nHost: x")
    assert {name: scope[name] for name in said} == said


def test_root_path_is_a_routes_prefix_and_what_a_proxy_has_cut_off():
    below = scope_of("GET /api/x HTTP/1.1\nHost: x", prefix="/api")
    assert (below["root_path"], below["path"], below["raw_path"]) == ("/api", "/api/x", b"/api/x")
    both = scope_of("GET /api/x HTTP/1.1\nHost: x", prefix="/api", root_path="/v1")
    assert (both["root_path"], both["path"]) == ("/v1/api", "/v1/api/x")
    told = scope_of("GET /x HTTP/1.1\nHost: x\nX-Forwarded-Prefix: /p", client="192.0.2.1")
    assert (told["root_path"], told["path"]) == ("/p", "/p/x")


def test_a_unix_socket_has_a_path_and_no_client():
    scope = scope_of(listener=1, client="", client_port=0)
    assert (scope["server"], scope["client"]) == (("/run/app.sock", None), None)


def test_headers_keep_their_order_and_repetitions():
    scope = scope_of("GET / HTTP/1.1\nB: 1\nHost: x\nb: \t2 \nA: \xe4")
    assert scope["headers"] == [(b"b", b"1"), (b"host", b"x"), (b"b", b"2"), (b"a", b"\xe4")]


def test_a_proxy_that_is_not_trusted_says_nothing():
    scope = scope_of("GET / HTTP/1.1\nHost: x\nX-Forwarded-For: 1.2.3.4")
    assert (scope["client"], scope["headers"]) == (("192.0.2.7", 5), [(b"host", b"x")])
    assert "halfsync.lease" not in scope["extensions"]


def test_the_tls_extension_says_what_is_known():
    known = ("TLSv1.3", "TLS_AES_256_GCM_SHA384", 0x1302, 256, "x", None)
    facts = tls_facts.encode(tls_facts.TLSFacts(*known, "0123"))
    assert scope_of(listener=2, tls=facts)["extensions"]["tls"] == {
        "server_cert": "PEM",
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1302,
    }
    unknown = tls_facts.encode(tls_facts.TLSFacts(*known, "4567"))
    assert scope_of(listener=2, tls=unknown)["extensions"]["tls"]["server_cert"] is None
    assert "tls" not in scope_of()["extensions"]


def test_each_request_has_a_scope_of_its_own():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        before = repr(scope)
        scope["headers"].append((b"more", b"1"))
        scope["state"]["more"] = 1
        scope["extensions"]["more"] = {}
        for extension in scope["extensions"].values():
            extension["more"] = 1
        scope["asgi"]["more"] = 1
        await start(send)
        await body(send, before.encode())

    async def run() -> None:
        stage = Stage(app)
        for _ in range(2):
            async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")) as invocation:
                await asyncio.wait([invocation.running])
        first, second = (reply.body for reply in stage.sent)
        assert first == second

    asyncio.run(run())


# --- Request: receive event ------------------------------------------------------------------------


def test_a_whole_body_is_one_event_and_then_the_client_leaves():
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        seen.append(await receive())

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("POST / HTTP/1.1\nHost: x", b"whole")):
            assert seen == [{"type": "http.request", "body": b"whole", "more_body": False}]
        assert seen[1:] == [{"type": "http.disconnect"}]

    asyncio.run(run())


def test_a_body_in_a_file_comes_in_events_of_64_kib():
    data = os.urandom(150_000)
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not seen or seen[-1]["more_body"]:
            seen.append(await receive())
        await start(send)
        await body(send)

    async def run() -> None:
        stage = Stage(app)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            task = stage.task("POST / HTTP/1.1\nHost: x", None, body_size=len(data))
            async with stage.running(task, os.dup(file.fileno())) as invocation:
                await asyncio.wait([invocation.running])

    asyncio.run(run())
    assert [len(event["body"]) for event in seen] == [65536, 65536, 150_000 - 131_072]
    assert b"".join(event["body"] for event in seen) == data


def test_a_streamed_body_is_read_as_far_as_it_has_come_and_its_window_is_given_back():
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not seen or seen[-1]["more_body"]:
            seen.append(await receive())
        await start(send)
        await body(send)

    async def run() -> None:
        stage = Stage(app)
        task = stage.task("POST / HTTP/1.1\nHost: x", None, first=b"ab", body_size=-1)
        async with stage.running(task) as invocation:
            assert [event["body"] for event in seen] == [b"ab"]
            assert stage.credit == BODY_WINDOW
            invocation.deliver(piece(task.number, 2, bytes(1000)))
            invocation.deliver(piece(task.number, 2, bytes(1000)))  # said twice
            await settled()
            assert [len(event["body"]) for event in seen] == [2, 1000]
            assert stage.credit == BODY_WINDOW + 1000  # it waits: the whole window is open
            invocation.deliver(piece(task.number, 1002, b"", last=True))
            await asyncio.wait([invocation.running])
        assert [event["more_body"] for event in seen] == [True, True, False]

    asyncio.run(run())


def test_of_a_body_that_nobody_reads_nothing_more_is_asked_for():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, b"no thanks")

    stage = respond(app, "POST / HTTP/1.1\nHost: x", body=None, first=b"", body_size=5)
    assert (stage.credit, stage.body) == (0, b"no thanks")


# --- Response start and body: send events ----------------------------------------------------------


def test_the_head_waits_for_the_body():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await receive()
        await receive()

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")):
            assert stage.sent == []

    asyncio.run(run())


def test_a_response_that_is_whole_has_a_length():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 201, [(b"A", b" b "), (b"transfer-encoding", b"chunked")])
        await body(send, b"12345")

    [reply] = respond(app).sent
    assert (reply.status, reply.reason, reply.fields) == (201, "Created", b"A: b\r\n")
    assert (reply.length, reply.body, reply.ending) == (5, b"12345", DONE)


def test_a_body_in_pieces_has_none_and_each_leaves_by_itself():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for data in (b"a", b"b"):
            await body(send, data, more=True)
            await settled()
        await send({"type": "http.response.body"})

    first, second, last = respond(app).sent
    assert (first.length, first.body, first.ending) == (-1, b"a", UNFINISHED)
    assert (second.objects, second.ending) == ([Memory(b"b")], UNFINISHED)
    assert (last.objects, last.ending) == ([], DONE)
    assert first.handler_ns == second.handler_ns == 0 < last.handler_ns


def test_pieces_of_one_turn_leave_together_and_in_order():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        for number in range(10):
            await body(send, b"%d" % number, more=True)
        await body(send, b"end")

    first, last = respond(app).sent
    assert (first.body, last.objects, last.ending) == (b"0", [Memory(b"123456789end")], DONE)


def test_connection_close_closes_and_other_words_of_it_are_left_out():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 200, [(b"connection", b"close"), (b"keep-alive", b"5")])
        await body(send, b"x")

    [reply] = respond(app).sent
    assert (reply.close, reply.fields) == (True, b"")


def test_a_426_says_what_to_upgrade_to(capfd):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 426, [(b"connection", b"upgrade"), (b"upgrade", b"websocket")])
        await body(send, b"x")

    [reply] = respond(app).sent
    assert reply.fields == b"upgrade: websocket\r\nConnection: Upgrade\r\n"
    assert not reply.close
    assert "left out" not in capfd.readouterr().err


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 131_072, 200_000])
def test_a_body_of_any_size_is_whole(size):
    data = os.urandom(size)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, data)

    stage = respond(app)
    assert (stage.sent[0].length, stage.body, stage.ending) == (size, data, DONE)


def test_bytes_of_other_kinds_are_bytes():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await body(send, bytearray(b"a"), more=True)  # type: ignore[arg-type]
        await body(send, memoryview(b"b"))  # type: ignore[arg-type]

    assert respond(app).body == b"ab"


def test_send_waits_for_a_client_that_takes_nothing():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        while True:
            await body(send, bytes(50_000), more=True)

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")) as invocation:
            await settled()
            sent = len(stage.sent)
            costs = sum(cost_of(item) for message in stage.sent for item in message.objects)
            assert RESPONSE_WINDOW <= costs < RESPONSE_WINDOW + 60_000
            invocation.taken(costs)
            await settled()
            assert len(stage.sent) > sent
        assert invocation.running.done()
        assert stage.ending is ABORTED

    asyncio.run(run())


# --- Disconnect ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [False, True])
def test_what_is_sent_when_the_client_has_left_is_dropped(pieces: bool):
    """It is no error of the application, which may have more to do behind its response."""
    went_on = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert await receive() == {"type": "http.disconnect"}
        assert await receive() == {"type": "http.disconnect"}
        await start(send)
        if pieces:
            await body(send, b"1", more=True)
        await body(send, b"2")
        went_on.append(True)

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")):
            pass
        assert went_on
        assert stage.ending is ABORTED  # so the pump knows that it has ended
        assert stage.body == b""

    asyncio.run(run())


def test_an_endless_stream_that_does_not_listen_gets_an_oserror_in_the_end(monkeypatch, capfd):
    """It keeps nobody from their turn until then."""
    monkeypatch.setattr(asgi_http, "DROPPED_FOR", 0.01)
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        try:
            while True:
                await body(send, bytes(100_000), more=True)
        except OSError as error:
            raised.append(error)
            raise

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")):
            sent = len(stage.sent)
        assert len(raised) == 1
        assert len(stage.sent) == sent + 1
        assert stage.ending is ABORTED

    asyncio.run(run())
    assert capfd.readouterr().err == ""


def test_one_that_listens_is_cancelled_and_sees_no_error():
    """As Starlette does it, whichever of its tasks has its turn first."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def stream() -> None:
            await start(send)
            while True:
                await body(send, bytes(100_000), more=True)

        streaming = asyncio.ensure_future(stream())
        await receive()
        assert await receive() == {"type": "http.disconnect"}
        for _ in range(5):  # so many layers
            await asyncio.sleep(0)
        streaming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await streaming

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")) as invocation:
            pass
        assert invocation.running.done()
        assert stage.ending is ABORTED

    asyncio.run(run())


def test_several_tasks_may_wait_for_the_end():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        events = await asyncio.gather(receive(), receive())
        assert [one["type"] for one in events] == ["http.disconnect"] * 2

    async def run() -> None:
        stage = Stage(app)
        async with stage.running(stage.task("GET / HTTP/1.1\nHost: x")) as invocation:
            pass
        assert invocation.running.done()

    asyncio.run(run())


# --- Extensions ------------------------------------------------------------------------------------


def test_hints_may_come_behind_the_start_and_leave_before_the_response():
    """There the specification has them. Behind the beginning of the body it is too late, and no error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await body(send, b"a", more=True)
        await send({"type": "http.response.early_hint", "links": [b"</b>"]})
        await body(send, b"b")

    hint, reply, *_ = sent = respond(app).sent
    assert isinstance(hint, EarlyHints)
    assert hint.fields == b"Link: </a>\r\n"
    assert reply.status == 200
    assert [type(one) for one in sent].count(EarlyHints) == 1
    assert sent[-1].ending is DONE


def test_hints_may_come_more_than_once_before_the_response():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for link in (b"</a>", b"</b>"):
            await send({"type": "http.response.early_hint", "links": [link]})
        await start(send)
        await body(send)

    first, second, reply = respond(app).sent
    assert [first.fields, second.fields] == [b"Link: </a>\r\n", b"Link: </b>\r\n"]
    assert isinstance(first, EarlyHints)
    assert reply.ending is DONE


def test_an_open_file_is_read_from_where_it_is_and_is_behind_it_then(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    places: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with (tmp_path / "file").open("rb") as file:
            file.read(2)
            await start(send)
            span = {"type": "http.response.zerocopysend", "file": file}
            await send({**span, "count": 3, "more_body": True})
            places.append(file.tell())
            await send({**span, "offset": 1, "count": 1, "more_body": True})
            places.append(file.tell())
            await send({**span, "file": file.fileno(), "offset": 8})
            assert not file.closed

    stage = respond(app)
    assert (stage.body, places, stage.ending) == (b"234" + b"1" + b"89", [5, 5], DONE)


def test_a_lease_goes_with_the_response():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "halfsync.lease", "seconds": 3, "names": [b"Cookie", "X"], "public": True})
        await start(send)
        await body(send, b"x")

    [reply] = respond(app).sent
    assert (reply.lease.seconds, reply.lease.public) == (3.0, True)
    assert reply.lease.names[:2] == ("cookie", "x")
