"""Request ids: the same one in the request, its response and both logs, whoever responds."""

from __future__ import annotations

import json
import re
import signal
import socket
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Answer, Client, Server, pattern, request, serving

MADE = re.compile(r"[0-9a-f]{32}")
FORMAT = "%L %{UNIQUE_ID}e %{X-Request-ID}i %m %U"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    (folder / "public").mkdir()
    (folder / "public/small").write_bytes(pattern(100))
    (folder / "public/large").write_bytes(pattern(300_000))
    (folder / "late.toml").write_text('[routes]\n"/late" = { app = "asgis:app", handler_timeout = 0.5 }\n')
    arguments = ("-c", "late.toml", "--request-id", "proxy", "--forwarded-allow-ips", "127.0.0.1")
    log = ("--access-logfile", "access", "--access-logformat", FORMAT)
    others = ("/files=./public", "/subprotocol=sockets:app", "/tunnels=tunnels:app")
    targets = ("story:app", "/asgi=asgis:app", *others)
    with serving(folder, *targets, *arguments, *log) as server:
        yield server
        server.tracebacks = -1


def logged(server: Server, request_id: str) -> list[str]:
    """The access log's line of that request, after its id."""
    path = server.folder / "access"

    def line() -> list[str]:
        lines = path.read_text().splitlines() if path.exists() else []
        return next((words for one in lines if (words := one.split(" "))[0] == request_id), [])

    words = server.until(line)
    assert words[1] == words[2] == request_id
    return words[3:]


def untrusted(server: Server) -> Client:
    """From an address that is not in forwarded_allow_ips."""
    made = server.client()
    made.socket.close()
    made.socket = socket.create_connection(("127.0.0.1", server.port), 60.0, ("127.0.0.2", 0))
    return made


@pytest.mark.parametrize("target", ["/environ", "/asgi/scope", "/files/small", "/files/large", "/none"])
def test_made_for_each_request_and_told_everybody(server, target):
    with server.client() as client:
        answers = [client.ask(target, f"Cookie: a={n}") for n in range(3)]  # on one connection
    ids = [answer["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == 3
    assert all(map(MADE.fullmatch, ids)), ids
    for answer, request_id in zip(answers, ids, strict=True):
        assert logged(server, request_id) == ["GET", target]
        if target == "/environ":
            assert json.loads(answer.body)["HTTP_X_REQUEST_ID"] == request_id
        if target == "/asgi/scope":
            assert ["b:x-request-id", f"b:{request_id}"] in json.loads(answer.body)["headers"]


def test_one_that_a_trusted_proxy_sends_is_kept(server):
    for given in ("abc-1/2", "x" * 128, "!~\"'\\"):
        with server.client() as client:
            answer = client.ask("/environ", f"x-ReQuest-iD:  {given} ")
            assert answer["X-Request-ID"] == given
            assert json.loads(answer.body)["HTTP_X_REQUEST_ID"] == given
        if '"' not in given:
            assert logged(server, given) == ["GET", "/environ"]


@pytest.mark.parametrize(
    "fields",
    [
        ("X-Request-ID: " + "x" * 129,),
        ("X-Request-ID: two words",),
        ("X-Request-ID: caf\xe9",),
        ("X-Request-ID: tab\there",),
        ("X-Request-ID:",),
        ("X-Request-ID: one", "X-Request-ID: two"),
    ],
)
def test_one_that_is_none_is_replaced(server, fields):
    answer = server.get("/environ", *fields)
    assert MADE.fullmatch(answer["X-Request-ID"])
    assert json.loads(answer.body)["HTTP_X_REQUEST_ID"] == answer["X-Request-ID"]


def test_one_of_somebody_else_is_replaced(server):
    with untrusted(server) as client:
        answer = client.ask("/environ", "X-Request-ID: mine")
    assert MADE.fullmatch(answer["X-Request-ID"])
    environ = json.loads(answer.body)
    assert (environ["REMOTE_ADDR"], environ["HTTP_X_REQUEST_ID"]) == ("127.0.0.2", answer["X-Request-ID"])


@pytest.mark.parametrize("target", ["/leased", "/asgi/lease"])
def test_a_leased_response_has_the_id_of_each_request(server, target):
    with server.client() as client:
        answers = [client.ask(target) for _ in range(4)]
    assert len({answer.body for answer in answers}) == 1, "it was not leased"
    ids = {answer["X-Request-ID"] for answer in answers}
    assert len(ids) == 4
    for request_id in ids:
        assert logged(server, request_id) == ["GET", target]


def test_an_application_may_say_another_and_then_no_lease_repeats_it(server):
    with server.client() as client:
        answers = [client.ask("/leased?field=X-Request-Id:its-own") for _ in range(3)]
    assert [answer["X-Request-ID"] for answer in answers] == ["its-own"] * 3
    assert len({answer.body for answer in answers}) == 3


def test_with_http2(server):
    with httpx.Client(http1=False, http2=True, base_url=server.url, timeout=60, trust_env=False) as client:
        for target in ("/environ", "/asgi/scope", "/files/small", "/leased", "/files/large", "/none"):
            ids = [client.get(target).headers["x-request-id"] for _ in range(3)]
            assert len(set(ids)) == 3
            assert logged(server, ids[2]) == ["GET", target]
            told = client.get(target, headers={"x-request-id": f"given{target}"})
            assert told.headers["x-request-id"] == f"given{target}"
        environ = client.get("/environ")
        assert environ.json()["HTTP_X_REQUEST_ID"] == environ.headers["x-request-id"]
        posted = client.post("/echo", content=b"x" * 100_000)
        assert (posted.content, len(posted.headers["x-request-id"])) == (b"x" * 100_000, 32)


def test_with_bodies_and_pipelining(server):
    posted = server.get("/echo", method="POST", body=b"x" * 100_000)
    assert posted.body == b"x" * 100_000
    assert logged(server, posted["X-Request-ID"]) == ["POST", "/echo"]
    with server.client() as client:
        client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        assert len({client.answer()["X-Request-ID"] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("target", "protocol", "status"),
    [
        ("/subprotocol/none", "websocket", 101),
        ("/tunnels/here", "shout", 101),
        ("/tunnels/none", "", 426),
    ],
)
def test_with_websockets_and_tunnels(server, target, protocol, status):
    fields = [f"Upgrade: {protocol}", "Connection: Upgrade"] if protocol else []
    fields += [
        "Sec-WebSocket-Protocol: none",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    given = "mine" + target.replace("/", "-")
    with server.client() as client:
        client.send(request(target, *fields, f"X-Request-ID: {given}"))
        answer = client.answer()
    assert (answer.status, answer["X-Request-ID"]) == (status, given)
    assert logged(server, given) == ["GET", target]


def assert_named(answer: Answer, status: int) -> None:
    """The response is in the server's own words, and names the request."""
    assert answer.status == status
    assert MADE.fullmatch(answer["X-Request-ID"])
    assert answer.body.endswith(f"\nRequest id: {answer['X-Request-ID']}\n".encode())
    assert answer["Content-Length"] == str(len(answer.body))


def test_the_error_log_names_it_and_so_does_the_page(server):
    answer = server.get("/fail?a=b")
    assert_named(answer, 500)
    server.until_logged(rf"before the response to GET /fail \(request {answer['X-Request-ID']}\):")
    answer = server.get("/asgi/raise")
    assert_named(answer, 500)
    server.until_logged(rf"to GET /asgi/raise from 127\.0\.0\.1 \(request {answer['X-Request-ID']}\):")
    answer = server.get("/late/sleep?seconds=30")
    assert_named(answer, 504)
    name = rf"\(request {answer['X-Request-ID']}\)"
    server.until_logged(f"past its deadline: GET '/late/sleep.seconds=30' {name}")
    server.until_logged(f"GET /late/sleep from 127.0.0.1 {name} passed its deadline")
    answer = server.get("/die", method="POST")
    assert_named(answer, 502)
    server.until_logged(rf"POST '/die' \(request {answer['X-Request-ID']}\) from 127.0.0.1 \(begun: 502\)")
    with httpx.Client(http1=False, http2=True, base_url=server.url, timeout=60, trust_env=False) as client:
        failed = client.get("/fail")
    assert failed.text.endswith(f"\nRequest id: {failed.headers['x-request-id']}\n")


def test_off_it_is_a_header_like_any_other(tmp_path: Path):
    arguments = ("--access-logfile", "access", "--access-logformat", "%L %{X-Request-ID}i")
    with serving(tmp_path, "story:app", *arguments) as server:
        answer = server.get("/environ", "X-Request-ID: mine")
        assert answer["X-Request-ID"] == ""
        assert json.loads(answer.body)["HTTP_X_REQUEST_ID"] == "mine"
        server.until(lambda: (tmp_path / "access").exists() and (tmp_path / "access").read_text())
        assert (tmp_path / "access").read_text() == "- mine\n"


def test_json_lines_have_it_and_a_reload_turns_it_on_and_off(tmp_path: Path):
    (tmp_path / "app.toml").write_text('access_logfile = "access"\naccess_logformat = "json"\n')
    path = tmp_path / "access"

    def has_lines(count: int) -> bool:
        return path.exists() and len(path.read_text().splitlines()) == count

    with serving(tmp_path, "story:app", "-c", "app.toml") as server, server.client() as client:
        assert client.ask("/hello")["X-Request-ID"] == ""
        for number, mode in enumerate(("own", "client", "off"), 1):
            with (tmp_path / "app.toml").open("a") as file:
                file.write(f'request_id = "{mode}"\n' if number == 1 else "")
            text = (tmp_path / "app.toml").read_text()
            (tmp_path / "app.toml").write_text(re.sub('request_id = ".*"', f'request_id = "{mode}"', text))
            server.signal(signal.SIGHUP)
            server.until_logged("configuration is in effect", number)
            answers = [client.ask("/hello", "X-Request-ID: mine")["X-Request-ID"] for _ in range(3)]
            if mode == "own":
                assert len(set(answers)) == 3
                assert all(map(MADE.fullmatch, answers))
            else:
                assert answers == (["mine"] * 3 if mode == "client" else [""] * 3)
            # now, or the worker that writes them would be another one's predecessor
            server.until(partial(has_lines, 1 + 3 * number))
        ids = [json.loads(line)["request_id"] for line in path.read_text().splitlines()]
    assert ids[0] is None
    assert all(map(MADE.fullmatch, ids[1:4]))
    assert ids[4:] == ["mine"] * 3 + [None] * 3
