"""What RFC 9110 demands of every response, whoever makes it, and with every version of HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Server, curl, serving

SETTINGS = """
bind = ["127.0.0.1:0"]
limit_request_line = 100
limit_request_field_size = 200
request_id = "own"

[routes]
"/" = "app:app"
"/loop" = "loop:app"
"/files" = "./files"
"/no" = { status = 405 }
"/text" = { respond = "no", status = 405 }
"/some" = { status = 405, headers = { set = { Allow = "PUT" } } }
"/server" = { status_page = true }
"""

APPLICATION = """
def app(environ, start_response):
    status = "426 Upgrade Required" if environ["PATH_INFO"] == "/426" else "200 OK"
    fields = [("Upgrade", "other/1")] if status.startswith("426") else []
    start_response(status, fields)
    return [environ["REQUEST_METHOD"].encode()]
"""

LOOP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 426, "headers": [(b"upgrade", b"other/1")]})
    await send({"type": "http.response.body", "body": b"no"})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("semantics")
    (folder / "files").mkdir()
    (folder / "files/page").write_text("a page")
    (folder / "app.py").write_text(APPLICATION)
    (folder / "loop.py").write_text(LOOP)
    (folder / "halfsync.toml").write_text(SETTINGS)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


@pytest.mark.parametrize(
    ("request_line", "fields", "status"),
    [
        ("/ HTTP/1.1", "Host: a b", 400),
        ("/ HTTP/1.1", "A B: c", 400),
        ("/ HTTP/1.1", "A: c", 400),
        ("/ HTTP/1.1", "Host: a\r\nExpect: much", 417),
        ("/ HTTP/1.1", "Host: a\r\nTransfer-Encoding: gzip", 501),
        ("/ HTTP/1.1", f"Host: a\r\nB: {200 * 'c'}", 431),
        ("/ HTTP/3.1", "Host: a", 505),
        ("/" + 100 * "a" + " HTTP/1.1", "Host: a", 414),
        ("a HTTP/1.1", "Host: a", 400),
    ],
)
def test_what_is_refused_of_a_head_has_no_body(server, request_line, fields, status):
    """RFC 9110 9.3.2, also where the server has stopped to read the request."""
    with server.client() as client:
        client.send(f"HEAD {request_line}\r\n{fields}\r\n\r\n".encode())
        answer = client.answer("HEAD")
        assert answer.status == status
        assert int(answer["Content-Length"]) > 20
        assert client.rest() == b""
    with server.client() as client:
        client.send(f"GET {request_line}\r\n{fields}\r\n\r\n".encode())
        got = client.answer()
        # (Each has an id of its own in it, all of one length.)
        assert (got.status, str(len(got.body))) == (status, answer["Content-Length"])


@pytest.mark.parametrize(
    ("more", "status"), [(("Expect: much",), 417), (("B: " + 200 * "c",), 431), (("Host: a b",), 400)]
)
def test_what_is_refused_of_a_head_has_no_body_over_http2(server, more, status):
    fields = [word for one in more for word in ("-H", one)]
    found = curl("--http2-prior-knowledge", "-I", "-sS", *fields, f"{server.url}/")
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout.startswith(b"HTTP/2 %d" % status)


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/files/page", "GET, HEAD"),
        ("/server", "GET, HEAD"),
        ("/no", ""),
        ("/text", ""),
        ("/some", "PUT"),
    ],
)
def test_each_405_says_what_is_allowed(server, target, allow):
    """RFC 9110 15.5.6. An empty Allow says that no method is."""
    answer = server.get(target, method="DELETE")
    assert answer.status == 405
    assert [value for name, value in answer.fields if name.lower() == "allow"] == [allow]
    found = curl("--http2-prior-knowledge", "-X", "DELETE", "-D", "-", f"{server.url}{target}").stdout
    assert found.startswith(b"HTTP/2 405")
    assert f"\r\nallow: {allow}\r\n".encode() in found


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ((), b""),
        (("Connection: Upgrade", "Upgrade: h2c"), b""),
        (("Content-Length: 3",), b"abc"),
        (("Transfer-Encoding: chunked",), b"3\r\nabc\r\n0\r\n\r\n"),
    ],
)
def test_options_of_the_server_never_reach_an_application(server, fields, body):
    with server.client() as client:
        lines = "".join(f"{field}\r\n" for field in fields)
        client.send(f"OPTIONS * HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode() + body)
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"")
        assert answer["Allow"].startswith("GET, HEAD, ")
        if body:
            assert client.is_closed()
        else:
            assert client.ask("/").body == b"GET"


def test_options_of_the_server_with_a_body_over_http2(server):
    asked = ("--http2-prior-knowledge", "-sS", "-X", "OPTIONS", "--request-target", "*", "-d", "abc")
    found = curl(*asked, "-D", "-", server.url)
    assert (found.returncode, found.stderr) == (0, b"")
    head, _, body = found.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/2 200")
    assert b"\r\nallow: GET, HEAD, " in head
    assert body == b""


@pytest.mark.parametrize("target", ["/426", "/loop"])
def test_an_upgrade_in_a_response_is_named_in_connection(server, target):
    """RFC 9110 7.8."""
    answer = server.get(target)
    assert (answer.status, answer["Upgrade"], answer["Connection"]) == (426, "other/1", "Upgrade")
    found = curl("--http2-prior-knowledge", "-D", "-", f"{server.url}{target}").stdout.lower()
    assert found.startswith(b"http/2 426")
    assert b"upgrade: " not in found
    assert b"connection: " not in found
