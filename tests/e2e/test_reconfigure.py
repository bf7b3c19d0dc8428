"""HUP reads the settings file again: what has changed takes effect, and no client notices the switch."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import issued, write
from tests.e2e.harness import Answer, Client, Crowd, Server, links, request, serving
from tests.ports import free_port

APP = """
import os, threading, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.endswith("/waits"):
        open("here", "w").close()
        open(f"here-{threading.get_native_id()}", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    body = f"{NAME} {os.getpid()} {threading.get_native_id()} {path}".encode()
    read = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

FIRST = """
bind = ["127.0.0.1:0"]
[routes]
"/" = "first:app"
"/files" = "./files"
"""


class Site:
    """A server with a settings file."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server = server
        self.file = file

    def reload(self, text: str) -> str:
        """Change the file and say HUP. Gives what the log says, up to the outcome of it."""
        before = len(self.server.log())
        self.file.write_text(text, "utf-8")
        self.server.signal(signal.SIGHUP)
        return self.server.until(lambda: self._outcome(self.server.log()[before:], text))

    @staticmethod
    def _outcome(log: str, text: str) -> str:
        """It is complete when each application of the new file has its line, which are the last ones."""
        if "Reload failed" in log:
            return log
        applications = set(re.findall(r'= "(\w+:app)"', text))
        is_over = all(f"{one} is reloaded" in log for one in applications)
        return log if is_over and (applications or "configuration is in effect" in log) else ""


@contextmanager
def site(tmp_path: Path, text: str = FIRST, *arguments: str) -> Iterator[Site]:
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n{APP}", "utf-8")
    for name in ("files", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page").write_text(f"a page of {name}\n", "utf-8")
    file = tmp_path / "site.toml"
    file.write_text(text, "utf-8")
    with serving(tmp_path, "-c", "site.toml", *arguments, bind=False) as server:
        yield Site(server, file)


def word(answer: Answer) -> str:
    """Of a whole response: its first word, or its status."""
    assert answer.whole
    return answer.body.split()[0].decode() if answer.status == 200 else str(answer.status)


CHANGES = {
    "a route is added": (FIRST + '"/more" = "./more"\n', "/more/page", "a"),
    "a route is removed": (FIRST.replace('"/files" = "./files"\n', ""), "/files/page", "first"),
    "an application is added": (FIRST + '"/two" = "second:app"\n', "/two", "second"),
    "an application takes another's place": (FIRST.replace("first:app", "second:app"), "/", "second"),
    "the only application is removed": (FIRST.replace('"/" = "first:app"\n', ""), "/", "404"),
    "a folder's rules change": (
        FIRST.replace('"./files"', '{ folder = "./files", cache_control = "max-age=5" }'),
        "/files/page",
        "a",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_routes_change_under_load_and_no_request_is_lost(tmp_path: Path, change: str):
    text, target, then = CHANGES[change]

    def judge(answer: Answer) -> str:
        seen = word(answer)
        assert seen in ("first", "second", "a", "404")
        return seen

    with site(tmp_path) as here:
        targets = ["/", "/x", "/files/page", "/files/page", target, target]
        with Crowd(here.server, targets, judge) as crowd:
            for _ in range(2):  # there and back again
                crowd.until_seen(50)
                here.reload(text)
                assert word(here.server.get(target)) == then
                crowd.until_seen(50)
                here.reload(FIRST)
                assert word(here.server.get("/")) == "first"
                assert word(here.server.get("/files/page")) == "a"
        assert crowd.broken == []
        assert crowd.wrong == []


def test_a_kept_connection_lives_on_and_follows_the_new_routes(tmp_path: Path):
    with site(tmp_path) as here, here.server.client() as client:
        assert word(client.ask("/more/page")) == "first"
        assert word(client.ask("/files/page")) == "a"
        here.reload(FIRST + '"/more" = "./more"\n')
        assert client.ask("/more/page").body == b"a page of more\n"
        assert word(client.ask("/files/page")) == "a"


def test_a_request_that_a_worker_has_is_finished_by_it(tmp_path: Path):
    """Though its application is removed; what comes after it on the same connection finds nothing there."""
    with site(tmp_path) as here, here.server.client() as client:
        client.send(request("/waits"))
        here.server.until((tmp_path / "here").exists)
        here.reload(FIRST.replace('"/" = "first:app"\n', ""))
        assert here.server.get("/").status == 404
        (tmp_path / "go").touch()
        assert word(client.answer()) == "first"
        assert client.ask("/").status == 404
        here.server.until(lambda: not here.server.workers("first:app"))


@pytest.mark.parametrize(("text", "then"), [("second:app", "second"), (None, "404")])
def test_a_request_that_is_tried_once_more_goes_where_the_new_routes_say(
    tmp_path: Path, text: str | None, then: str
):
    """Its worker is killed after the switch."""
    with site(tmp_path) as here, here.server.client() as client:
        (old,) = here.server.workers("first:app")
        client.send(request("/waits"))
        here.server.until((tmp_path / "here").exists)
        route = '"/" = "first:app"\n'
        here.reload(FIRST.replace(route, "" if text is None else route.replace("first:app", text)))
        os.kill(old, signal.SIGKILL)
        here.server.until_gone([old])
        (tmp_path / "go").touch()
        assert word(client.answer()) == then


def test_requests_that_wait_go_where_the_new_routes_say(tmp_path: Path):
    """The only thread is busy. What waits behind it is served by new workers, or is not there any more."""
    text = "threads = 1\n" + FIRST + '"/old" = "first:app"\n'
    with site(tmp_path, text) as here, here.server.client() as busy:
        busy.send(request("/waits"))
        here.server.until((tmp_path / "here").exists)
        with here.server.client() as one, here.server.client() as two, here.server.client() as three:
            for client, target in ((one, "/one"), (two, "/old"), (three, "/two/x")):
                client.send(request(target))
            changed = "threads = 1\n" + FIRST + '"/two" = "second:app"\n'
            here.reload(changed.replace('"/"', '"/one"'))
            assert word(one.answer()) == "first"
            assert word(two.answer()) == "404"
            assert word(three.answer()) == "second"
        (tmp_path / "go").touch()
        assert word(busy.answer()) == "first"


@pytest.mark.parametrize(("text", "then"), [("first:app", "first"), ("second:app", "second"), (None, "404")])
def test_a_body_that_is_still_coming_goes_where_the_new_routes_say(
    tmp_path: Path, text: str | None, then: str
):
    with site(tmp_path) as here, here.server.client() as client:
        client.send(request("/x", "Content-Length: 10", method="POST") + b"12345")
        route = '"/" = "first:app"\n'
        changed = FIRST.replace(route, "" if text is None else route.replace("first:app", text))
        here.reload(changed + '"/more" = "./more"\n')
        client.send(b"67890")
        assert word(client.answer("POST")) == then


def test_listeners_come_and_go(tmp_path: Path):
    new, other = free_port(), tmp_path / "s"
    both = FIRST.replace('"127.0.0.1:0"', f'"127.0.0.1:0", "127.0.0.1:{new}", "unix:{other}"')
    with site(tmp_path) as here, Crowd(here.server, ["/", "/files/page"], word) as crowd:
        said = here.reload(both)
        assert f"http://127.0.0.1:{new}" in said
        with Client(("127.0.0.1", new)) as kept, Client(str(other)) as local:
            assert word(kept.ask("/")) == "first"
            assert word(kept.ask("/files/page")) == "a"
            assert word(local.ask("/files/page")) == "a"
            here.reload(FIRST)
            for client in (kept, local):  # for what is there has one more response
                last = client.ask("/files/page")
                assert (last.status, last["Connection"]) == (200, "close")
                assert client.is_closed()
        with pytest.raises(ConnectionRefusedError):
            Client(("127.0.0.1", new))
        assert not other.exists()
        here.reload(both)
        with Client(("127.0.0.1", new)) as again:
            assert word(again.ask("/files/page")) == word(again.ask("/files/page")) == "a"
        crowd.stop()
        assert crowd.broken == crowd.wrong == []
    assert not other.exists()


def test_an_exchange_on_a_removed_listener_is_finished(tmp_path: Path):
    new = free_port()
    both = FIRST.replace('"127.0.0.1:0"', f'"127.0.0.1:0", "127.0.0.1:{new}"')
    with site(tmp_path, both) as here, Client(("127.0.0.1", new)) as client:
        client.send(request("/waits"))
        here.server.until((tmp_path / "here").exists)
        here.reload(FIRST)
        (tmp_path / "go").touch()
        last = client.answer()
        assert (word(last), last["Connection"]) == ("first", "close")
        assert client.is_closed()


@pytest.mark.parametrize(("count", "threads"), [(3, 1), (1, 4), (2, 2)])
def test_workers_and_threads(tmp_path: Path, count: int, threads: int):
    """So many requests run at the same time, and no more."""
    with site(tmp_path, "threads = 1\n" + FIRST) as here:
        here.reload(f"workers = {count}\nthreads = {threads}\n" + FIRST)
        clients = [here.server.client() for _ in range(count * threads)]
        for client in clients:
            client.send(request("/waits"))
        here.server.until(lambda: len(list(tmp_path.glob("here-*"))) == count * threads)
        (tmp_path / "go").touch()
        ran = {tuple(client.answer().body.split()[1:3]) for client in clients}
        assert len(ran) == count * threads
        assert len({process for process, _ in ran}) == count
        for client in clients:
            client.close()


def test_a_size_that_ttin_has_changed_stays_unless_the_file_says_another(tmp_path: Path):
    with site(tmp_path) as here:
        here.server.signal(signal.SIGTTIN)
        here.server.until(lambda: len(here.server.workers("first:app")) == 2)
        here.reload("keep_alive = 7\n" + FIRST)
        here.server.until(lambda: len(here.server.workers("first:app")) == 2)
        here.reload("workers = 3\n" + FIRST)
        here.server.until(lambda: len(here.server.workers("first:app")) == 3)


def test_limits_and_timeouts(tmp_path: Path):
    with site(tmp_path) as here:
        assert here.server.get("/", method="POST", body=b"x" * 100).status == 200
        assert here.server.get("/", "X: " + "y" * 600).status == 200
        with here.server.client() as kept, here.server.client() as fresh:
            assert word(kept.ask("/")) == "first"
            limits = "limit_request_body = 50\nlimit_request_field_size = 500\nkeep_alive = 0.5\n"
            here.reload(limits + "head_timeout = 0.5\n" + FIRST)
            assert here.server.get("/", method="POST", body=b"x" * 100).status == 413
            assert kept.ask("/", "X: " + "y" * 600).status == 431
            assert fresh.ask("/").status == 200
            assert fresh.is_closed()  # by keep_alive
        with here.server.client() as slow:
            slow.send(b"GET / HT")
            assert slow.answer().status == 408
        here.reload("keep_alive = 0\n" + FIRST)
        assert here.server.get("/")["Connection"] == "close"
        here.reload(FIRST)
        with here.server.client() as kept:
            assert word(kept.ask("/")) == word(kept.ask("/")) == "first"


def test_the_handler_timeout(tmp_path: Path):
    with site(tmp_path) as here:
        here.reload("handler_timeout = 0.5\n" + FIRST)
        assert here.server.get("/waits").status == 504
        (tmp_path / "go").touch()
        here.server.tracebacks = -1


def test_logs_that_are_reopened_during_a_reload_stay_apart(tmp_path: Path):
    """The next generation's worker, which waits for an application's import, goes on with its own file."""
    old, other, hold = tmp_path / "old", tmp_path / "other", tmp_path / "hold"
    with site(tmp_path, f'access_logfile = "{old}"\naccess_logformat = "old %U"\n' + FIRST) as here:
        server = here.server
        code = (tmp_path / "first.py").read_text("utf-8")
        waiting = "import os, time\nwhile os.path.exists('hold'):\n    time.sleep(0.01)\n"
        (tmp_path / "first.py").write_text(waiting + code, "utf-8")
        hold.touch()
        here.file.write_text(f'access_logfile = "{other}"\naccess_logformat = "other %U"\n' + FIRST, "utf-8")
        server.signal(signal.SIGHUP)
        server.until(lambda: len(server.workers("built-in")) == 2)
        for file in (old, other):
            file.rename(f"{file}.1")
        server.signal(signal.SIGUSR1)
        server.until_logged("the access log is reopened")
        moved = {f"{old}.1", f"{other}.1"}
        server.until(lambda: not any(moved.intersection(links(pid)) for pid in server.processes()))
        server.get("/a")
        server.until(lambda: old.read_text() == "old /a\n")
        hold.unlink()
        server.until_logged("first:app is reloaded")
        server.get("/b")
        server.until(lambda: other.read_text() == "other /b\n")
        assert old.read_text() == "old /a\n"
        assert not (tmp_path / "old.1").read_text() + (tmp_path / "other.1").read_text()


def test_the_access_log(tmp_path: Path):
    """On, another format, another file, off."""
    log, other = tmp_path / "log", tmp_path / "other"
    with site(tmp_path) as here:
        here.reload(f'access_logfile = "{log}"\naccess_logformat = "one %U %s"\n' + FIRST)
        here.server.get("/a")
        here.server.until(lambda: log.read_text() == "one /a 200\n")
        here.reload(f'access_logfile = "{log}"\naccess_logformat = "two %U %{{Cookie}}i"\n' + FIRST)
        here.server.get("/b", "Cookie: c=d")
        here.server.until(lambda: log.read_text() == "one /a 200\ntwo /b c=d\n")
        here.reload(f'access_logfile = "{other}"\naccess_logformat = "three %U"\n' + FIRST)
        here.server.get("/c")
        here.server.until(lambda: other.read_text() == "three /c\n")
        other.rename(tmp_path / "moved")
        here.server.signal(signal.SIGUSR1)
        here.server.until_logged("access log is reopened")
        # the worker that writes may get its order later than the next record
        here.server.until(
            lambda: not any(str(tmp_path / "moved") in links(pid) for pid in here.server.processes())
        )
        here.server.get("/d")
        here.server.until(lambda: other.exists() and other.read_text() == "three /d\n")
        here.reload(FIRST)
        here.server.get("/e")
    assert other.read_text() == "three /d\n"


BROKEN = {
    "no TOML": ("workers =\n", "is not TOML"),
    "no such setting": ("wrokers = 2\n" + FIRST, "there is no setting wrokers; did you mean workers?"),
    "a wrong value": ('threads = "many"\n' + FIRST, "threads"),
    "no such folder": (FIRST + '"/none" = "./none"\n', "there is no folder or file './none'"),
    "nothing to serve": ("workers = 2\n", "There is nothing to serve"),
    "an address that is not here": (FIRST.replace("127.0.0.1:0", "192.0.2.1:80"), "no such address"),
    "a log in no folder": ('access_logfile = "none/log"\n' + FIRST, "access_logfile: the file none/log"),
    "a log that is a folder": ('access_logfile = "files"\n' + FIRST, "access_logfile: the file files"),
    "a wrong format": ('access_logformat = "%Y"\n' + FIRST, "access_logformat"),
    "no address": (
        FIRST + '[sites.a]\nbind = "x"\nroutes = { "/" = "./files" }\n',
        """site.toml:7: sites."a": bind 'x' must be host:port""",
    ),
    "nowhere to redirect to": (
        "redirect_http = true\n" + FIRST,
        "site.toml:1: redirect_http: there is no",
    ),
    "https without a certificate": (
        FIRST.replace('"127.0.0.1:0"', '"127.0.0.1:0", "https://127.0.0.1:1"')
        + '[sites.a]\nbind = "https://127.0.0.1:2"\ncertfile = "a.pem"\nroutes = { "/" = "./files" }\n',
        "site.toml:2: bind 'https://127.0.0.1:1': no site that is served there has a certificate: name",
    ),
    "an application that is not there": (FIRST + '"/none" = "none:app"\n', "none"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("shared")) as here:
        here.server.tracebacks = -1  # one of an application is shown
        yield here


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_reported_in_a_sentence_and_changes_nothing(shared: Site, case: str):
    text, sentence = BROKEN[case]
    here = shared
    here.reload(FIRST)
    with here.server.client() as kept:
        here.server.until(lambda: len(here.server.workers("first:app")) == 1)
        assert word(kept.ask("/")) == "first"
        workers = here.server.workers("first:app")
        said = here.reload(text)
        (line,) = [one for one in said.splitlines() if "Reload failed" in one]
        assert sentence in line
        assert said.count("There is nothing to serve") == sentence.count("There is nothing to serve")
        assert "the old configuration stays in effect" in line
        assert word(kept.ask("/")) == "first"
        assert word(kept.ask("/files/page")) == "a"
        here.server.until(lambda: here.server.workers("first:app") == workers)
        said = here.reload(FIRST + '"/more" = "./more"\n')
        assert "The new configuration is in effect" in said
        assert kept.ask("/more/page").body == b"a page of more\n"
        here.server.until_gone(workers)


def test_an_address_in_use(tmp_path: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        free = free_port()
        with site(tmp_path) as here:
            said = here.reload(
                FIRST.replace('"127.0.0.1:0"', f'"127.0.0.1:0", "127.0.0.1:{free}", "{taken}"')
            )
            assert f"site.toml:2: bind '{taken}': the address is in use by another program" in said
            with pytest.raises(ConnectionRefusedError):  # what was bound before it is let go of
                Client(("127.0.0.1", free))
            assert word(here.server.get("/")) == "first"


def test_an_address_moves_between_http_and_https_at_a_restart(tmp_path: Path):
    port = free_port()
    write(tmp_path, issued("first.example"), "first")
    with site(tmp_path, FIRST.replace(":0", f":{port}")) as here:
        with_tls = FIRST.replace("127.0.0.1:0", f"https://127.0.0.1:{port}")
        said = here.reload('certfile = "first.pem"\nkeyfile = "first.key"\n' + with_tls)
        assert (
            f"this server listens there already, at http://127.0.0.1:{port}; to move an address betwe" in said
        )
        assert word(here.server.get("/")) == "first"


def test_a_port_moves_to_other_addresses_and_no_request_is_lost(tmp_path: Path):
    port = free_port()
    one, nearer = f'"127.0.0.1:{port}"', f'"127.0.0.9:{port}"'
    only_there = f"[sites.there]\nbind = [{nearer}]\n[sites.there.routes]\n" + '"/" = "second:app"\n'

    def word_at(address: str) -> str:
        with Client((address, port)) as client:
            return word(client.ask("/"))

    with site(tmp_path, FIRST.replace('"127.0.0.1:0"', one)) as here:
        everywhere = FIRST.replace("127.0.0.1:0", f"0.0.0.0:{port}")
        with Crowd(here.server, ["/", "/files/page"], word) as crowd:
            here.reload(everywhere)
            assert (word_at("127.0.0.1"), word_at("127.0.0.9")) == ("first", "first")
            here.reload(everywhere + only_there)
            assert (word_at("127.0.0.1"), word_at("127.0.0.9")) == ("first", "second")
            here.reload(everywhere)
            assert (word_at("127.0.0.1"), word_at("127.0.0.9")) == ("first", "first")
            here.reload(FIRST.replace('"127.0.0.1:0"', one))
            crowd.until_seen(20)
        assert set(crowd.seen) == {"first", "a"}
        with pytest.raises(ConnectionRefusedError):
            Client(("127.0.0.9", port))


def test_an_address_that_is_taken_while_code_is_imported_fails_the_reload(tmp_path: Path):
    """A socket that is bound and does not listen yet keeps no other from listening there."""
    port = free_port()
    (tmp_path / "third.py").write_text(
        "import os, time\nopen('importing', 'w').close()\n"
        "while not os.path.exists('import'):\n    time.sleep(0.01)\n"
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'third']\n"
    )
    with site(tmp_path, FIRST.replace(":0", f":{port}")) as here, socket.socket() as other:
        text = FIRST.replace("127.0.0.1:0", f"127.0.0.1:{port}").replace("first:app", "third:app")
        here.file.write_text(text.replace('"]', f'", "127.0.0.8:{port}"]', 1))
        here.server.signal(signal.SIGHUP)
        here.server.until((tmp_path / "importing").exists)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.8", port))
        other.listen()
        (tmp_path / "import").touch()
        here.server.until_logged(
            rf"Reload failed, .* site.toml:2: bind '127.0.0.8:{port}': the address is in use by another"
        )
        assert word(here.server.get("/")) == "first"
        other.close()
        assert "The new configuration is in effect" in here.reload(here.file.read_text())
        with Client(("127.0.0.8", port)) as client:
            assert word(client.ask("/")) == "third"


def test_an_address_that_a_failed_reload_would_have_added_is_served_as_before(tmp_path: Path):
    port = free_port()
    everywhere = FIRST.replace("127.0.0.1:0", f"0.0.0.0:{port}")
    (tmp_path / "third.py").write_text(
        "import os, time\nopen('importing', 'w').close()\n"
        "while not os.path.exists('import'):\n    time.sleep(0.01)\nraise SystemExit(1)\n"
    )
    there = f'[sites.there]\nbind = ["127.0.0.9:{port}"]\n[sites.there.routes]\n"/" = "third:app"\n'
    with site(tmp_path, everywhere) as here:
        here.server.tracebacks = 1
        here.file.write_text(everywhere + there)
        here.server.signal(signal.SIGHUP)
        here.server.until((tmp_path / "importing").exists)
        with Client(("127.0.0.9", port)) as client:
            assert word(client.ask("/")) == "first"
            (tmp_path / "import").touch()
            here.server.until_logged("Reload failed")
            assert word(client.ask("/")) == "first"


@pytest.mark.parametrize("kind", ["pipe", "nothing"])
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: str):
    with site(tmp_path) as here:
        here.file.unlink()
        if kind == "pipe":
            os.mkfifo(here.file)
        here.server.signal(signal.SIGHUP)
        here.server.until_logged("Reload failed, .*The settings file site.toml .*can't be read")
        assert word(here.server.get("/")) == "first"


def test_what_needs_a_restart_is_reported(tmp_path: Path):
    with site(tmp_path) as here:
        said = here.reload('name = "other"\nspool_dir = "/tmp"\npreload = true\nkeep_alive = 9\n' + FIRST)
        for name in ("name", "spool_dir", "preload"):
            assert f"{name} has changed, which needs a restart: " in said
        assert "The new configuration is in effect" in said
        assert word(here.server.get("/")) == "first"


def test_command_line_and_environment_still_win(tmp_path: Path):
    with site(tmp_path, FIRST, "--workers", "2", "/more=./more") as here:
        here.reload("workers = 1\nthreads = 3\n" + FIRST)
        here.server.until(lambda: len(here.server.workers("first:app")) == 2)
        assert here.server.get("/more/page").body == b"a page of more\n"


def test_templates(tmp_path: Path):
    with site(tmp_path, "preload = true\n" + FIRST) as here:
        here.reload("preload = true\nworkers = 2\n" + FIRST + '"/two" = "second:app"\n')
        assert word(here.server.get("/two")) == "second"
        here.server.until(lambda: len(here.server.workers("first:app")) == 2)
        here.reload("preload = true\n" + FIRST.replace("first:app", "second:app"))
        assert word(here.server.get("/")) == "second"
        here.server.until(lambda: not here.server.workers("first:app"))


def test_a_removed_application_is_logged_once(tmp_path: Path):
    with site(tmp_path, FIRST + '"/two" = "second:app"\n') as here:
        here.reload(FIRST)
        for _ in range(2):
            here.reload(FIRST)
        here.reload(FIRST + '"/two" = "second:app"\n')
        assert word(here.server.get("/two")) == "second"
        assert here.server.log().count("second:app is removed; its workers finish what they have.") == 1


def test_an_unchanged_file_is_a_reload_of_the_code(tmp_path: Path):
    with site(tmp_path) as here:
        old = here.server.workers("first:app")
        said = here.reload(FIRST)
        assert "configuration" not in said
        here.server.until_gone(old)
        assert word(here.server.get("/")) == "first"


def test_a_pump_that_dies_later_has_the_new_configuration(tmp_path: Path):
    with site(tmp_path) as here:
        new = free_port()
        here.reload(
            FIRST.replace('"127.0.0.1:0"', f'"127.0.0.1:0", "127.0.0.1:{new}"') + '"/more" = "./more"\n'
        )
        old = here.server.pump
        os.kill(old, signal.SIGKILL)
        here.server.until_logged("DEBUG pump .* is started", times=2)
        with Client(("127.0.0.1", new)) as client:
            assert client.ask("/more/page").body == b"a page of more\n"


def hanging(tmp_path: Path) -> str:
    """A configuration with an application whose import hangs until `go` is there, and an address more."""
    (tmp_path / "slow.py").write_text(
        "import os, time\nopen('imports', 'w').close()\n"
        f"while not os.path.exists('go'): time.sleep(0.01)\nNAME = 'slow'\n{APP}",
        "utf-8",
    )
    return (
        FIRST.replace('"127.0.0.1:0"', f'"127.0.0.1:0", "127.0.0.1:{free_port()}"') + '"/slow" = "slow:app"\n'
    )


def start_hanging(here: Site, tmp_path: Path) -> None:
    here.file.write_text(hanging(tmp_path), "utf-8")
    here.server.signal(signal.SIGHUP)
    here.server.until((tmp_path / "imports").exists)


def test_a_stop_while_the_new_workers_import(tmp_path: Path):
    with site(tmp_path) as here:
        start_hanging(here, tmp_path)
        assert word(here.server.get("/slow")) == "first"
        here.server.signal(signal.SIGTERM)
        assert here.server.ends() == 0


def test_a_configuration_that_hangs_is_given_up_for_the_next(tmp_path: Path):
    with site(tmp_path) as here:
        start_hanging(here, tmp_path)
        here.reload(FIRST + '"/more" = "./more"\n')
        assert here.server.get("/more/page").body == b"a page of more\n"
        assert word(here.server.get("/slow")) == "first"
        here.server.until(lambda: len(here.server.workers("first:app")) == 1)


def test_a_pump_or_worker_that_dies_meanwhile_is_replaced_as_it_was(tmp_path: Path):
    """And the new configuration takes effect all the same, when it is ready."""
    with site(tmp_path) as here:
        start_hanging(here, tmp_path)
        pump, (worker,) = here.server.pump, here.server.workers("first:app")[:1]
        for pid in (pump, worker):
            os.kill(pid, signal.SIGKILL)
        here.server.until_gone([pump, worker])
        here.server.until(lambda: word(here.server.get("/slow")) == "first")
        (tmp_path / "go").touch()
        here.server.until_logged("configuration is in effect")
        here.server.until(lambda: word(here.server.get("/slow")) == "slow")


def test_many_reloads_one_after_the_other(tmp_path: Path):
    """Each may find the one before it half done. The last one counts, and nothing is left of the others."""
    with site(tmp_path) as here, Crowd(here.server, ["/", "/files/page"], word) as crowd:
        descriptors = len(os.listdir(f"/proc/{here.server.process.pid}/fd"))
        for number in range(12):
            port = free_port()
            text = FIRST.replace('"127.0.0.1:0"', f'"127.0.0.1:0", "127.0.0.1:{port}"')
            here.file.write_text(f"keep_alive = {number + 10}\n" + text, "utf-8")
            here.server.signal(signal.SIGHUP)
            crowd.until_seen(3)
        here.reload(FIRST + '"/more" = "./more"\n')
        here.server.until(lambda: here.server.get("/more/page").body == b"a page of more\n")
        here.server.until(lambda: len(here.server.workers("first:app")) == 1)
        pid = here.server.process.pid
        here.server.until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors)
        crowd.stop()
        assert crowd.broken == crowd.wrong == []
