"""ASGI applications through the whole server: parent, pump and event loop."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.harness import LONG, MIB, Answer, Server, curl, large, pattern, request, resident, serving


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asgi")
    (folder / "file").write_bytes(pattern(300_000))
    logs = ("--access-logfile", "access", "--access-logformat", "json")
    with serving(folder, "asgis:app", "/below=asgis:app", "/wsgi=story:app", *logs) as server:
        yield server


def scope_of(answer: Answer) -> Any:
    return json.loads(answer.body)


# --- requests --------------------------------------------------------------------------------------


def test_a_request_gets_its_response_and_the_next_one_on_the_connection(site):
    with site.client() as client:
        for _ in range(3):
            answer = client.ask("/")
            assert (answer.status, answer.body, answer["Content-Length"]) == (200, b"hello\n", "6")


def test_the_scope_of_a_request(site):
    with site.client() as client:
        host, port = client.socket.getsockname()
        line = "GET /scope/%C3%A9%2F%ff?a=%20b HTTP/1.1"
        client.send(f"{line}\r\nHost: x\r\nX-B: 1\r\nX-a: \t2 \r\nx-b: 3\r\n\r\n".encode())
        scope = scope_of(client.answer())
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/scope/\N{LATIN SMALL LETTER E WITH ACUTE}/\N{REPLACEMENT CHARACTER}",
        "raw_path": "b:/scope/%C3%A9%2F%ff",
        "query_string": "b:a=%20b",
        "root_path": "",
        "headers": [["b:host", "b:x"], ["b:x-b", "b:1"], ["b:x-a", "b:2"], ["b:x-b", "b:3"]],
        "client": [host, port],
        "server": ["127.0.0.1", site.port],
        "state": {"started": 1, "mine": True},
        "extensions": {
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "http.response.early_hint": {},
            "http.response.trailers": {},
            "halfsync.lease": {},
        },
    }


def test_what_a_request_does_to_its_scope_is_not_there_for_the_next_one(site):
    with site.client() as client:
        first, second = (scope_of(client.ask("/scope")) for _ in range(2))
    assert first == second


def test_below_a_prefix_the_path_is_whole_and_root_path_says_where(site):
    scope = scope_of(site.get("/below/scope"))
    assert (scope["path"], scope["root_path"], scope["raw_path"]) == (
        "/below/scope",
        "/below",
        "b:/below/scope",
    )


def test_an_application_of_the_other_interface_is_served_beside_it(site):
    assert site.get("/wsgi/hello").body == b"hello\n"
    assert int(site.get("/pid").body) in site.workers("asgis:app")


def test_a_proxys_word_about_its_client_is_believed(site):
    fields = ("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https")
    scope = scope_of(site.get("/scope", *fields))
    assert (scope["client"], scope["scheme"]) == (["203.0.113.9", 0], "https")


@pytest.mark.parametrize("size", [0, 5, 40_000, 300_000, 3 * MIB])
def test_a_body_is_whole(site, size):
    data = pattern(size)
    assert site.get("/echo", method="POST", body=data).body == data


@pytest.mark.skipif(
    os.environ.get("HALFSYNC_TEST_TRANSPORT") == "bytes", reason="what is read in single bytes is seen so"
)
def test_a_body_is_seen_as_it_comes(site):
    with site.client() as client:
        client.send(b"POST /sizes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for size in (3, 7, 1):
            client.send(b"%x\r\n" % size + bytes(size) + b"\r\n")
            client.until(b"\n%d\n" % size)
        client.send(b"0\r\n\r\n")
        client.until(b"0\r\n\r\n")


def test_a_large_upload_takes_no_memory(site):
    """1 GiB: no more than the window, and what one read takes."""
    [worker], pump = site.workers("asgis:app"), site.pump
    site.get("/count", method="POST", body=bytes(1000))
    before = resident(worker) + resident(pump)
    size = large(1024 * MIB)
    with site.client() as client:
        client.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        block = bytes(MIB)
        for _ in range(size // MIB):
            client.send(block)
        answer = client.answer()
    assert int(answer.body.split()[0]) == size
    assert resident(worker) + resident(pump) - before < 4 * MIB


# --- responses -------------------------------------------------------------------------------------


def test_a_piece_is_seen_before_the_next_one_is_made(site):
    with site.client() as client:
        client.send(request("/steps?file=seen&steps=4"))
        client.until(b"\r\n\r\n")
        for number in range(4):
            assert client.until(b"%d " % number).endswith(b"%d " % number)
            Path(site.folder, f"seen-{number + 1}").touch()
        assert client.until(b"0\r\n\r\n")


def test_head_has_the_length_and_no_body(site):
    with site.client() as client:
        answer = client.ask("/", method="HEAD")
        assert (answer.status, answer["Content-Length"], answer.body) == (200, "6", b"")
        assert client.ask("/").body == b"hello\n"


def test_head_of_an_endless_stream_gets_its_response_at_once(site, tmp_path):
    def has_stopped(number: int) -> bool:
        file = tmp_path / str(number)
        return bool(file.exists() and file.read_text().endswith(" ClientLeftError"))

    with site.client() as client:
        for number in range(2):
            answer = client.ask(f"/endless?file={tmp_path}/{number}", method="HEAD")
            assert (answer.status, answer["Content-Length"], answer.whole) == (200, "", True)
            site.until(lambda number=number: has_stopped(number))
    head = curl("--http2-prior-knowledge", "-I", f"{site.url}/endless?file={tmp_path}/2").stdout
    assert head.startswith(b"HTTP/2 200")
    site.until(lambda: has_stopped(2))


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(site, status):
    with site.client() as client:
        answer = client.ask(f"/status?code={status}")
        assert (answer.status, answer.body, answer["Transfer-Encoding"]) == (status, b"", "")
        assert client.ask("/").body == b"hello\n"


@pytest.mark.parametrize("size", [65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("said", ["", "&said=1"])
def test_a_large_body_is_whole(site, size, said):
    answer = site.get(f"/large?size={size}{said}")
    assert (len(answer.body), answer["Content-Length"], answer.whole) == (size, str(size), True)


def test_large_bodies_to_many_at_once_are_whole(site):
    """More than the channel to the pump has room for."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.client()) for _ in range(8)]
        for client in clients:
            client.send(request("/large?size=2000000"))
        assert [len(client.answer().body) for client in clients] == [2_000_000] * 8


def number_in(file: Path) -> int:
    """-1 while it is being written."""
    try:
        return int(file.read_text() or -1)
    except FileNotFoundError:
        return -1


def until_it_rests(site: Server, file: Path) -> int:
    """Until the number in a file has not changed for a second; the number."""
    last, since = -1, time.monotonic()

    def rests() -> bool:
        nonlocal last, since
        if (number := number_in(file)) != last:
            last, since = number, time.monotonic()
        return last >= 0 and time.monotonic() - since > 1

    site.until(rests)
    return last


def test_a_slow_client_makes_send_wait_and_takes_no_memory(site):
    [worker], pump = site.workers("asgis:app"), site.pump
    file = site.folder / "slow"
    before = resident(worker) + resident(pump)
    with site.client(receive_buffer=4096) as client:
        client.send(request(f"/endless?file={file}"))
        client.until(b"\r\n\r\n")
        sent = until_it_rests(site, file)
        assert resident(worker) + resident(pump) - before < 2 * MIB
        # What is read makes room for more.
        site.until(lambda: client.socket.recv(MIB) and number_in(file) > sent)
    site.until(lambda: file.read_text().endswith("ClientLeftError"))


def test_slow_clients_keep_no_more_than_their_windows_and_nobody_waits_for_them(site):
    """Eight that read nothing of endless responses: pump and worker together have at most 1 MiB more for
    each. Others get theirs meanwhile, also large ones."""
    [worker], pump = site.workers("asgis:app"), site.pump
    files = [site.folder / f"slow-{number}" for number in range(8)]
    before = resident(worker) + resident(pump)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.client(receive_buffer=4096)) for _ in files]
        for client, file in zip(clients, files, strict=True):
            client.send(request(f"/endless?file={file}"))
        site.until(lambda: all(number_in(file) > 0 for file in files))
        until_it_rests(site, files[-1])
        assert resident(worker) + resident(pump) - before <= 8 * MIB
        assert len(site.get("/large?size=2000000").body) == 2_000_000
        assert site.get("/scope").status == 200
    site.until(lambda: all(file.read_text().endswith("ClientLeftError") for file in files))


def test_many_small_pieces_wait_for_a_slow_client(site):
    with site.client(receive_buffer=4096) as client:
        client.send(request("/dribble?pieces=20000"))
        assert client.answer().body == b"x" * 20000


def test_what_the_client_and_the_handler_did_is_logged(site):
    target = "/sleep?seconds=0.21"  # no other test's
    site.get(target)
    site.until(lambda: target in (site.folder / "access").read_text())
    [line] = [one for one in (site.folder / "access").read_text().splitlines() if target in one]
    record = json.loads(line)
    assert record["status"] == 200
    assert record["handler_us"] >= 150_000


# --- leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"some"])
@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_a_client_that_leaves_is_noticed_while_the_application_waits(site, how, body):
    file = site.folder / f"left-{how}-{len(body)}"
    with site.client() as client:
        client.send(request(f"/leaving?file={file}", method="POST", body=body))
        site.until(Path(f"{file}-waits").exists)
        if how == "half":
            client.socket.shutdown(socket.SHUT_WR)
            site.until(file.exists)
        elif how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    site.until(lambda: file.exists() and file.read_text() == "http.disconnect")


def test_a_client_that_has_left_is_known_when_the_application_asks_later(site):
    file = site.folder / "slept"
    with site.client() as client:
        client.send(request(f"/sleeping?file={file}"))
        site.until(Path(f"{file}-waits").exists)
    Path(f"{file}-go").touch()
    site.until(lambda: file.exists() and file.read_text() == "http.disconnect")


def test_a_client_that_leaves_in_the_middle_of_its_body_is_noticed(site):
    file = site.folder / "upload"
    with site.client() as client:
        head = f"POST /uploading?file={file} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        client.send(head.encode() + bytes(10))
        site.until(Path(f"{file}-waits").exists)
    site.until(lambda: file.exists() and file.read_text() == "http.disconnect")


def test_a_client_that_closes_its_side_gets_what_comes_soon(site):
    with site.client() as client:
        client.send(request("/sleep?seconds=0.01"))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer().body == b"slept\n"


def test_receive_tells_of_the_end_when_the_response_is_complete(site):
    file = site.folder / "after"
    assert site.get(f"/after?file={file}").body == b"soon\n"
    Path(f"{file}-go").touch()
    site.until(lambda: file.exists() and file.read_text() == "http.disconnect")


# --- extensions ------------------------------------------------------------------------------------


def test_a_leased_response_is_repeated_without_the_application(site):
    first = site.get("/lease", "Accept-Language: en").body
    assert [site.get("/lease", "Accept-Language: en").body for _ in range(3)] == [first] * 3
    assert site.get("/lease", "Accept-Language: de").body != first


def test_a_large_response_is_leased_too(site):
    first = site.get("/lease?size=200000")
    assert len(first.body) > 200_000
    assert site.get("/lease?size=200000").body == first.body


def test_early_hints_come_before_the_response(site):
    with site.client() as client:
        client.send(request("/hint"))
        hints = client.until(b"\r\n\r\n")
        answer = client.answer()
    lines = (
        b"HTTP/1.1 103 Early Hints",
        b"Link: </a.css>; rel=preload",
        b"Link: </b.js>; rel=preload",
        b"",
        b"",
    )
    assert hints == b"\r\n".join(lines)
    assert (answer.status, answer.body) == (200, b"hinted")


def test_trailers_come_behind_the_body(site):
    """To a client that takes them."""
    ends = {"TE: trailers": b"x-sum: 42\r\nx-end: yes\r\n", "X: y": b""}
    for field, lines in ends.items():
        with site.client() as client:
            client.send(request("/trailers", field))
            assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
            assert client.until(b"0\r\n") == b"6\r\nsummed\r\n3\r\n up\r\n0\r\n"
            assert client.take(len(lines) + 2) == lines + b"\r\n"
            assert client.ask("/trailers").body == b"summed up"
    for fields, count in ((("-H", "TE: trailers"), 1), ((), 0)):
        got = curl("--http2-prior-knowledge", "-D", "-", *fields, f"{site.url}/trailers").stdout
        assert b"summed up" in got
        assert got.count(b"x-sum: 42\r\nx-end: yes\r\n") == count


def test_a_client_of_http_1_0_gets_no_hints(site):
    with site.client() as client:
        client.send(b"GET /hint HTTP/1.0\r\n\r\n")
        assert client.answer().status == 200


def test_a_file_is_sent_by_its_path(site):
    answer = site.get(f"/path?path={site.folder / 'file'}")
    assert answer.body == (site.folder / "file").read_bytes()
    assert answer["Content-Length"] == "300000"
    assert site.get(f"/path?path={site.folder / 'file'}", method="HEAD").body == b""


@pytest.mark.parametrize(
    ("spans", "start", "end"),
    [
        ("", 0, 300_000),
        ("&offset=5", 5, 300_000),
        ("&count=7", 0, 7),
        ("&offset=299990&count=100", 299_990, 300_000),
    ],
)
def test_a_span_of_an_open_file_is_sent_between_pieces(site, spans, start, end):
    answer = site.get(f"/file?path={site.folder / 'file'}{spans}")
    assert answer.body == b"<" + (site.folder / "file").read_bytes()[start:end] + b">"


def test_tasks_of_the_loop_are_tasks(site):
    assert site.get("/twice").body == b"12"


# --- applications that go wrong --------------------------------------------------------------------

RULES = {
    "no_response": ("it returned without a response", 500),
    "body_first": ("it sent 'http.response.body', but 'http.response.start' is to come first", 500),
    "two_starts": ("it sent 'http.response.start', but 'http.response.body' is to follow", 500),
    "unfinished": ("it returned before its response was complete", None),
    "after_the_end": ("it sent 'http.response.body', but the response is complete", 200),
    "too_long": ("the body is longer than the content-length of 5", 500),
    "too_long_later": ("the body is longer than the content-length of 5", None),
    "too_short": ("the body ends after 4 of the 5 bytes of its content-length", 500),
    "too_short_later": ("the body ends after 4 of the 5 bytes of its content-length", None),
    "status": ("'status' must be an int from 200 to 999, not '200'", 500),
    "informational": ("'status' must be an int from 200 to 999, not 103", 500),
    "header_type": ("the name and value of a header must be bytes", 500),
    "header_name": ("b'a b' can't be the name of a header", 500),
    "header_value": ("the header b'a' has a control character in it", 500),
    "header_shape": ("a header must be a pair of name and value", 500),
    "lengths": ("there are two content-lengths, 1 and 2", 500),
    "body_type": ("the 'body' of 'http.response.body' must be bytes, not str", 500),
    "kind": ("it sent 'http.response.nothing', but 'http.response.start' is to come first", 500),
    "no_kind": ("a message must be a dict with a 'type', not {'status': 200}", 500),
    "no_message": ("a message must be a dict with a 'type', not None", 500),
    "relative": ("the 'path' of 'http.response.pathsend' must be absolute, unlike 'asgis.py'", 500),
    "no_file": ("the 'file' of 'http.response.zerocopysend' is no open file: 'x'", 500),
    "unreadable": ("the 'file' of 'http.response.zerocopysend' can't be read: Bad file descriptor", 500),
    "no_size": (
        "the 'file' of 'http.response.zerocopysend' has a size that its file system",
        500,
    ),
    "no_size_path": (
        "the file of 'http.response.pathsend' has a size that its file system",
        500,
    ),
    "swallowed": ("it sent 'http.response.body', but 'http.response.start' is to come first", 500),
}


@pytest.mark.parametrize("rule", RULES)
def test_an_application_that_breaks_a_rule_is_told_which(site, rule):
    said, status = RULES[rule]
    before = site.log().count(said)
    answer = site.get(f"/broken?rule={rule}")
    if status is None:
        assert not answer.whole
    else:
        assert (answer.status, answer.whole) == (status, True)
    site.until(lambda: site.log().count(said) == before + 1)
    assert site.get("/").status == 200


@pytest.mark.parametrize(
    ("when", "status"), [("before", 500), ("start", 500), ("within", None), ("after", 200)]
)
def test_an_exception_is_a_500_or_a_cut_and_is_logged(site, when, status):
    answer = site.get(f"/raise?when={when}")
    site.tracebacks += 1
    if status is None:
        assert not answer.whole
    else:
        assert (answer.status, answer.whole) == (status, True)
    site.until_logged(f"RuntimeError: raised {when}")


def test_an_application_that_exits_costs_its_request_alone(site):
    assert site.get("/exit").status == 500
    site.tracebacks += 1
    assert site.get("/").status == 200
    assert len(site.workers("asgis:app")) == 1


def test_a_child_that_the_application_forks_does_not_respond(site):
    """It ends where it comes back into the server; the worker goes on."""
    for _ in range(2):
        assert site.get("/fork").body == b"parent"
    site.until_logged("only the worker itself responds", 2)
    assert site.get("/").status == 200


# --- HTTP/2 ----------------------------------------------------------------------------------------


def test_over_http_2_bodies_stream_both_ways(site):
    with httpx.Client(http1=False, http2=True, base_url=site.url, timeout=LONG) as client:
        assert client.get("/scope").json()["http_version"] == "2"
        assert len(client.get("/large?size=1000000").content) == 1_000_000
        assert client.get("/dribble?pieces=20000").content == b"x" * 20_000
        assert client.post("/count", content=bytes(1_000_000)).text.split()[0] == "1000000"
        file = site.folder / "left-http2"
        with client.stream("GET", f"/endless?file={file}") as response:
            assert response.status_code == 200
    site.until(lambda: file.exists() and file.read_text().endswith("ClientLeftError"))
