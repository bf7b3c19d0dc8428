"""Sites and routes as a settings file has them: what answers whom, also while a reload changes it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import issued, write
from tests.e2e.harness import SOURCES, Client, command, curl, serving
from tests.ports import free_port, free_ports

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{NAME} {environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode()]
"""

SITE = """
bind = ["127.0.0.1:{port}"]
access_logfile = "access.log"
access_logformat = "%h %{{site}}x %{{c}}a %U"
[routes]
"/" = "shop:app"
"/static" = "./static"
"/robots.txt" = {{ file = "static/robots" }}
"/old" = {{ redirect = "/new$path$query", status = 301 }}
"/ping" = {{ respond = "pong" }}
"/json" = {{ respond = '{{"a": 1}}', type = "application/json", status = 201 }}
"/nothing" = {{ respond = 204 }}
"/gone" = {{ status = 410 }}

[sites."blog.example"]
hosts = ["blog.example", "*.blog.example"]
[sites."blog.example".routes]
"/" = {{ app = "blog:app", threads = 2 }}

[sites.internal]
bind = ["127.0.0.1:{own}"]
[sites.internal.routes]
"/" = {{ folder = "internal" }}

[sites."www.example"]
[sites."www.example".routes]
"/" = {{ redirect = "https://example$path$query", status = 308 }}
"""


def make(folder: Path) -> None:
    for name in ("shop", "blog"):
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\n{APP}", "utf-8")
    for name in ("static", "internal"):
        (folder / name).mkdir()
        (folder / name / "page").write_text(f"a page of {name}\n", "utf-8")
    (folder / "static/robots").write_text("robots\n", "utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    make(folder)
    port, own = free_ports(2)
    (folder / "halfsync.toml").write_text(SITE.format(port=port, own=own), "utf-8")
    with serving(folder, "-c", "halfsync.toml", bind=False) as server:
        server.own = own  # type: ignore[attr-defined]
        yield server


def ask(port: int, host: str, target: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, body, and where it leads."""
    with Client(("127.0.0.1", port)) as client:
        client.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = client.answer(method)
        return answer.status, answer.body.decode().strip(), answer["Location"]


@pytest.mark.parametrize(
    ("host", "target", "status", "body"),
    [
        ("any", "/x", 200, "shop  /x"),
        ("any", "/static/page", 200, "a page of static"),
        ("any", "/robots.txt", 200, "robots"),
        ("any", "/ping", 200, "pong"),
        ("any", "/json", 201, '{"a": 1}'),
        ("any", "/nothing", 204, ""),
        ("any", "/gone/for/good", 410, "410 Gone\nWhat was here is gone, and will not come back."),
        ("blog.example", "/static/page", 200, "blog  /static/page"),
        ("a.blog.example:81", "/", 200, "blog  /"),
        ("xblog.example", "/", 200, "shop  /"),
        ("internal", "/page", 200, "shop  /page"),
    ],
)
def test_who_answers(site, host, target, status, body):
    for _ in range(3):
        assert ask(site.port, host, target)[:2] == (status, body)


def test_the_access_log_has_the_names_of_sites(site):
    """Whether a worker responds, a lease, or the pump itself; and of a host that is somebody's elsewhere."""
    asked = [
        (site.port, "any", "/log-1", "-"),
        (site.port, "me.blog.example:81", "/log-2", "blog.example"),
        (site.port, "me.blog.example:81", "/log-2", "blog.example"),
        (site.port, "www.example", "/log-3", "www.example"),
        (site.port, "internal", "/static/page", "-"),
        (site.port, "internal", "/static/page", "-"),
        (site.own, "any", "/log-4", "internal"),
        (site.own, "blog.example", "/log-5", "internal"),
        (site.port, "a b", "/log-6", "-"),
    ]
    for port, host, target, _ in asked:
        ask(port, host, target)
    log = site.folder / "access.log"
    site.until(lambda: "/log-6" in log.read_text())
    lines = log.read_text().splitlines()
    for _, _, target, name in asked:
        assert f"127.0.0.1 {name} 127.0.0.1 {target}" in lines


def test_a_redirect_as_curl_sees_it(site):
    found = curl("-i", f"{site.url}/old/a%20b?c=d").stdout.decode()
    assert found.startswith("HTTP/1.1 301 Moved Permanently\r\n")
    assert "\r\nLocation: /new/a%20b?c=d\r\n" in found


def test_a_site_that_only_redirects(site):
    assert ask(site.port, "www.example", "/a?b")[::2] == (308, "https://example/a?b")


def test_a_site_with_an_address_of_its_own_is_served_there_and_alone(site):
    for host in ("any", "internal", "blog.example"):
        assert ask(site.own, host, "/page")[:2] == (200, "a page of internal")
        assert ask(site.own, host, "/ping")[0] == 404
    assert f"http://127.0.0.1:{site.own}" in site.addresses


@pytest.mark.parametrize(("top", "own"), [("0.0.0.0", "127.0.0.9"), ("127.0.0.9", "0.0.0.0")])
def test_a_sites_address_beside_one_that_has_all_of_the_port(tmp_path, top, own):
    port = free_port()
    (tmp_path / "site.toml").write_text(
        f'bind = ["{top}:{port}"]\n[routes]\n"/" = {{ respond = "top" }}\n'
        f'[sites.own]\nbind = ["{own}:{port}"]\n[sites.own.routes]\n"/" = {{ respond = "own" }}\n',
        "utf-8",
    )
    served = {top: "top", own: "own"}
    with serving(tmp_path, "-c", "site.toml", bind=False):
        for host in ("any.example", "own"):
            for address, body in (("127.0.0.9", served["127.0.0.9"]), ("127.0.0.1", served["0.0.0.0"])):
                with Client((address, port)) as client:
                    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                    assert client.answer().body.decode() == body
        again = subprocess.run(
            [*command(), "-c", "site.toml"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert again.returncode
        assert f"bind '{top}:{port}': the address is in use by another program." in again.stderr


def test_a_listing_shows_nothing_that_another_route_has(tmp_path):
    for name in ("public/open", "public/reports", "public/drafts"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "public/secret.txt").touch()
    (tmp_path / "site.toml").write_text(
        'bind = ["127.0.0.1:0"]\n[routes]\n"/" = { folder = "./public", listing = true }\n'
        '"/secret.txt" = { status = 404 }\n'
        '"/reports" = { folder = "./public/reports", deny = ["127.0.0.1"] }\n'
        '[sites.other]\n[sites.other.routes]\n"/open" = { status = 404 }\n'
        '"/" = { folder = "./public", listing = true }\n',
        "utf-8",
    )
    with serving(tmp_path, "-c", "site.toml", bind=False) as server:
        for host, shown in (("any", ["drafts/", "open/"]), ("other", ["drafts/", "reports/", "secret.txt"])):
            with server.client() as client:
                client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert re.findall('href="([^"]*)"', client.answer().body.decode()) == shown


def test_sites_change_at_a_reload(tmp_path):
    make(tmp_path)
    port, own, other = free_ports(3)
    file = tmp_path / "halfsync.toml"
    before = SITE.format(port=port, own=own)
    file.write_text(before, "utf-8")

    def reload(text: str) -> None:
        times = server.log().count("configuration is in effect")
        file.write_text(text, "utf-8")
        server.signal(signal.SIGHUP)
        server.until_logged("configuration is in effect", times + 1)

    with serving(tmp_path, "-c", "halfsync.toml", bind=False) as server:
        assert ask(port, "blog.example", "/")[1] == "blog  /"
        reload(before.replace('hosts = ["blog.example", ', 'hosts = ["other.example", '))
        assert ask(port, "blog.example", "/")[1] == "shop  /"
        assert ask(port, "other.example", "/")[1] == "blog  /"
        reload(before.replace(str(own), str(other)).replace('"pong"', '"changed"'))
        assert ask(port, "blog.example", "/")[1] == "blog  /"
        assert ask(port, "any", "/ping")[1] == "changed"
        assert ask(other, "any", "/page")[1] == "a page of internal"
        with pytest.raises(ConnectionRefusedError):
            ask(own, "any", "/page")


RULES = """
bind = ["127.0.0.1:0"]
lease = 60
[headers]
set = { "X-All" = "a", "Cache-Control" = "max-age=5" }
[routes]
"/" = { app = "shop:app", headers = { set = { "Content-Type" = "text/x" }, remove = "X-All" } }
"/static" = { folder = "static", headers = { add = { "X-More" = ["b", "c"] } } }
"/to" = { redirect = "/" }
"/local" = { folder = "static", allow = ["127.0.0.1"] }
"/remote" = { folder = "static", deny = ["127.0.0.0/8", "::1"] }
"""


def test_headers_and_access(tmp_path):
    make(tmp_path)
    (tmp_path / "halfsync.toml").write_text(RULES, "utf-8")
    with serving(tmp_path, "-c", "halfsync.toml", "--access-logfile", "log", bind=False) as server:
        for method in ("GET", "HEAD", "GET", "HEAD"):  # the second ones by a lease, if there are any
            answer = server.get("/", method=method)
            assert (answer["Content-Type"], answer["X-All"]) == ("text/x", "")
            answer = server.get("/static/page", method=method)
            assert (answer["X-All"], answer["X-More"], answer["Cache-Control"]) == ("a", "b, c", "max-age=5")
            assert int(answer["Content-Length"]) == len("a page of static\n")
            for target, status in (
                ("/to", 302), ("/static/none", 404), ("/local/page", 200), ("/remote/page", 403),
            ):  # fmt: skip
                answer = server.get(target, method=method)
                assert (answer.status, answer["X-All"]) == (status, "a")
                assert (answer.body == b"") == (method == "HEAD")
        server.until_logged("403 to 127.0.0.1 for GET '/remote/page': `deny` has it.")
        server.until(lambda: (tmp_path / "log").read_text().count('/remote/page HTTP/1.1" 403 ') == 4)


TABLE = """\
  all other hosts at http://127.0.0.1:{port}
    /            shop:app                        1 process of 8 threads
    /old         redirect /new$path$query (301)
    /gone        respond 410
    /json        respond 201
    /ping        respond 200
    /static      ./static                        files
    /nothing     respond 204
    /robots.txt  static/robots                   files
  blog.example, *.blog.example at http://127.0.0.1:{port}
    /  blog:app  1 process of 2 threads
  internal at http://127.0.0.1:{own}
    /  internal  files
  www.example at http://127.0.0.1:{port}
    /  redirect https://example$path$query (308)
"""


def printed(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "halfsync", "--print-routes"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    found = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return found.stdout.splitlines()


def shown_at_a_terminal(folder: Path) -> list[str]:
    shown, terminal = os.openpty()
    command = [sys.executable, "-m", "halfsync"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    server = subprocess.Popen(command, cwd=folder, env=environment, stderr=terminal)
    os.close(terminal)
    said = b""
    try:
        while b"Ctrl-C stops it." not in said:
            said += os.read(shown, 4096)
    finally:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # the terminal ends with its last process
            while os.read(shown, 4096):
                pass
        server.wait(60)
        os.close(shown)
    return said.decode().replace("\r\n", "\n").splitlines()


def test_what_is_served_where_can_be_printed(tmp_path):
    make(tmp_path)
    (tmp_path / "halfsync.toml").write_text(SITE.format(port=1, own=2), "utf-8")
    assert sorted(printed(tmp_path)) == sorted(TABLE.format(port=1, own=2).splitlines())


def test_a_person_at_a_terminal_sees_the_same(tmp_path):
    make(tmp_path)
    port, own = free_ports(2)
    (tmp_path / "halfsync.toml").write_text(SITE.format(port=port, own=own), "utf-8")
    lines = shown_at_a_terminal(tmp_path)
    for line in TABLE.format(port=port, own=own).splitlines():
        assert line in lines


def test_where_tls_is_spoken_and_where_all_is_redirected_is_seen(tmp_path):
    certfile, keyfile = write(tmp_path, issued("shop.test"))
    secure, clear = free_ports(2)
    (tmp_path / "halfsync.toml").write_text(
        f'bind = ["127.0.0.1:{secure}", "http://127.0.0.1:{clear}"]\ncertfile = "{certfile}"\n'
        f'keyfile = "{keyfile}"\nredirect_http = true\n[routes]\n"/" = {{ respond = "pong" }}\n',
        "utf-8",
    )
    addresses = [f"  https://127.0.0.1:{secure}", f"  http://127.0.0.1:{clear} (redirects)"]
    assert printed(tmp_path)[-2:] == addresses
    assert shown_at_a_terminal(tmp_path)[-3:-1] == addresses
