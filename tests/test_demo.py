"""The demo application: it works, it escapes, it takes no forged form, and its story is true."""

from __future__ import annotations

import hashlib
import io
import re
import tomllib
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from guestbook import create_app, prepare

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


def test_a_second_start_makes_nothing_anew(var):
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
