"""What is told while one has to wait, and of what was refused."""

from __future__ import annotations

import re
import signal

import pytest

from halfsync.parent.reload import progress
from halfsync.pump import stopping
from tests.e2e.harness import Server, request, serving

SLOW = """
import pathlib, time
def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.01)
wait_for("imported")
def app(environ, start):
    if environ["PATH_INFO"] == "/slow":
        wait_for("answered")
    start("200 OK", [])
    return [b"done"]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "imported").touch()
    return tmp_path


def test_a_start_says_at_once_where_it_listens_and_what_it_imports_and_again(folder):
    (folder / "imported").unlink()
    server = Server(folder, ("-b", "127.0.0.1:0", "slow:app", "/other=slow:app", "--preload"), {})
    try:
        server.until_logged(r"INFO listening at 127\.0\.0\.1:\d+; importing slow:app\.")
        words = (
            r"still importing: template\(slow:app\) \[\d+\] for \d+ s; the limit is 60 s \(startup_timeout\)"
        )
        assert not re.search(words, server.log())
        server.until(lambda: re.search(words, server.log()), progress.EVERY + 20)
        assert " serves " not in server.log()
        (folder / "imported").touch()
        server.wait_until_it_serves()
        server.stop()
    finally:
        server.kill()


def test_a_start_of_folders_imports_nothing(tmp_path):
    (tmp_path / "public").mkdir()
    with serving(tmp_path, "./public") as server:
        assert re.search(r"INFO listening at 127\.0\.0\.1:\d+\.\n", server.log())


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["forked", "preloaded"])
def test_a_reload_says_when_the_old_workers_are_gone(folder, preload):
    with serving(folder, "slow:app", *preload) as server, server.client() as client:
        old = server.workers("slow:app")
        client.send(request("/slow"))
        server.until(lambda: server.get("/").status == 200)
        server.signal(signal.SIGHUP)
        server.until_logged("slow:app is reloaded; the old workers finish what they have")
        server.until(lambda: server.get("/").status == 200)
        assert "slow:app: the old workers are gone" not in server.log()
        (folder / "answered").touch()
        assert client.answer().body == b"done"
        server.until_logged("INFO slow:app: the old workers are gone; the reload is over", 1)
        server.until_gone(old)
        server.signal(signal.SIGHUP)
        server.until_logged("INFO slow:app: the old workers are gone; the reload is over", 2)


def test_a_stop_says_what_it_waits_for(folder):
    with serving(folder, "slow:app", "--graceful-timeout", "60") as server:
        with server.client() as slow, server.client() as upload:
            slow.send(request("/slow?secret=1"))
            upload.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
            server.until(lambda: server.get("/").status == 200)
            server.signal(signal.SIGTERM)
            words = (
                r"pump INFO stopping: 2 requests are in flight: GET '/slow' for \d+ s \(in its handler\), "
                r"POST '/upload' for \d+ s \(its body is still coming\); what is left in \d+ s is cut off\."
            )
            server.until(lambda: re.search(words, server.log()), stopping.FIRST + 20)
            upload.send(b"-whole")
            assert upload.answer().body == b"done"
            words = r"stopping: 1 request is in flight: GET '/slow' for \d+ s"
            server.until(lambda: re.search(words, server.log()), stopping.EVERY + 20)
            assert "secret" not in server.log()
            (folder / "answered").touch()
            assert slow.answer().body == b"done"
        assert server.ends() == 0


def test_a_quick_stop_says_nothing_of_requests(folder):
    with serving(folder, "slow:app") as server:
        assert server.get("/").status == 200
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        assert "in flight:" not in server.log()


def test_a_refused_body_names_the_setting_in_the_log_and_to_the_client(folder):
    sentence = "The body is larger than 1000 bytes (limit_request_body)."
    with serving(folder, "slow:app", "--limit-request-body", "1000") as server:
        answer = server.get("/up?secret=1", method="POST", body=b"x" * 1001)
        assert (answer.status, answer.body.decode()) == (413, f"413 Content Too Large\n{sentence}\n")
        server.until_logged(re.escape(f"pump WARNING 413 to 127.0.0.1 for POST '/up': {sentence}"))
        with server.client() as client:
            client.send(b"POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"3e9\r\n" + b"x" * 1001 + b"\r\n")
            assert client.answer().status == 413
        for _ in range(20):
            assert server.get("/again", method="POST", body=b"x" * 1001).status == 413
        assert "secret" not in server.log()

        def told_of_the_others() -> bool:
            server.get("/last", method="POST", body=b"x" * 1001)
            return bool(re.search(r"\(\d+ more were refused since the last such line\.\)", server.log()))

        server.until(told_of_the_others)
        assert server.log().count("(limit_request_body)") < 20  # a line for each would fill the disk


def test_large_uploads_are_accepted_by_default(folder):
    """As gunicorn does; what spools take in all is bounded by spool_limit."""
    with serving(folder, "slow:app") as server, server.client() as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1073741824\r\n\r\n"
        )
        assert client.answer().status == 100
        with server.client() as other:
            other.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1073741825\r\n\r\n"
            )
            assert other.answer().status == 413


LIMITS = (
    *("--limit-request-line", "100", "--limit-request-fields", "10", "--limit-request-field-size", "200"),
    *("--limit-request-head", "1000", "--head-timeout", "1", "--body-timeout", "1"),
)

BEYOND_A_LIMIT = {
    "limit_request_line": (414, request("/" + "x" * 100), "warning"),
    "limit_request_fields": (431, request("/a", *(f"X-{number}: a" for number in range(10))), "warning"),
    "limit_request_field_size": (431, request("/a", "Cookie: " + "x" * 200), "warning"),
    "limit_request_head": (
        431,
        request("/a", *(f"X-{number}: {'a' * 180}" for number in range(6))),
        "warning",
    ),
    "head_timeout": (408, b"GET /a HTTP/1.1\r\nHos", "info"),
    "body_timeout": (408, request("/a", "Content-Length: 9", method="POST") + b"part", "info"),
}


@pytest.mark.parametrize("setting", BEYOND_A_LIMIT)
def test_a_request_beyond_a_limit_is_logged_with_the_setting(folder, setting):
    """Once a second at most for each status."""
    status, data, level = BEYOND_A_LIMIT[setting]
    with serving(folder, "slow:app", *LIMITS) as server, server.client() as client:
        client.send(data)
        answer = client.answer()
        assert answer.status == status
        sentence = answer.body.decode().splitlines()[1]
        assert sentence.endswith(f" ({setting}).")
        server.until_logged(
            rf"{level.upper()} {status} to 127\.0\.0\.1( for \w+ '/a')?: {re.escape(sentence)}"
        )
