"""WSGI to the letter: PEP 3333's rules, each shown over a worker's real threads and seam."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from halfsync.objects import File
from halfsync.system.stamps import stamp_of
from halfsync.wire.messages import Ending
from tests.descriptors import open_descriptors
from tests.worker_stage import Stage

PLAIN = [("Content-Type", "text/plain")]
KIB, MIB = 1024, 1024 * 1024


def app_of(body: Any, status: str = "200 OK", fields: Any = PLAIN) -> Any:
    """An application that returns what `body(environ)` gives."""

    def app(environ, start_response):
        start_response(status, list(fields))
        return body(environ)

    return app


def environ_of(head: str, body: bytes = b"", *, stage: Any = None, **more: Any) -> Any:
    """The environ that an application sees for this request."""
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", PLAIN)
        return [b"ok"]

    with Stage(app, **(stage or {})) as s:
        assert s.ask(head, body, **more).body == b"ok"
    return seen


# --- what the application is told -------------------------------------------------------------------


def test_environ_has_all_that_the_pep_lists():
    environ = environ_of("GET /a?b=c&d HTTP/1.1\nHost: example.org:81\nX-Y: z")
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a",
        "QUERY_STRING": "b=c&d",
        "REQUEST_URI": "/a?b=c&d",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "4711",
        "HTTP_HOST": "example.org:81",
        "HTTP_X_Y": "z",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.run_once": False,
    }
    assert {key: environ[key] for key in expected} == expected
    assert "CONTENT_LENGTH" not in environ
    assert "CONTENT_TYPE" not in environ


@pytest.mark.parametrize(
    ("prefix", "target", "script_name", "path_info"),
    [
        ("", "/", "", "/"),
        ("", "/a%20b%2Fc", "", "/a b/c"),
        ("", "/%E2%82%AC", "", "\xe2\x82\xac"),
        ("", "*", "", "/"),
        ("", "http://example.org/x?y", "", "/x"),
        ("", "http://example.org?y", "", "/"),
        ("/app", "/app", "/app", ""),
        ("/app", "/app/", "/app", "/"),
        ("/app", "/a%70p/x%3Fy", "/app", "/x?y"),
        ("/é", "/%C3%A9/ü".replace("ü", "%C3%BC"), "/\xc3\xa9", "/\xc3\xbc"),
    ],
)
def test_script_name_and_path_info_under_a_mount(prefix, target, script_name, path_info):
    if target.startswith("/%E2"):
        path_info = "/" + path_info
    environ = environ_of(f"GET {target} HTTP/1.1\nHost: a", stage={"prefix": prefix})
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_repeated_fields_are_joined():
    environ = environ_of("GET / HTTP/1.1\nHost: a\nX-A: 1\nx-a:2 \nCookie: a=1\nCookie: b=2")
    assert environ["HTTP_X_A"] == "1, 2"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"


@pytest.mark.parametrize(
    ("head", "host", "path"),
    [
        ("GET http://a/x HTTP/1.1\nHost: b", "a", "/x"),
        ("GET http://a:81/x?y HTTP/1.1\nHost: b:82", "a:81", "/x"),
        ("GET HTTPS://A HTTP/1.1\nHost: b", "A", "/"),
        ("GET http://a?y=/z HTTP/1.1\nHost: b", "a", "/"),
        ("GET http://[::1]:8/x HTTP/1.1\nHost: b", "[::1]:8", "/x"),
        ("GET http://a/x HTTP/1.0", "a", "/x"),
        ("GET http://a/x HTTP/1.0\nHost: b", "a", "/x"),
        ("GET http://a/x HTTP/1.1\nHost:", "a", "/x"),
        ("GET /http://a/x HTTP/1.1\nHost: b", "b", "/http://a/x"),
        ("GET //a/x HTTP/1.1\nHost: b", "b", "//a/x"),
        ("OPTIONS * HTTP/1.1\nHost: b", "b", "/"),
    ],
)
def test_the_host_of_an_absolute_target_wins(head, host, path):
    """RFC 9112 3.2.2. However often: heads are remembered, too."""
    seen = []

    def app(environ, start_response):
        seen.append((environ["HTTP_HOST"], environ["PATH_INFO"]))
        start_response("200 OK", PLAIN)
        return [b""]

    with Stage(app) as stage:
        for cookie in ("", "\nCookie: a=1", "\nCookie: a=2"):
            stage.ask(head.replace("Host: b", "Host: d") + cookie) if "://" in head else None
            stage.ask(head + cookie)
            assert seen[-1] == (host, path)


def test_a_field_with_an_underscore_is_not_taken_for_the_one_with_a_hyphen():
    environ = environ_of("GET / HTTP/1.1\nHost: a\nX_Real_Ip: 6.6.6.6\nX-Other: 1\nContent_Length: 5")
    assert "HTTP_X_REAL_IP" not in environ
    assert "CONTENT_LENGTH" not in environ
    assert environ["HTTP_X_OTHER"] == "1"


def test_a_chunked_body_has_a_length_and_no_transfer_encoding():
    environ = environ_of("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked", b"12345")
    assert environ["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_a_chunked_body_has_a_length_also_after_an_empty_one_with_the_same_head():
    head = "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked"
    with Stage(app_of(lambda e: [e.get("CONTENT_LENGTH", "none").encode()])) as stage:
        assert stage.ask(head, b"").body == b"none"
        assert stage.ask(head, b"12345").body == b"5"
        assert stage.ask(head, b"x" * 1000, spooled=True).body == b"1000"
        assert stage.ask(head, b"").body == b"none"


def test_an_empty_body_may_say_so():
    assert environ_of("POST / HTTP/1.1\nHost: a\nContent-Length: 0")["CONTENT_LENGTH"] == "0"


@pytest.mark.parametrize(
    ("threads", "processes", "expected"),
    [(1, 1, (False, False)), (8, 2, (True, True)), (1, 2, (False, True))],
)
def test_multithread_and_multiprocess(threads, processes, expected):
    environ = environ_of("GET / HTTP/1.0", stage={"threads": threads, "processes": processes})
    assert (environ["wsgi.multithread"], environ["wsgi.multiprocess"]) == expected


# --- wsgi.input -----------------------------------------------------------------------------------------

LINES = b"first\nsecond line\n\nlast without an end"


@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda f: f.read(), LINES),
        (lambda f: f.read(-1), LINES),
        (lambda f: f.read(None), LINES),
        (lambda f: f.read(10**9), LINES),
        (lambda f: [f.read(7), f.read(0), f.read(3)], [LINES[:7], b"", LINES[7:10]]),
        (lambda f: f.readline(), b"first\n"),
        (lambda f: [f.readline(3), f.readline(-1), f.readline(100)], [b"fir", b"st\n", b"second line\n"]),
        (lambda f: f.readlines(), LINES.splitlines(keepends=True)),
        (lambda f: f.readlines(5), [b"first\n"]),
        (list, LINES.splitlines(keepends=True)),
        (lambda f: [f.read(), f.read(), f.read(5), f.readline(), f.readlines()], [LINES, b"", b"", b"", []]),
    ],
)
def test_input_may_be_read_in_every_way(spooled, read, expected):
    found = []

    def app(environ, start_response):
        found.append(read(environ["wsgi.input"]))
        start_response("200 OK", PLAIN)
        return []

    with Stage(app) as stage:
        stage.ask("POST / HTTP/1.1\nHost: a", LINES, spooled=spooled)
    assert found == [expected]


def test_a_spooled_body_never_shows_what_is_behind_it_in_the_file():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        return [environ["wsgi.input"].read()]

    with Stage(app) as stage, tempfile.TemporaryFile() as file:
        file.write(b"body and what is no part of it")
        file.flush()
        task = stage.task("POST / HTTP/1.1\nHost: a", b"body", spooled=True)
        file.seek(9)  # the offset is shared with us, and must not matter
        stage.send(task, descriptors=[file.fileno()])
        assert stage.wait(task.number).body == b"body"


def test_a_spooled_body_is_closed_after_the_request_even_if_the_application_keeps_it():
    kept = []

    def app(environ, start_response):
        kept.append(environ["wsgi.input"])
        start_response("200 OK", PLAIN)
        return []

    with Stage(app) as stage:
        stage.ask("POST / HTTP/1.1\nHost: a", b"x" * 100, spooled=True)
        stage.get("/", spooled=False)
    with pytest.raises(ValueError, match="closed"):
        kept[0].read()


# --- the head ---------------------------------------------------------------------------------------------


def test_a_single_piece_gets_its_length():
    with Stage(app_of(lambda e: [b"hello"])) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.length, answer.body, answer.messages) == (200, 5, b"hello", 1)
    assert answer.fields == {"content-type": "text/plain"}


def test_content_length_is_taken_out_of_the_fields_and_a_date_is_marked():
    fields = [("content-length", "5"), ("date", "Mon, 23 Nov 2026 10:00:00 GMT")]
    with Stage(app_of(lambda e: [b"hello"], "200 Fine", fields)) as stage:
        answer = stage.get("/")
    assert answer.length == 5
    assert list(answer.fields) == ["date"]
    assert answer.reply is not None
    assert answer.reply.dated
    assert answer.reply.reason == "Fine"


@pytest.mark.parametrize(
    ("status", "fields", "said"),
    [
        ("200 OK", [("X", "a\r\nSet-Cookie: b")], "control character"),
        ("200 OK", [("X", "a\0")], "control character"),
        ("200 OK", [("X Y", "a")], "name of a header field"),
        ("200 OK", [("", "a")], "name of a header field"),
        ("200 OK", [("X:", "a")], "name of a header field"),
        ("200 OK", [("X", "€")], "latin-1"),
        ("200 OK", [("X", b"bytes")], "must be str"),
        ("200 OK", [["X", "list"]], "must be a tuple"),
        ("200 OK", [("X", "1", "2")], "must be a tuple"),
        ("200 OK", (("X", "1"),), "must be a list"),
        ("200 OK", [("Transfer-Encoding", "gzip, chunked")], "between server and client"),
        ("200 OK", [("Transfer-Encoding", "")], "between server and client"),
        ("200 OK", [("Content-Length", "-1")], "not a number"),
        ("200 OK", [("Content-Length", "1"), ("Content-Length", "2")], "two Content-Length"),
        ("200 OK", [("X", "y" * 70_000)], "take 70005 bytes"),
        ("OK", [], "not of the form"),
        ("100 Continue", [], "not of the form"),
        ("101 Switching Protocols", [("X", "y")], "not of the form"),
        ("103 Early Hints", [], "not of the form"),
        ("099 X", [], "not of the form"),
        ("20 OK", [], "not of the form"),
        ("2000 OK", [], "not of the form"),
        ("200OK", [], "not of the form"),
        ("", [], "not of the form"),
        ("\uff12\uff10\uff10 OK", [], "not of the form"),
        (None, [], "must be a str"),
        (b"200 OK", [], "must be a str"),
        ("200 " + "x" * 600, [], "more than 512"),
        ("200 OK", None, "must be a list"),
        ("200 O\r\nK", [], "control character"),
        (200, [], "must be a str"),
        ("200 O€", [], "latin-1"),
    ],
)
def test_a_bad_head_is_a_500_and_the_log_says_what_is_wrong(capfd, status, fields, said):
    with Stage(lambda e, start_response: start_response(status, fields) and []) as stage:
        assert stage.get("/").status == 500
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "number", "reason"),
    [
        ("200", 200, "OK"),
        ("200 ", 200, "OK"),
        ("404   ", 404, "Not Found"),
        ("599", 599, "Unknown"),
        ("299 Of my own", 299, "Of my own"),
        ("999 Last", 999, "Last"),
    ],
)
def test_a_status_without_a_reason_gets_one(status, number, reason):
    with Stage(app_of(lambda e: [b"a"], status)) as stage:
        answer = stage.get("/")
    assert answer.reply is not None
    assert (answer.reply.status, answer.reply.reason, answer.body) == (number, reason, b"a")


def test_the_connection_field_of_event_stream_recipes_is_left_out_with_a_warning(capfd):
    """It is not the application's to set (PEP 3333), but no reason to refuse a page that other
    servers serve."""
    fields = [("Content-Type", "text/plain"), ("cOnnection", "keep-alive")]
    with Stage(lambda e, start_response: start_response("200 OK", fields) and [b"hello"]) as stage:
        answers = [stage.get("/") for _ in range(2)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"hello")] * 2
    assert answers[0].reply is not None
    assert b"nnection" not in answers[0].reply.fields
    assert capfd.readouterr().err.count("'cOnnection'") == 1


def test_what_another_server_said_can_be_passed_on(capfd):
    """Applications that fetch a page pass its header fields on as they are."""
    fields = [
        ("Content-Type", "text/plain"),
        ("Transfer-Encoding", "Chunked"),
        ("Connection", "close"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "close"),
        ("TE", "trailers"),
        ("Trailers", "X"),
        ("Upgrade", "h2c"),
    ]
    with Stage(lambda e, start_response: start_response("200 OK", fields) and [b"hello"]) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.reply is not None
    assert answer.reply.fields == b"Content-Type: text/plain\r\n"
    assert "is the server's: it is left out" in capfd.readouterr().err


def test_a_stream_may_say_that_it_is_chunked():
    fields = [("Transfer-Encoding", "chunked")]
    with Stage(lambda e, start_response: start_response("200 OK", fields) and iter([b"a", b"b"])) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.body, answer.length) == (200, b"ab", -1)


@pytest.mark.parametrize(
    ("status", "fields", "sent"),
    [
        (
            "426 Upgrade Required",
            [("Upgrade", "websocket")],
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        ),
        (
            "426 Upgrade Required",
            [("Connection", "upgrade"), ("Upgrade", "a/1"), ("Upgrade", "b")],
            b"Upgrade: a/1\r\nUpgrade: b\r\nConnection: Upgrade\r\n",
        ),
        ("407 Log In", [("Proxy-Authenticate", "Basic")], b"Proxy-Authenticate: Basic\r\n"),
    ],
)
def test_fields_that_a_status_must_have_are_sent(capfd, status, fields, sent):
    with Stage(lambda e, start_response: start_response(status, fields) and [b"no"]) as stage:
        answer = stage.get("/")
    assert answer.reply is not None
    assert answer.reply.fields == sent
    assert "left out" not in capfd.readouterr().err


def test_head_gives_the_length_and_no_body():
    with Stage(app_of(lambda e: [b"hel", b"lo"])) as stage:
        answer = stage.ask("HEAD / HTTP/1.1\nHost: a")
    assert (answer.length, answer.body, answer.messages) == (5, b"", 1)


@pytest.mark.parametrize("body", [[], [b""], [b"", b""]])
def test_head_with_an_empty_body_says_no_length(body):
    """The application may give it because it was asked for the head alone: how long the body of GET would be
    is not known."""
    with Stage(app_of(lambda e: body)) as stage:
        answer = stage.ask("HEAD / HTTP/1.1\nHost: a")
        assert (answer.length, answer.body, answer.messages) == (-1, b"", 1)
        assert stage.get("/").length == 0


def test_head_does_not_run_a_generator_to_its_end():
    produced = []

    def body(environ):
        for number in range(1000):
            produced.append(number)
            yield b"x"

    with Stage(app_of(body)) as stage:
        answer = stage.ask("HEAD / HTTP/1.1\nHost: a")
    assert (answer.status, answer.length, answer.body) == (200, -1, b"")
    assert len(produced) == 1


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_where_there_is_no_body_none_is_sent(status):
    with Stage(app_of(lambda e: [b"surplus"], status, [])) as stage:
        assert stage.get("/").body == b""
    with Stage(app_of(lambda e: iter([b"surplus"]), status, [])) as stage:
        assert stage.get("/").body == b""


def test_an_application_without_start_response_is_a_500(capfd):
    with Stage(lambda e, s: [b"x"]) as stage:
        assert stage.get("/").status == 500
    assert "did not call start_response" in capfd.readouterr().err


def test_start_response_may_be_called_when_the_first_piece_is_asked_for():
    def app(environ, start_response):
        start_response("201 Created", PLAIN)
        yield b"late"

    with Stage(app) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.body) == (201, b"late")


def test_what_was_said_twice_in_a_row_means_only_that():
    """However much the next one is like it: a list that was changed, others in turn, a status of its own."""
    fields = [("X-A", "0"), ("X-B", "b")]

    def app(environ, start_response):
        status, _, value = environ["QUERY_STRING"].partition("-")
        fields[0] = ("X-A", value)  # the very list that was given before
        start_response(f"{status} Status", fields)
        return [value.encode()]

    with Stage(app) as stage:
        for query in ["200-0", "200-0", "200-0", "200-1", "404-0", "404-0", "404-0", "404-1", "200-0"] * 3:
            answer = stage.get(f"/?{query}")
            status, _, value = query.partition("-")
            assert answer.reply is not None
            assert (answer.reply.status, answer.body) == (int(status), value.encode())
            assert answer.reply.fields == f"X-A: {value}\r\nX-B: b\r\n".encode()


def test_start_response_twice_is_an_error_without_exc_info(capfd):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        start_response("201 Created", PLAIN)
        return [b""]

    with Stage(app) as stage:
        assert stage.get("/").status == 500
    assert "called again" in capfd.readouterr().err


def test_exc_info_before_the_head_was_sent_replaces_it():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        try:
            raise ValueError("oops")
        except ValueError:
            start_response("503 Sorry", PLAIN, sys.exc_info())
        return [b"sorry"]

    with Stage(app) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.body) == (503, b"sorry")


def test_exc_info_after_the_head_was_sent_is_raised_and_the_reply_aborted(capfd):
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b"begun"
        try:
            raise ValueError("oops")
        except ValueError:
            start_response("500 Sorry", PLAIN, sys.exc_info())
        yield b"never"

    with Stage(app) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.body, answer.ending) == (200, b"begun", Ending.ABORTED)
    assert "ValueError: oops" in capfd.readouterr().err


# --- bodies -------------------------------------------------------------------------------------------------


def test_write_then_iterable():
    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write(b"one ")
        write(b"two ")
        return [b"three"]

    with Stage(app) as stage:
        answer = stage.get("/")
    assert (answer.body, answer.length, answer.ending) == (b"one two three", -1, Ending.DONE)


def test_a_piece_leaves_when_it_is_yielded():
    seen = threading.Event()

    def body(environ):
        yield b"first"
        assert seen.wait(60)
        yield b"second"

    with Stage(app_of(body), threads=1) as stage:
        slot = stage.start("GET / HTTP/1.1\nHost: a")
        stage.read_packet()
        assert stage.answers[slot].body == b"first"
        seen.set()
        assert stage.wait(slot).body == b"firstsecond"


def test_a_written_piece_leaves_before_the_application_goes_on():
    seen = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", PLAIN)(b"first")
        assert seen.wait(60)
        return []

    with Stage(app, threads=1) as stage:
        slot = stage.start("GET / HTTP/1.1\nHost: a")
        stage.read_packet()
        assert stage.answers[slot].body == b"first"
        seen.set()
        assert stage.wait(slot).done


def test_empty_pieces_do_not_send_the_head():
    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        yield b""
        start_response("404 Not Found", PLAIN, (ValueError, ValueError(), None))
        yield b"no"

    with Stage(app) as stage:
        assert stage.get("/").status == 404


@pytest.mark.parametrize("empty", [[], (), iter(()), [b""]])
def test_an_empty_body(empty):
    with Stage(app_of(lambda e: empty)) as stage:
        answer = stage.get("/")
    assert (answer.length, answer.body, answer.done) == (0, b"", True)


@pytest.mark.parametrize("make", [list, tuple, iter])
def test_more_than_content_length_is_dropped(capfd, make):
    fields = [("Content-Length", "5")]
    with Stage(app_of(lambda e: make([b"hel", b"lo and more", b"x"]), fields=fields)) as stage:
        answer = stage.get("/")
    assert (answer.length, answer.body, answer.ending) == (5, b"hello", Ending.DONE)
    assert capfd.readouterr().err.count("more than its Content-Length") == 1


@pytest.mark.parametrize("make", [list, tuple, iter])
def test_less_than_content_length_aborts(capfd, make):
    fields = [("Content-Length", "50")]
    with Stage(app_of(lambda e: make([b"hel", b"lo"]), fields=fields)) as stage:
        answer = stage.get("/")
    assert (answer.length, answer.body, answer.ending) == (50, b"hello", Ending.ABORTED)
    assert "gave 5 of the 50 bytes" in capfd.readouterr().err


def test_nothing_at_all_of_a_content_length_aborts():
    with Stage(app_of(lambda e: [], fields=[("Content-Length", "50")])) as stage:
        assert stage.get("/").ending is Ending.ABORTED


def test_a_generator_that_reaches_its_length_is_done_but_runs_to_its_end():
    after = []

    def body(environ):
        yield b"hello"
        after.append(True)

    with Stage(app_of(body, fields=[("Content-Length", "5")])) as stage:
        assert stage.get("/").messages == 1
    assert after == [True]


class Body:
    """An iterable that remembers that it was closed."""

    def __init__(self, pieces: Any, error: Any = None, on_close: Any = None) -> None:
        self.pieces, self.error, self.on_close = pieces, error, on_close
        self.closed = 0

    def __iter__(self):
        yield from self.pieces
        if self.error:
            raise self.error

    def close(self):
        self.closed += 1
        if self.on_close:
            self.on_close()


@pytest.mark.parametrize("pieces", [[], [b"a"], [b"a", b"b"], ["not bytes"]])
@pytest.mark.parametrize("error", [None, ValueError("oops"), SystemExit(1)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_once_whatever_happens(pieces, error, method):
    body = Body(pieces, error)
    with Stage(app_of(lambda e: body)) as stage:
        assert stage.ask(f"{method} / HTTP/1.1\nHost: a").ending is not Ending.UNFINISHED
    assert body.closed == 1


def test_a_response_does_not_wait_for_a_long_close():
    go_on = threading.Event()
    body = Body([b"whole"], on_close=lambda: go_on.wait(60))
    with Stage(app_of(lambda e: body, fields=[("Content-Length", "5")])) as stage:
        assert stage.get("/").done
        assert not go_on.is_set()
        go_on.set()


def test_a_close_that_raises_is_logged_and_harms_nothing(capfd):
    def fail():
        raise ValueError("in close")

    with Stage(app_of(lambda e: Body([b"a"], on_close=fail))) as stage:
        assert stage.get("/").done
    assert "in close" in capfd.readouterr().err


def test_an_iterable_of_length_one_has_a_known_length():
    class One(Body):
        def __len__(self):
            return len(self.pieces)

    with Stage(app_of(lambda e: One([b"known"]))) as stage:
        assert stage.get("/").length == 5


# --- exceptions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("oops"),
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError(),
        GeneratorExit(),
        RecursionError(),
    ],
)
def test_a_thread_survives_whatever_an_application_raises(capfd, error):
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/fine":
            start_response("200 OK", PLAIN)
            return [b"fine"]
        raise error

    with Stage(app, threads=1) as stage:
        assert stage.get("/bad?secret=1").status == 500
        assert stage.get("/fine").body == b"fine"
    said = capfd.readouterr().err
    assert type(error).__name__ in said
    assert "GET /bad:" in said
    assert "secret" not in said
    assert "handlers/wsgi.py" not in said  # the application's frames, not ours


def test_a_thread_survives_real_recursion():
    def recurse() -> Any:
        return recurse()

    def app(environ, start_response):
        return recurse()

    with Stage(app, threads=1) as stage:
        assert stage.get("/").status == 500
        assert stage.get("/").status == 500


def test_an_exception_during_the_body_aborts():
    with Stage(app_of(lambda e: Body([b"a"], ValueError()))) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.body, answer.ending) == (200, b"a", Ending.ABORTED)


def test_pieces_must_be_bytes(capfd):
    with Stage(app_of(lambda e: ["text"])) as stage:
        assert stage.get("/").status == 500
    assert "not of str" in capfd.readouterr().err


# --- the client leaves ----------------------------------------------------------------------------------


class Endless:
    """A body without an end, of pieces that may be empty. `closed` says that `close` was called."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.closed = threading.Event()

    def __iter__(self):
        yield from self.pieces
        while True:
            time.sleep(0.001)
            yield b""

    def close(self):
        self.closed.set()


def leave(stage: Stage, slot: int) -> None:
    """What the watch thread does when the pump says that the client has disconnected."""
    give_up = time.monotonic() + 60
    while not stage.scoreboard[slot]:
        assert time.monotonic() < give_up
        time.sleep(0.001)
    stage.threads.outbox.client_disconnected(slot)


@pytest.mark.parametrize("pieces", [(), (b"a",), (b"a" * 100_000,), (b"a" * 3_000_000,)], ids=len)
def test_a_body_of_empty_pieces_ends_when_the_client_has_left(pieces):
    body = Endless(*pieces)
    with Stage(app_of(lambda e: body)) as stage:
        slot = stage.start("GET / HTTP/1.1\nHost: a")
        while pieces and not stage.answers[slot].body:
            stage.read_packet()
        assert not body.closed.is_set()
        leave(stage, slot)
        assert body.closed.wait(60)


def test_the_write_callable_raises_when_the_client_has_left():
    raised = threading.Event()

    def app(environ, start_response):
        write = start_response("200 OK", PLAIN)
        try:
            while True:
                time.sleep(0.001)
                write(b"")
        except Exception:
            raised.set()
            raise

    with Stage(app) as stage:
        leave(stage, stage.start("GET / HTTP/1.1\nHost: a"))
        assert raised.wait(60)


def test_a_generator_is_closed_when_the_client_has_left(capfd):
    """Its `finally` runs; and a client that leaves is nothing for the error log."""
    closed = threading.Event()

    def body(environ):
        try:
            while True:
                time.sleep(0.001)
                yield b"a"
        finally:
            closed.set()

    with Stage(app_of(body)) as stage:
        leave(stage, stage.start("GET / HTTP/1.1\nHost: a"))
        assert closed.wait(60)
    assert capfd.readouterr().err == ""


# --- wsgi.errors ----------------------------------------------------------------------------------------


def test_errors_are_written_through_as_whole_lines(capfd):
    """Without a date, a level or a process in front: an application's log has its own."""

    def app(environ, start_response):
        errors = environ["wsgi.errors"]
        errors.write("half ")
        errors.write("and half\n")
        errors.writelines(["two\n", "\n", "  three\t\x1b[1mü\udce4\n"])
        print("printed", "twice", file=errors)
        errors.write("flushed")
        errors.flush()
        errors.flush()
        start_response("200 OK", PLAIN)
        return []

    with Stage(app) as stage:
        stage.get("/")
    lines = ["half and half", "two", "", "  three\t\x1b[1mü\\udce4", "printed twice", "flushed", ""]
    assert capfd.readouterr().err == "\n".join(lines)


def test_lines_of_several_threads_do_not_mix_in_wsgi_errors():
    """Neither do lines that are written in parts, nor what is written in one call and is more than a pipe
    takes at once."""

    def app(environ, start_response):
        errors = environ["wsgi.errors"]
        name = environ["PATH_INFO"][1:]
        for _ in range(20):
            errors.write(f"{name} begins ")
            errors.write(f"and ends {name}\n" + f"{name} {name * 100}\n" * 100)
        start_response("200 OK", PLAIN)
        return []

    with standard_error_in_a_small_pipe() as written, Stage(app, threads=4) as stage:
        slots = [stage.start(f"GET /{name} HTTP/1.1\nHost: example.org") for name in "abcd"]
        for slot in slots:
            assert stage.wait(slot).status == 200
    blocks = re.split(r"^(?=. begins)", b"".join(written).decode(), flags=re.MULTILINE)[1:]
    assert len(blocks) == 4 * 20
    for block in blocks:
        name = block[0]
        assert block == f"{name} begins and ends {name}\n" + f"{name} {name * 100}\n" * 100


@contextlib.contextmanager
def standard_error_in_a_small_pipe() -> Iterator[list[bytes]]:
    """The writer often has to wait for room. At the end the list has what was written."""
    written: list[bytes] = []
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    reader = threading.Thread(target=lambda: written.extend(iter(lambda: os.read(reading, 65536), b"")))
    reader.start()
    before = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    try:
        yield written
    finally:
        os.dup2(before, 2)
        os.close(before)
        reader.join()
        os.close(reading)


# --- simple objects -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kinds"),
    [
        (64 * KIB, []),
        (64 * KIB + 1, ["Memory"]),
        (256 * KIB, ["Memory", "Memory"]),
        (256 * KIB + 1, ["File"]),
        (5 * MIB, ["File"]),
        (9 * MIB, ["File", "Pipe"]),
    ],
)
def test_a_whole_body_becomes_simple_objects_by_its_size(size, kinds):
    data = os.urandom(size)
    with Stage(app_of(lambda e: [data]), reply_spool=8 * MIB) as stage:
        answer = stage.get("/")
    assert answer.kinds == kinds
    assert answer.body == data
    assert (answer.length, answer.done) == (size, True)


@pytest.mark.parametrize(
    ("piece", "count", "last_kind"),
    [
        (1000, 10, "Memory"),
        (1000, 200, "File"),
        (100 * KIB, 10, "File"),
        (200 * KIB, 1, "File"),
        (1 * MIB, 12, "Pipe"),
    ],
)
def test_a_generated_body_becomes_simple_objects_as_it_grows(piece, count, last_kind):
    data = os.urandom(piece)
    with Stage(app_of(lambda e: (data for _ in range(count))), reply_spool=8 * MIB) as stage:
        answer = stage.get("/")
    assert answer.kinds[-1] == last_kind
    assert answer.body == data * count
    assert (answer.length, answer.done) == (-1, True)


def test_a_client_that_left_ends_the_body_that_goes_by_pipe():
    body = Body(b"x" * MIB for _ in range(1000))
    with Stage(app_of(lambda e: body), reply_spool=0, reply_memory=0, threads=1) as stage:
        task = stage.task("GET / HTTP/1.1\nHost: a")
        stage.send(task)
        descriptors: list[int] = []
        while not descriptors:
            _, descriptors, _, _ = socket.recv_fds(stage.tasks, 1 << 18, 4)
        os.close(descriptors[0])
        deadline = time.monotonic() + 60
        while not body.closed and time.monotonic() < deadline:
            time.sleep(0.01)
    assert body.closed == 1


def test_no_descriptor_is_left_behind():
    data = b"x" * (300 * KIB)
    with Stage(app_of(lambda e: iter([data, data])), threads=1) as stage:
        stage.get("/")
        before = open_descriptors()
        for _ in range(10):
            os.close(stage.get("/").file)
        for answer in stage.answers.values():
            answer.file = -1
        assert open_descriptors() <= before


# --- wsgi.file_wrapper ----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4)
    return path


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_true_file_is_handed_over_by_its_descriptor(file, buffering):
    opened = []

    def app(environ, start_response):
        start_response("200 OK", PLAIN)
        f = open(file, "rb", buffering)  # noqa: SIM115 - the server closes it
        opened.append(f)
        f.read(24)
        return environ["wsgi.file_wrapper"](f)

    with Stage(app) as stage:
        answer = stage.get("/")
    assert (answer.kinds, answer.length) == (["File"], 1000)
    assert answer.body == file.read_bytes()[24:]
    assert opened[0].closed


@pytest.mark.parametrize(("declared", "ending"), [(10, Ending.DONE), (2000, Ending.ABORTED)])
def test_a_file_and_its_content_length(file, declared, ending):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", str(declared))])
        return environ["wsgi.file_wrapper"](open(file, "rb"))

    with Stage(app) as stage:
        answer = stage.get("/")
    assert (answer.length, answer.ending) == (declared, ending)
    assert answer.body == file.read_bytes()[:declared]


def test_what_is_no_true_file_is_read(tmp_path):
    zipped = tmp_path / "z.gz"
    zipped.write_bytes(gzip.compress(b"unzipped"))
    makers: list[Any] = [lambda: io.BytesIO(b"unzipped"), lambda: gzip.open(zipped)]  # noqa: SIM115 - as above
    for make in makers:
        with Stage(lambda e, s, make=make: s("200 OK", PLAIN) and e["wsgi.file_wrapper"](make(), 3)) as stage:
            answer = stage.get("/")
        assert (answer.body, answer.kinds.count("File")) == (b"unzipped", 0)


def test_a_pipe_is_read():
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe")
    os.close(writing)
    with Stage(lambda e, s: s("200 OK", PLAIN) and e["wsgi.file_wrapper"](open(reading, "rb"))) as stage:
        assert stage.get("/").body == b"from a pipe"


def test_a_file_whose_size_is_not_known_is_read():
    path = "/proc/sys/kernel/ostype"
    with Stage(lambda e, s: s("200 OK", PLAIN) and e["wsgi.file_wrapper"](open(path, "rb"))) as stage:
        assert stage.get("/").body == b"Linux\n"


def test_head_of_a_file(file):
    with Stage(lambda e, s: s("200 OK", PLAIN) and e["wsgi.file_wrapper"](open(file, "rb"))) as stage:
        answer = stage.ask("HEAD / HTTP/1.1\nHost: a")
    assert (answer.length, answer.body) == (1024, b"")


# --- leases -----------------------------------------------------------------------------------------------


def leasing(body: Any, fields: Any = PLAIN, seconds: float = 5.0, names: Any = ("Accept",)) -> Any:
    def app(environ, start_response):
        environ["halfsync.lease"](seconds, *names)
        start_response("200 OK", fields)
        return body(environ)

    return app


def test_an_application_may_give_a_lease():
    with Stage(leasing(lambda e: [b"same"])) as stage:
        lease = stage.get("/").lease
        assert lease is not None
        assert (lease.seconds, lease.names) == (5.0, ("accept", "x-forwarded-proto"))
        head = stage.ask("HEAD / HTTP/1.1\nHost: a")
        assert (head.length, head.lease) == (4, lease)
        assert stage.ask("POST / HTTP/1.1\nHost: a").lease is None


@pytest.mark.parametrize("size", [100 * KIB, MIB])
def test_a_large_leased_reply_is_whole_in_one_message(size):
    with Stage(leasing(lambda e: [b"x" * size])) as stage:
        answer = stage.get("/")
    assert (answer.messages, answer.kinds, len(answer.body)) == (1, ["File"], size)
    assert answer.lease is not None


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (leasing(lambda e: [b"x"], [("Set-Cookie", "a=b")]), "sets a cookie"),
        (leasing(lambda e: iter([b"x", b"y"])), "in pieces"),
    ],
)
def test_a_lease_that_can_not_be_is_refused_with_a_warning(capfd, app, said):
    with Stage(app) as stage:
        answer = stage.get("/")
    assert (answer.status, answer.lease) == (200, None)
    assert said in capfd.readouterr().err


# --- wsgiref.validate, for every kind of application ------------------------------------------------------


def echo(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def generating(environ, start_response):
    start_response("200 OK", PLAIN)
    yield b"a"
    yield b"b"


def writing(environ, start_response):
    start_response("200 OK", PLAIN)(b"a")
    return [b"b"]


@pytest.mark.parametrize("app", [echo, generating, writing])
@pytest.mark.parametrize(
    ("head", "body", "spooled"),
    [
        ("GET /a%20b?c=d HTTP/1.1\nHost: example.org", b"", False),
        ("GET /app HTTP/1.0", b"", False),
        ("OPTIONS * HTTP/1.1\nHost: a", b"", False),
        ("POST / HTTP/1.1\nHost: a\nContent-Type: text/plain\nContent-Length: 2", b"ab", False),
        ("POST / HTTP/1.1\nHost: a\nContent-Type: text/plain\nTransfer-Encoding: chunked", b"ab", True),
    ],
)
@pytest.mark.parametrize("prefix", ["", "/app"])
def test_under_the_validator(capfd, app, head, body, spooled, prefix):
    with Stage(validator(app), prefix=prefix) as stage:
        answer = stage.ask(head, body, spooled=spooled)
    assert (answer.status, answer.done) == (200, True), capfd.readouterr().err
    assert answer.body == (body if app is echo else b"ab")


def test_heads_that_were_read_before_have_their_own_cookies():
    """What a head says is remembered without its cookie; nobody gets another's."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ.get("HTTP_COOKIE", "none").encode() + b" " + environ["HTTP_ACCEPT"].encode()]

    asked = [
        ("", b"none x"),
        ("\nCookie: a=1", b"a=1 x"),
        ("\nCookie: b=2", b"b=2 x"),
        ("\nCookie:  c=3 ", b"c=3 x"),
        ("\nCookie: ", b" x"),
        ("\nCookie: d=4\nCookie: e=5", b"d=4; e=5 x"),
        ("\ncookie: f=6", b"f=6 x"),
    ]
    with Stage(app) as stage:
        for cookies, answer in [*asked, *reversed(asked), *asked]:
            assert stage.ask(f"GET / HTTP/1.1\nHost: a{cookies}\nAccept: x").body == answer


def test_a_wrapped_file_goes_with_what_it_was_unless_it_has_no_name(tmp_path):
    """So the pump can tell if somebody writes into it. Nobody can into one without a name."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/named":
            file = path.open("rb")
        else:
            file = tempfile.TemporaryFile()  # noqa: SIM115
            file.write(b"x" * 100_000)
            file.seek(0)
        environ["halfsync.lease"](5)
        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"](file)

    with Stage(app) as stage:
        for target, stamp in (("/named", stamp_of(path.stat())), ("/temporary", None)):
            answer = stage.get(target)
            assert len(answer.body) == 100_000
            assert answer.reply is not None
            (item,) = answer.reply.objects
            assert isinstance(item, File)
            assert item.stamp == stamp


def test_a_file_that_was_just_written_is_not_leased(tmp_path):
    """It may change once more in the same tick of the clock, and nobody could tell."""
    path = tmp_path / "file"

    def app(environ, start_response):
        if environ["PATH_INFO"] == "/new":
            path.write_bytes(b"x" * 100_000)
        environ["halfsync.lease"](5)
        start_response("200 OK", PLAIN)
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with Stage(app) as stage:
        assert stage.get("/new").lease is None
        deadline = time.monotonic() + 60
        while stage.get("/old").lease is None:
            assert time.monotonic() < deadline
