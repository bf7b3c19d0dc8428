"""The demo application: it works, it escapes, it takes no forged form, and its story is true."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from flask.testing import FlaskClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from guestbook import create_app, prepare
from tests.ports import free_port

DEMO = Path(__file__).resolve().parent.parent / "examples/demo"


@pytest.fixture
def var(tmp_path):
    prepare.prepare(tmp_path, size=2 * prepare.MIB)
    return tmp_path


@pytest.fixture
def client(var):
    return create_app(var).test_client()


def token(client: FlaskClient) -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get("/notes").text)
    assert found
    return found[1]


@pytest.mark.parametrize(
    "page", ["/", "/notes", "/upload", "/leased", "/request", "/ping", "/hang?seconds=0"]
)
def test_each_page_is_served(client, page):
    assert client.get(page).status_code == 200


def test_a_note_is_written_escaped_and_found(client):
    note = {"token": token(client), "name": "<i>Ann</i>", "text": "100% <script>alert(1)</script>"}
    answer = client.post("/notes", data=note)
    assert answer.status_code == 303
    found = client.get("/notes?words=100%25").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found
    assert "<script>alert" not in found
    assert "&lt;i&gt;Ann" in found
    assert "harbour master" not in found


@pytest.mark.parametrize("wildcard", ["%25zzz", "_", "\\"])
def test_search_takes_no_letter_for_a_wildcard(client, wildcard):
    assert "Nothing here" in client.get(f"/notes?words={wildcard}").text


@pytest.mark.parametrize(("name", "text"), [("", "x"), ("x", " "), ("x" * 61, "x"), ("x", "x" * 1001)])
def test_a_note_that_is_too_short_or_long_is_refused(client, name, text):
    answer = client.post("/notes", data={"token": token(client), "name": name, "text": text})
    assert answer.status_code == 400
    assert "A note needs a name" in answer.text


@pytest.mark.parametrize("page", ["/notes", "/kill", "/upload"])
@pytest.mark.parametrize("forged", [{}, {"token": ""}, {"token": "guessed"}])
def test_a_form_that_is_not_ours_is_refused(client, page, forged):
    token(client)  # there is a session, and still
    assert client.post(page, data=forged).status_code == 400


def test_an_upload_is_described(client):
    data = {"token": token(client), "file": (io.BytesIO(b"some bytes"), "a.txt")}
    page = client.post("/upload", data=data).text
    assert hashlib.sha256(b"some bytes").hexdigest() in page
    assert "10 bytes" in page


def test_what_is_missing_is_a_page(client):
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert "To the front page" in answer.text


def test_a_second_start_makes_nothing_again(var):
    files = [path for path in var.rglob("*") if path.is_file() and "sqlite" not in path.name]
    before = {path: path.stat().st_mtime_ns for path in files}
    prepare.prepare(var, size=2 * prepare.MIB)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_the_download_has_the_digest_beside_it(var):
    digest, name = (var / "download/hundred-mebibytes.sha256").read_text().split()
    assert hashlib.sha256((var / "download" / name).read_bytes()).hexdigest() == digest


def test_the_front_page_counts_the_threads_of_the_settings(client):
    """Eight threads in two workers: the page says so, and so does the button's script."""
    settings = tomllib.loads((DEMO / "halfsync.toml").read_text())
    assert settings["workers"] * settings["threads"] == 8
    assert "const threads = 8;" in (DEMO / "guestbook/static/demo.js").read_text()
    assert "Two workers of four threads make eight" in client.get("/").text


def test_the_commands_are_for_the_address_at_which_it_runs(client):
    page = client.get("/", base_url="http://127.0.0.1:8123").text
    commands = re.findall(r"http://[^/\s<']+", "".join(re.findall(r"<pre>.*?</pre>", page, re.DOTALL)))
    assert len(commands) >= 3
    assert set(commands) == {"http://127.0.0.1:8123"}


# --- its story, with real processes ----------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """The demo as `make demo` starts it, in a folder and at a port of its own; its address."""
    shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("var", "__pycache__"))
    prepare.prepare(tmp_path / "demo/var", size=2 * prepare.MIB)
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "HALFSYNC_BIND": address, "PYTHONPATH": str(DEMO.parent.parent / "src")}
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "halfsync", "-c", "halfsync.toml"],
            cwd=tmp_path / "demo",
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        answer(f"http://{address}/ping", timeout=60)
        yield f"http://{address}"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(60)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes


def answer(url: str, *, timeout: float = 0, **options: Any) -> Answer:
    """The whole response; while nobody listens yet, try again for `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        try:
            with urlopen(Request(url, **options), timeout=60) as reply:
                return Answer(reply.status, reply.headers, reply.read())
        except HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())
        except URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def test_a_worker_that_kills_itself_is_seen_by_its_own_request_only(site):
    page = answer(f"{site}/notes")
    token = re.search(r'name="token" value="([^"]+)"', page.body.decode())
    assert token
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    killed = answer(f"{site}/kill", data=b"token=" + token[1].encode(), headers={"Cookie": cookie})
    assert killed.status == 502
    assert answer(f"{site}/ping").status == 200


def test_a_killed_worker_is_not_offered_again(site):
    """The page is never taken from a cache, and its script has a living one put in its place."""
    page = answer(f"{site}/")
    offered = re.search(rb"kill -9 <span data-worker>(\d+)</span>", page.body)
    assert offered
    os.kill(int(offered[1]), signal.SIGKILL)
    assert page.headers["Cache-Control"] == "no-store"
    assert all(offered[1] not in answer(f"{site}/ping").body for _ in range(10))
    named = [re.search(rb"data-worker>(\d+)", answer(f"{site}/").body) for _ in range(10)]
    assert all(one is not None and one[1] != offered[1] for one in named)
    assert "[data-worker]" in (DEMO / "guestbook/static/demo.js").read_text()


def until_nobody_answers(url: str) -> None:
    while True:
        try:
            urlopen(url, timeout=0.3).close()
        except TimeoutError:
            return


def test_files_are_served_while_all_threads_hang(site):
    with ThreadPoolExecutor(8) as crowd:
        hanging = [crowd.submit(answer, f"{site}/hang?seconds=10") for _ in range(8)]
        until_nobody_answers(f"{site}/ping")
        assert b"<svg" in answer(f"{site}/static/logo.svg").body
        assert not any(one.done() for one in hanging)
        assert [one.result().status for one in hanging] == [200] * 8


def test_progress_arrives_while_it_is_made(site):
    with urlopen(f"{site}/progress", timeout=60) as page:
        begun = b""
        while b"Step 1 of" not in begun:
            begun += page.read1()
        assert b"Step 40 of" not in begun
        assert b"Done." in page.read()


def test_the_download_is_resumable(site):
    address = f"{site}/download/hundred-mebibytes.bin"
    whole = answer(address).body
    rest = answer(address, headers={"Range": "bytes=1000000-"})
    assert rest.status == 206
    assert whole[1000000:] == rest.body


def test_a_leased_page_is_not_made_again(site):
    begun = time.monotonic()
    pages = {re.sub(r"\s", "", answer(f"{site}/leased").body.decode()) for _ in range(20)}
    assert len(pages) <= 2 + (time.monotonic() - begun) / 5  # two, if the lease ended in between


def test_the_live_page_has_a_clock_and_a_room(site):
    page = answer(f"{site}/live")
    assert b"/live/clock" in page.body
    assert answer(f"{site}/live/nothing").status == 404
    with urlopen(f"{site}/live/clock", timeout=60) as clock:
        assert re.fullmatch(rb"data: [0-9:]{8} in process [0-9]+, 0 in the room\n", clock.readline())
    where = site.replace("http", "ws") + "/live/talk"
    with connect(where, open_timeout=60) as ann, connect(where, open_timeout=60) as ben:
        ben.send("")  # nothing is said
        ann.send("<b>hello</b>")
        assert ann.recv(60) == ben.recv(60) == "<b>hello</b>"
    with connect(where, open_timeout=60) as cat:  # the others have left, and that harms nobody
        cat.send("x" * 1000)
        assert cat.recv(60) == "x" * 300
    with pytest.raises(InvalidStatus):
        connect(site.replace("http", "ws") + "/live/nothing")
