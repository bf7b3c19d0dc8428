"""Pages of the user's in place of the server's own words, and rules for headers on every response."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.certificates import issued, write
from tests.command_line import command
from tests.e2e.harness import SOURCES, Answer, Client, Server, curl, serving

SETTINGS = """
bind = ["127.0.0.1:0"]
error_pages = { 404 = "errors/404.html", 5xx = "errors/5xx.html", 4xx = "errors/4xx.txt" }
limit_request_body = 1000

[headers]
set = { "X-Site" = "shop" }

[routes]
"/app" = "app:app"
"/files" = "./files"
"/gone" = { status = 410 }
"/secret" = { folder = "./files", deny = ["0.0.0.0/0"] }
"/api" = { app = "app:app", error_pages = { 404 = "errors/404.json", 500 = "errors/500.json" } }
"/one" = { file = "files/page" }
"/caught" = { app = "app:app", intercept_errors = true }
"/loop" = { app = "loop:app", intercept_errors = true }
"/loop/own" = "loop:app"

[sites."blog.test"]
error_pages = { 404 = "errors/blog.html" }
headers = { set = { "X-Site" = "blog" } }
[sites."blog.test".routes]
"/files" = "./files"
"/app" = "app:app"
"""

APPLICATION = """
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        environ["wsgi.input"].read()
        raise RuntimeError("as it should be")
    start_response("404 Not Found" if path == "/404" else "200 OK", [("Content-Type", "text/plain")])
    return [b"of the application"]
"""

LOOP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"].endswith("/raise"):
        raise RuntimeError("as it should be")
    status = 404 if scope["path"].endswith("/404") else 200
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"of the application"})
"""

PAGES = {
    "404.html": "<p>Nothing to see.</p>",
    "4xx.txt": "No.",
    "5xx.html": "<p>Sorry!</p>",
    "404.json": '{"error": "nothing"}',
    "500.json": '{"error": "sorry"}',
    "blog.html": "<p>No such article.</p>",
}


def make(folder: Path) -> None:
    (folder / "errors").mkdir()
    (folder / "files").mkdir()
    (folder / "files/page").write_text("a page")
    (folder / "app.py").write_text(APPLICATION)
    (folder / "loop.py").write_text(LOOP)
    (folder / "halfsync.toml").write_text(SETTINGS)
    for name, text in PAGES.items():
        (folder / "errors" / name).write_text(text)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    make(folder)
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        server.tracebacks = -1
        yield server


def ask(
    server: Server, target: str, host: str = "shop.test", method: str = "GET", body: bytes = b""
) -> Answer:
    with server.client() as client:
        more = f"Content-Length: {len(body)}\r\n" if body else ""
        client.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode() + body)
        return client.answer(method)


HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("target", "method", "body", "status", "page", "kind"),
    [
        ("/nowhere", "GET", b"", 404, "404.html", HTML),
        ("/nowhere", "POST", b"body", 404, "404.html", HTML),
        ("/files/missing", "GET", b"", 404, "404.html", HTML),
        ("/files/.hidden", "GET", b"", 404, "404.html", HTML),
        ("/one/more", "GET", b"", 404, "404.html", HTML),
        ("/files/page", "POST", b"", 405, "4xx.txt", TEXT),
        ("/gone", "GET", b"", 410, "4xx.txt", TEXT),
        ("/secret/page", "GET", b"", 403, "4xx.txt", TEXT),
        ("/app", "POST", b"x" * 2000, 413, "4xx.txt", TEXT),
        ("/app/raise", "GET", b"", 500, "5xx.html", HTML),
        ("/app/raise", "POST", b"x" * 900, 500, "5xx.html", HTML),
        ("/api/raise", "GET", b"", 500, "500.json", JSON),
        ("/api", "POST", b"x" * 2000, 413, "4xx.txt", TEXT),
        ("/caught/404", "GET", b"", 404, "404.html", HTML),
        ("/caught/404", "POST", b"body", 404, "404.html", HTML),
        ("/caught/raise", "GET", b"", 500, "5xx.html", HTML),
        ("/loop/404", "GET", b"", 404, "404.html", HTML),
        ("/loop/404", "POST", b"body", 404, "404.html", HTML),
        ("/loop/raise", "GET", b"", 500, "5xx.html", HTML),
    ],
)
def test_the_page_of_an_error(server, target, method, body, status, page, kind):
    for _ in range(3):  # the second time from a lease, if it may have one
        answer = ask(server, target, method=method, body=body)
        assert (answer.status, answer.body.decode()) == (status, PAGES[page])
        assert answer["Content-Type"] == kind
        assert answer["Content-Length"] == str(len(PAGES[page]))
        assert answer["X-Site"] == "shop"
        assert answer["Allow"] == ("GET, HEAD" if status == 405 else "")


@pytest.mark.parametrize("target", ["/nowhere", "/files/missing", "/caught/404", "/loop/404"])
def test_the_head_of_a_page(server, target):
    answer = ask(server, target, method="HEAD")
    assert answer.status == 404
    assert answer["Content-Length"] == str(len(PAGES["404.html"]))
    assert answer["Content-Type"] == HTML


@pytest.mark.parametrize("target", ["/nowhere", "/files/missing"])
def test_a_site_has_its_own(server, target):
    answer = ask(server, target, "blog.test")
    assert (answer.body.decode(), answer["X-Site"]) == (PAGES["blog.html"], "blog")
    answer = ask(server, "/app/raise", "blog.test")
    assert (answer.body.decode(), answer["X-Site"]) == (PAGES["5xx.html"], "blog")


@pytest.mark.parametrize(
    ("target", "page"),
    [
        ("/nowhere", "404.html"),
        ("/files/no", "404.html"),
        ("/gone", "4xx.txt"),
        ("/caught/404", "404.html"),
        ("/loop/404", "404.html"),
    ],
)
def test_over_http2(server, target, page):
    got = curl("--http2-prior-knowledge", "-D", "-", f"{server.url}{target}").stdout.decode()
    assert got.startswith("HTTP/2 4")
    assert "\r\nx-site: shop\r\n" in got.lower()
    assert got.endswith(PAGES[page])


@pytest.mark.parametrize("target", ["/caught", "/loop/page"])
def test_what_is_no_error_stays_where_errors_are_caught(server, target):
    assert ask(server, target).body == b"of the application"


@pytest.mark.parametrize("target", ["/app/404", "/api/404", "/loop/own/404"])
def test_what_an_application_responds_is_its_own(server, target):
    answer = ask(server, target)
    assert (answer.status, answer.body) == (404, b"of the application")
    assert answer["X-Site"] == "shop"


def test_where_the_site_is_not_known_the_server_speaks_for_itself(server):
    with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        answer = client.answer()
    assert answer.status == 400
    assert answer.body.startswith(b"400 Bad Request\n")
    assert not answer["X-Site"]


def test_where_there_is_one_site_it_is_known_before_the_request_is(tmp_path):
    make(tmp_path)
    (tmp_path / "halfsync.toml").write_text(SETTINGS.partition("[sites.")[0])
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.body.decode()) == (400, PAGES["4xx.txt"])
        assert answer["X-Site"] == "shop"
        before = [ask(server, target).body.decode() for target in ("/nowhere", "/files/missing")]
        assert before == [PAGES["404.html"]] * 2
        (tmp_path / "errors/404.html").write_text("another page")
        server.signal(signal.SIGHUP)
        server.until(
            lambda: all(ask(server, one).body == b"another page" for one in ("/nowhere", "/files/missing"))
        )
        (tmp_path / "errors/404.html").unlink()
        server.signal(signal.SIGHUP)
        server.until_logged("app:app is reloaded", 2)  # as it was: the configuration is the same
        assert ask(server, "/nowhere").body == b"another page"
        (tmp_path / "halfsync.toml").write_text(SETTINGS.partition("[sites.")[0] + '"/new" = "./files"\n')
        server.signal(signal.SIGHUP)
        server.until_logged("error_pages: 404: the file 'errors/404.html' in .* can't be read: No such file")
        assert ask(server, "/files/missing").body == b"another page"


def test_no_hsts_and_no_page_of_a_site_in_clear(tmp_path):
    """Where all is redirected to https."""
    make(tmp_path)
    write(tmp_path, issued("localhost", "127.0.0.1"))
    (tmp_path / "halfsync.toml").write_text(
        'bind = ["https://127.0.0.1:0", "http://127.0.0.1:0"]\ncertfile = "server.pem"\n'
        'keyfile = "server.key"\nredirect_http = true\nhsts = "max-age=60"\n'
        'error_pages = { 400 = "errors/4xx.txt" }\n[routes]\n"/" = "app:app"\n'
    )
    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        for port, request in (
            (int(server.addresses[1].rpartition(":")[2]), b"GET / HTTP/1.0\r\n\r\n"),
            (server.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ):
            with Client(("127.0.0.1", port)) as client:
                client.send(request)
                answer = client.answer()
                assert answer.status == 400
                assert not answer["Strict-Transport-Security"]
                assert b"https" in answer.body


# --- mistakes ----------------------------------------------------------------------------------------------


MISTAKES = """\
bind = "127.0.0.1:0"
[error_pages]
404 = "missing.html"
403 = "files"
500 = "large"
200 = "files/page"
6xx = "files/page"
410 = 7
[routes]
"/" = "app:app"
"""


def test_mistakes_are_told_all_at_once(tmp_path):
    make(tmp_path)
    (tmp_path / "large").write_bytes(b"x" * 65537)
    (tmp_path / "halfsync.toml").write_text(MISTAKES)
    said = refusal(tmp_path)
    for words in (
        "halfsync.toml:3: error_pages: 404: the file 'missing.html' in ",
        "halfsync.toml:4: error_pages: 403: 'files' is no regular file.",
        "halfsync.toml:5: error_pages: 500: 'large' has 65537 bytes, and a page may have 65536.",
        "halfsync.toml:6: error_pages: '200' must be an error such as 404, or 4xx or 5xx",
        "halfsync.toml:7: error_pages: '6xx' must be an error such as 404",
        "halfsync.toml:8: error_pages: 410 must be the path of a file, not 7.",
    ):
        assert words in said


def refusal(folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    ended = command(folder, "-c", "halfsync.toml", "--check-config", environment=environment)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_print_config_prints_them(tmp_path):
    make(tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{SOURCES}:."}
    printed = command(tmp_path, "-c", "halfsync.toml", "--print-config", environment=environment).stdout
    assert (
        'error_pages = {404 = "errors/404.html", 5xx = "errors/5xx.html", 4xx = "errors/4xx.txt"}' in printed
    )
    assert 'error_pages = {404 = "errors/blog.html"}' in printed
    (tmp_path / "printed.toml").write_text(printed)
    again = command(tmp_path, "-c", "printed.toml", "--check-config", environment=environment)
    assert again.returncode == 0, again.stderr
