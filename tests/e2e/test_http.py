"""HTTP/1.1 as its clients speak it, and as some should not."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import LONG, Server, curl, digest, pattern, request, serving


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with serving_site(tmp_path_factory.mktemp("site")) as server:
        yield server


@contextmanager
def serving_site(folder: Path) -> Iterator[Server]:
    (folder / "public").mkdir()
    (folder / "public/small").write_bytes(b"a small file\n")
    (folder / "public/large").write_bytes(pattern(3_000_000))
    limits = ("--limit-request-body", "2M", "--limit-request-fields", "50", "--body-memory", "8K")
    logs = ("--access-logfile", "access", "--access-logformat", "%m %U %>s")
    with serving(folder, "story:app", "/public=./public", *limits, *logs) as server:
        yield server


@pytest.fixture
def client(site):
    with site.client() as client:
        yield client


def asked(site: Server, path: str) -> int:
    """How often the log has a path: what was acted on."""
    return (site.folder / "access").read_text().count(f" {path} ")


# --- connections -----------------------------------------------------------------------------------


def test_many_requests_on_one_connection(client):
    for number in range(20):
        assert client.ask("/hello").body == b"hello\n"
        assert client.ask("/public/small").body == b"a small file\n"
        body = b"x" * number * 1000
        assert client.ask("/echo", method="POST", body=body).body == body


def test_pipelined_requests_are_answered_in_order(client):
    """Through the application, a lease, a large file and a body, whoever is the faster."""
    round_ = [
        ("/hello", b"", b"hello\n"),
        ("/public/small", b"", b"a small file\n"),
        ("/pieces?size=300000", b"", pattern(300_000)),
        ("/echo", b"some body", b"some body"),
        ("/public/large", b"", pattern(3_000_000)),
        ("/public/nothing", b"", b"There is nothing here.\n"),
    ]
    for target, body, _ in round_ * 5:
        client.send(request(target, method="POST" if body else "GET", body=body))
    for _, _, expected in round_ * 5:
        assert client.answer().body == expected


def test_a_hundred_pipelined_requests_in_one_write(client):
    client.send(request("/hello") * 50 + request("/public/small") * 50)
    assert [client.answer().body for _ in range(100)] == [b"hello\n"] * 50 + [b"a small file\n"] * 50


def test_a_request_in_single_bytes(client):
    for byte in request("/echo", method="POST", body=b"slow"):
        client.send(bytes([byte]))
    assert client.answer().body == b"slow"


def test_the_standard_librarys_client(site):
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=LONG)
    for _ in range(3):
        connection.request("POST", "/echo", body=iter([b"in ", b"pieces"]), encode_chunked=True)
        assert connection.getresponse().read() == b"in pieces"
        connection.request("GET", "/pieces?size=100000")
        assert connection.getresponse().read() == pattern(100_000)
    connection.close()


def test_close_is_handled_and_said(client):
    answer = client.ask("/hello", "Connection: close")
    assert answer["Connection"] == "close"
    assert client.is_closed()


def test_nothing_behind_a_close_is_acted_on(site, client):
    client.send(request("/hello", "Connection: close") + request("/path/behind-a-close"))
    assert client.answer().body == b"hello\n"
    assert client.is_closed()
    assert site.get("/path/after-a-close").status == 200
    site.until(lambda: asked(site, "/path/after-a-close"))
    assert asked(site, "/path/behind-a-close") == 0


def test_who_leaves_during_an_upload_is_logged_and_never_reaches_the_application(site):
    with site.client() as leaver:
        leaver.send(b"POST /path/left HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
    site.until(lambda: "POST /path/left -" in (site.folder / "access").read_text())


@pytest.mark.parametrize("target", ["/hello", "/public/small"])
def test_a_10_client_gets_a_close_unless_it_asks_otherwise(site, target):
    with site.client() as client:
        client.send(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        answer = client.answer()
        assert answer.status == 200
        assert client.is_closed()
    with site.client() as client:
        for _ in range(2):
            client.send(f"GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
            answer = client.answer()
            assert answer["Connection"].lower() == "keep-alive"


def test_a_10_client_gets_no_chunks(client):
    client.send(b"GET /pieces?size=200000 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = client.answer()
    assert answer["Transfer-Encoding"] == ""
    assert answer.closed
    assert answer.body == pattern(200_000)


def test_half_closed_clients_are_answered(client):
    client.send(request("/hello"))
    client.socket.shutdown(1)
    assert client.answer().body == b"hello\n"


# --- methods, statuses, targets --------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/hello", "/pieces", "/public/small", "/public/large", "/public/no"])
def test_head_is_get_without_the_body(site, target):
    with site.client() as client:
        head = client.ask(target, method="HEAD")
        again = client.ask("/hello")  # nothing of a body stands between
        assert again.body == b"hello\n"
    got = site.get(target)
    assert head.status == got.status
    if got["Content-Length"]:
        assert head["Content-Length"] == got["Content-Length"]
    assert head["Content-Type"] == got["Content-Type"]


@pytest.mark.parametrize("line", ["204 No Content", "304 Not Modified"])
def test_responses_without_a_body_have_none(client, line):
    target = "/status?line=" + line.replace(" ", "%20")
    answer = client.ask(target)
    assert answer.line == f"HTTP/1.1 {line}"
    assert answer["Transfer-Encoding"] == ""
    assert answer["Content-Length"] in ("", "0")
    assert client.ask("/hello").body == b"hello\n"


def test_any_status_and_reason_go_through(client):
    assert client.ask("/status?line=299%20Quite%20Fine").line == "HTTP/1.1 299 Quite Fine"
    assert client.ask("/status?line=599%20X").body == b"a body\n"


def test_a_request_to_upgrade_is_answered_as_if_it_were_none(client):
    """RFC 9110 7.8: a server may ignore it."""
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    for _ in range(2):
        assert client.ask("/hello", *fields).body == b"hello\n"
        assert client.ask("/public/small", *fields).body == b"a small file\n"


def test_options_of_the_server(client):
    answer = client.ask("*", method="OPTIONS")
    assert answer.status == 200
    assert "GET" in answer["Allow"]
    assert client.ask("/hello").status == 200


def test_absolute_form(client):
    found = json.loads(client.ask("http://other.test:81/environ?a=b").body)
    assert (found["PATH_INFO"], found["QUERY_STRING"]) == ("/environ", "a=b")
    assert found["HTTP_HOST"] == "other.test:81"
    assert client.ask("http://other.test/public/small").body == b"a small file\n"


def test_every_response_has_one_date_and_says_nothing_of_the_server(site):
    for target in ("/hello", "/public/small", "/public/no", "/status?line=204%20No"):
        answer = site.get(target)
        assert len([name for name, _ in answer.fields if name.lower() == "date"]) == 1
        assert answer["Server"] == ""


# --- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, 100_000, 1_999_999])
def test_bodies_arrive_whole_in_memory_and_from_a_file(client, size):
    body = pattern(size)
    assert client.ask("/received", method="POST", body=body).body == f"{size} {digest(body)}".encode()


def test_a_chunked_body_with_trailers(client):
    """The trailers are dropped; what is behind them is the next request."""
    client.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n"
        b"5;ext=1\r\nhello\r\n7\r\n, world\r\n0\r\nX-Late: yes\r\nHost: evil\r\n\r\n" + request("/hello")
    )
    assert client.answer().body == b"hello, world"
    assert client.answer().body == b"hello\n"


def test_the_application_sees_the_length_of_a_chunked_body(client):
    client.send(
        b"POST /environ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    found = json.loads(client.answer().body)
    assert found["CONTENT_LENGTH"] == "3"
    assert "HTTP_TRANSFER_ENCODING" not in found


def test_curl_uploads_after_100_continue(site, tmp_path):
    body = pattern(1_500_000)
    (tmp_path / "body").write_bytes(body)
    done = curl(
        *("-v", "--expect100-timeout", "20", "-H", "Expect: 100-continue"),
        *("--data-binary", f"@{tmp_path}/body", f"{site.url}/received"),
    )
    assert done.stdout.decode() == f"{len(body)} {digest(body)}"
    assert b"100 Continue" in done.stderr


def test_curl_uploads_chunked(site, tmp_path):
    body = pattern(1_500_000)
    (tmp_path / "body").write_bytes(body)
    done = curl(
        *("-H", "Transfer-Encoding: chunked", "-T", f"{tmp_path}/body"),
        f"{site.url}/received",
    )
    assert done.stdout.decode() == f"{len(body)} {digest(body)}"


def test_100_continue_comes_before_the_body_and_not_if_it_is_too_large(client, site):
    head = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    client.send(head.format(4).encode())
    assert client.answer().status == 100
    client.send(b"body")
    assert client.answer().body == b"body"
    with site.client() as other:
        other.send(head.format(3_000_000).encode())
        assert other.answer().status == 413
        assert other.is_closed()


def test_an_unread_body_does_not_become_the_next_request(client):
    client.send(request("/hello", method="POST", body=request("/die", method="POST")) + request("/hello"))
    assert [client.answer().body for _ in range(2)] == [b"hello\n"] * 2


# --- what is refused -------------------------------------------------------------------------------


def refused(line: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1") + body


HOST = "Host: story.test"
GET = "GET /hello HTTP/1.1"
POST = "POST /echo HTTP/1.1"

REFUSED = {
    "no host": (400, refused(GET)),
    "two hosts": (400, refused(GET, HOST, HOST)),
    "a space before the colon": (400, refused(GET, HOST, "X : a")),
    "a folded line": (400, refused(GET, HOST, "X: a", " b")),
    "two lengths": (400, refused(POST, HOST, "Content-Length: 5", "Content-Length: 6", body=b"12345")),
    "a length that is none": (400, refused(POST, HOST, "Content-Length: +5", body=b"12345")),
    "length and chunks": (
        400,
        refused(POST, HOST, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "chunks in 1.0": (
        400,
        refused("POST /echo HTTP/1.0", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "a bad chunk": (400, refused(POST, HOST, "Transfer-Encoding: chunked", body=b"x\r\n")),
    "a bare line feed": (400, b"GET /hello HTTP/1.1\nHost: a\n\n"),
    "another coding": (501, refused(POST, HOST, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "connect": (501, refused("CONNECT story.test:80 HTTP/1.1", HOST)),
    "a method that nobody knows": (501, refused("BREW /hello HTTP/1.1", HOST)),
    "the preface of 3": (505, b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n"),
    "2.0": (505, refused("GET /hello HTTP/2.0", HOST)),
    "no version": (400, b"GET /hello\r\n\r\n"),
    "two spaces": (400, refused("GET  /hello HTTP/1.1", HOST)),
    "an expectation": (417, refused(POST, HOST, "Expect: miracles", "Content-Length: 5", body=b"12345")),
    "a long line": (414, refused(f"GET /{'x' * 9000} HTTP/1.1", HOST)),
    "a long field": (431, refused(GET, HOST, f"X: {'x' * 9000}")),
    "many fields": (431, refused(GET, HOST, *(f"X-{number}: a" for number in range(60)))),
    "a large head": (431, refused(GET, HOST, *(f"X-{number}: {'x' * 7000}" for number in range(12)))),
    "a large body": (413, refused(POST, HOST, "Content-Length: 2097153")),
    "a large chunk": (
        413,
        refused(
            POST, HOST, "Transfer-Encoding: chunked", body=b"200001\r\n" + b"x" * 2097153 + b"\r\n0\r\n\r\n"
        ),
    ),
    "TLS": (400, bytes.fromhex("16030100a5010000a10303")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_answered_closed_and_nothing_behind_it_is_acted_on(site, case):
    status, data = REFUSED[case]
    smuggled = f"/path/smuggled-{case.replace(' ', '-')}"
    with site.client() as client:
        try:
            client.send(data + request(smuggled))
        except ConnectionError:
            pass  # it had its response before it had sent all
        answer = client.answer()
        assert answer.status == status
        assert answer["Connection"] == "close"
        assert answer.whole
        assert client.is_closed()
    after = smuggled.replace("smuggled", "after")
    assert site.get(after).status == 200
    site.until(lambda: asked(site, after))
    lines = (site.folder / "access").read_text().splitlines()
    # (What looks like TLS has no first line: that of what follows is logged as its own.)
    assert [line for line in lines if smuggled in line and not line.endswith(f" {status}")] == []


def test_a_client_that_sends_on_still_reads_its_413(site):
    """It writes megabytes before it reads: a reset would have destroyed the response by then. (Single bytes
    take the server so long that it could not see the end of as many within its time for that.)"""
    size = 300_000 if os.environ.get("HALFSYNC_TEST_TRANSPORT") == "bytes" else 10_000_000
    with site.client() as client:
        client.send(refused(POST, HOST, "Content-Length: 30000000"))
        for _ in range(size // 100_000):
            client.send(b"x" * 100_000)
        answer = client.answer()
        assert answer.status == 413
        assert answer.whole


def test_curl_reads_its_413(site, tmp_path):
    (tmp_path / "body").write_bytes(bytes(20_000_000))
    done = curl(
        *("-H", "Expect:", "-w", "%{http_code}", "-o", f"{tmp_path}/answer"),
        *("--data-binary", f"@{tmp_path}/body", f"{site.url}/received"),
    )
    assert done.stdout == b"413"


def test_fields_with_an_underscore_never_reach_the_application(client):
    found = json.loads(
        client.ask("/environ", "X_Forwarded_For: evil", "X-Forwarded-For: good", "Content_Length: 7").body
    )
    assert found["HTTP_X_FORWARDED_FOR"] == "good"
    assert found.get("CONTENT_LENGTH", "") in ("", "0")


def test_a_failing_handler_is_500_and_the_connection_goes_on(tmp_path):
    with serving(tmp_path, "story:app") as server, server.client() as client:
        server.tracebacks = 1
        answer = client.ask("/fail")
        assert answer.status == 500
        assert b"ZeroDivisionError" not in answer.body
        assert client.ask("/hello").body == b"hello\n"
        server.until_logged("ZeroDivisionError: the story's own")
