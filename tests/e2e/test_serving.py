"""What a user starts: applications, folders, routes, a TOML file, sockets of every kind."""

from __future__ import annotations

import http.cookiejar
import json
import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.harness import APPS, LONG, Client, Server, curl, digest, pattern, until
from tests.e2e.harness import serving_by_command as serving
from tests.ports import free_port

FORM = ("Content-Type: application/x-www-form-urlencoded",)


def has_ipv6() -> bool:
    """Many a container has none."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


SECOND = "[::1]" if has_ipv6() else "127.0.0.2"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Everything at once: five routes, three sockets, from one TOML file."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "public").mkdir()
    (folder / "public/index.html").write_text("<h1>public</h1>\n")
    (folder / "public/deep").mkdir()
    (folder / "public/deep/inner.txt").write_text("inner\n")
    (folder / "halfsync.toml").write_text(
        f"""
        bind = ["127.0.0.1:0", "{SECOND}:0", "unix:{folder}/socket"]
        threads = 4
        [routes]
        "/" = "story:app"
        "/public" = "./public"
        "/public/deep" = "story:app"
        "/made" = 'story:create_app("by the file")'
        "/flask" = {{ app = "flasked:create_app()", threads = 2 }}
        "/django" = "djangoed:app"
        """
    )
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        yield server


def test_an_application_and_a_folder_are_mounted_beside_each_other(site):
    assert site.get("/hello").body == b"hello\n"
    assert site.get("/public/").body == b"<h1>public</h1>\n"


def test_the_longest_mount_wins_and_only_at_a_slash(site):
    found = json.loads(site.get("/public/deep/environ?a=b").body)
    assert (found["SCRIPT_NAME"], found["PATH_INFO"], found["QUERY_STRING"]) == (
        "/public/deep",
        "/environ",
        "a=b",
    )
    assert site.get("/publicity").body == b"no such story\n"
    assert site.get("/public/nothing").status == 404


def test_a_factory_is_called_with_what_the_target_says(site):
    assert site.get("/made").body == b"from a factory: by the file\n"


def test_every_address_serves_and_is_said(site):
    first, second, unix = site.addresses
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", first)
    assert re.fullmatch(rf"http://{re.escape(SECOND)}:\d+", second)
    assert curl("-g", f"{second}/hello").stdout == b"hello\n"
    path = unix.removeprefix("unix:")
    with Client(path) as client:
        found = json.loads(client.ask("/environ").body)
    assert found["REMOTE_ADDR"] == ""
    assert found["HTTP_HOST"] == "story.test"
    done = curl("--unix-socket", path, "http://any.host/public/deep/environ")
    assert json.loads(done.stdout)["HTTP_HOST"] == "any.host"


def test_a_large_response_goes_through_a_unix_socket(site):
    path = site.addresses[2].removeprefix("unix:")
    done = curl("--unix-socket", path, "http://any.host/pieces?size=5000000")
    assert digest(done.stdout) == digest(pattern(5_000_000))


def test_the_environ_is_true(site):
    found = json.loads(site.get("/environ?q=%20", "X-Two: a", "X-Two: b", "Cookie: a=b").body)
    assert found["HTTP_X_TWO"] in ("a,b", "a, b")
    assert found["SERVER_NAME"] == "127.0.0.1"
    assert found["SERVER_PORT"] == str(site.port)
    assert found["REMOTE_ADDR"] == "127.0.0.1"
    assert found["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert found["wsgi.url_scheme"] == "http"
    assert found["wsgi.multithread"] is True
    assert found["wsgi.multiprocess"] is False


def test_a_path_is_decoded_once(site):
    """To the native string of PEP 3333: bytes as latin-1."""
    assert site.get("/path/%C3%A9%2F%252e+").body == b"'/path/\\xc3\\xa9/%2e+'"


# --- frameworks ------------------------------------------------------------------------------------


class Browser:
    """urllib, with cookies and redirects."""

    def __init__(self, base: str) -> None:
        self._base = base
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def open(self, path: str, **form: str) -> str:
        data = urllib.parse.urlencode(form).encode() if form else None
        with self._opener.open(self._base + path, data, timeout=LONG) as answer:
            page: bytes = answer.read()
        return page.decode()


def upload(server: Server, path: str, tmp_path: Path, *more: str) -> tuple[str, str]:
    """What curl's upload of 3 MB is answered with, and what the response should hold."""
    data = pattern(3_000_000)
    (tmp_path / "some.bin").write_bytes(data)
    answer = curl(*more, "-F", f"file=@{tmp_path}/some.bin", f"{server.url}{path}")
    return answer.stdout.decode(), f"some.bin {len(data)} {digest(data)}"


def test_flask_keeps_a_session_and_reads_a_form(tmp_path):
    """(A session's redirect is to the root, so this one is mounted there.)"""
    with serving(tmp_path, "flasked:app", "-w", "2") as server:
        browser = Browser(server.url)
        assert browser.open("/sign") == "signed by nobody"
        assert browser.open("/sign", name="Ánn & Bob") == "signed by Ánn & Bob"
        assert browser.open("/sign") == "signed by Ánn & Bob"


def test_flask_takes_an_upload(site, tmp_path):
    answer, expected = upload(site, "/flask/upload", tmp_path)
    assert answer == expected


def test_flask_streams_and_sends_a_file(site):
    numbers = "".join(f"{number}\n" for number in range(2000)).encode()
    assert site.get("/flask/count?to=2000").body == numbers
    whole = site.get("/flask/file")
    assert whole.body == (APPS / "flasked.py").read_bytes()
    part = site.get("/flask/file", "Range: bytes=5-9")
    assert (part.status, part.body) == (206, whole.body[5:10])
    assert site.get("/flask/file", f"If-None-Match: {whole['ETag']}").status == 304


def test_flask_knows_where_it_is_mounted(site):
    assert site.get("/flask/where/a%20b/c").body == b"/flask /where/a b/c a b/c"


def test_flask_reads_json(site):
    answer = site.get("/flask/json", "Content-Type: application/json", method="POST", body=b'{"a": [1]}')
    assert json.loads(answer.body) == {"got": {"a": [1]}}


def test_django_keeps_a_session_and_checks_its_forms(site):
    browser = Browser(site.url + "/django")
    page = browser.open("/sign")
    assert page.startswith("signed by nobody")
    token = page.partition("token ")[2]
    assert browser.open("/sign", name="Zoë", csrfmiddlewaretoken=token).startswith("signed by Zoë;")
    refused = site.get("/django/sign", *FORM, method="POST", body=b"name=forged")
    assert refused.status == 403


def test_django_takes_an_upload(site, tmp_path):
    """With the token of a form, as curl would send it."""
    page = site.get("/django/sign")
    token = page.body.decode().partition("token ")[2]
    cookie = page["Set-Cookie"].partition(";")[0]
    answer, expected = upload(
        site, "/django/upload", tmp_path, "-H", f"X-CSRFToken: {token}", "-H", f"Cookie: {cookie}"
    )
    assert answer == expected


def test_django_streams_and_sends_a_file(site):
    numbers = "".join(f"{number}\n" for number in range(500)).encode()
    assert site.get("/django/count?to=500").body == numbers
    assert site.get("/django/file").body == (APPS / "djangoed.py").read_bytes()


# --- starting --------------------------------------------------------------------------------------


def test_a_folder_alone_is_a_site(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public/a.txt").write_text("a file\n")
    with serving(tmp_path, "./public") as server:
        assert server.get("/a.txt").body == b"a file\n"
        assert server.get("/").status == 404


def test_a_positional_mount_without_a_root_leaves_the_root_empty(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.txt").write_text("a file\n")
    with serving(tmp_path, "/static=./s") as server:
        assert server.get("/static/a.txt").body == b"a file\n"
        assert server.get("/").status == 404


def test_port_and_web_concurrency_are_used(tmp_path):
    port = free_port()
    environment = {"PORT": str(port), "WEB_CONCURRENCY": "3"}
    with serving(tmp_path, "story:app", environment=environment, bind=False) as server:
        assert server.addresses == [f"http://0.0.0.0:{port}"]
        assert server.get("/hello").status == 200
        # accepting begins with the first of them
        until(lambda: len(server.workers("story:app")) == 3)
        assert json.loads(server.get("/environ").body)["wsgi.multiprocess"] is True


def test_the_environment_is_set_before_the_application_is_imported(tmp_path):
    (tmp_path / "early.py").write_text(
        "import os\nword = os.environ['WORD'].encode()\n"
        "def app(environ, start):\n    start('200 OK', [])\n    return [word]\n"
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "early.py").rename(tmp_path / "elsewhere/early.py")
    with serving(tmp_path, "--chdir", "elsewhere", "-e", "WORD=said", "early:app") as server:
        assert server.get("/").body == b"said"


def test_the_pid_file_and_the_unix_socket_are_there_while_it_serves(tmp_path):
    where = f"unix:{tmp_path}/socket"
    with serving(tmp_path, "-p", "pid", "-b", where, "story:app", bind=False) as server:
        assert int((tmp_path / "pid").read_text()) == server.process.pid
        with Client(str(tmp_path / "socket")) as client:
            assert client.ask("/hello").body == b"hello\n"
    assert not (tmp_path / "pid").exists()
    assert not (tmp_path / "socket").exists()


def test_a_socket_left_over_by_a_killed_server_is_taken_over(tmp_path):
    where = f"unix:{tmp_path}/socket"
    with serving(tmp_path, "-b", where, "story:app", bind=False) as server:
        server.process.kill()
        server.ends()
    assert (tmp_path / "socket").exists()
    with serving(tmp_path, "-b", where, "story:app", bind=False), Client(str(tmp_path / "socket")) as client:
        assert client.ask("/hello").body == b"hello\n"
