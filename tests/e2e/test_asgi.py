"""ASGI applications through the whole server: parent, pump and event loop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.harness import MIB, Answer, pattern, resident, serving


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


def test_a_body_is_seen_as_it_comes(site):
    with site.client() as client:
        client.send(b"POST /sizes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for size in (3, 7, 1):
            client.send(b"%x\r\n" % size + bytes(size) + b"\r\n")
            client.until(b"\n%d\n" % size)
        client.send(b"0\r\n\r\n")
        client.until(b"0\r\n\r\n")


def test_a_large_upload_takes_no_memory(site):
    [worker] = site.workers("asgis:app")
    site.get("/count", method="POST", body=bytes(1000))
    before = resident(worker)
    size = 64 * MIB
    with site.client() as client:
        client.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        block = bytes(MIB)
        for _ in range(64):
            client.send(block)
        answer = client.answer()
    assert int(answer.body.split()[0]) == size
    assert resident(worker) - before < 4 * MIB
