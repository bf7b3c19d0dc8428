"""A single-page application as a build tool makes it, served beside its API."""

from __future__ import annotations

import gzip
import shutil
import subprocess

import pytest

from tests.e2e.harness import curl, serving

CONFIGURATION = """
cache_control = "no-cache"
[routes]
"/" = { folder = "dist", fallback = "index.html", immutable = true, precompressed = true }
"/api" = "story:app"
"/favicon.ico" = "icons/site.ico"
"""

SCRIPT = b"console.log('" + b"long " * 5000 + b"')\n"
INDEX = b"<!doctype html><script src=/assets/index-B4kX9_qZ.js></script>\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "dist/assets").mkdir(parents=True)
    (folder / "icons").mkdir()
    (folder / "dist/index.html").write_bytes(INDEX)
    (folder / "dist/assets/index-B4kX9_qZ.js").write_bytes(SCRIPT)
    (folder / "icons/site.ico").write_bytes(b"icon")
    subprocess.run(["gzip", "-k", folder / "dist/assets/index-B4kX9_qZ.js"], check=True)
    (folder / "halfsync.toml").write_text(CONFIGURATION)
    with serving(folder, "-c", "halfsync.toml") as server:
        yield server


def header_of(head: bytes, name: str) -> list[str]:
    lines = head.decode("latin-1").split("\r\n")
    return [line.partition(": ")[2] for line in lines if line.lower().startswith(name.lower() + ":")]


def test_curl_gets_the_compressed_neighbour_and_unpacks_it(site, tmp_path):
    url = site.url + "/assets/index-B4kX9_qZ.js"
    done = curl(
        "--compressed", "-D", str(tmp_path / "head"), "-w", "%{size_download}", "-o", str(tmp_path / "b"), url
    )
    assert (tmp_path / "b").read_bytes() == SCRIPT
    assert int(done.stdout) < 1000
    head = (tmp_path / "head").read_bytes()
    assert header_of(head, "Content-Encoding") == ["gzip"]
    assert header_of(head, "Content-Type") == ["text/javascript; charset=utf-8"]
    assert header_of(head, "Cache-Control") == ["public, max-age=31536000, immutable"]
    assert header_of(head, "Vary") == ["Accept-Encoding"]


def test_who_does_not_take_it_gets_the_file_and_ranges_of_it(site):
    url = site.url + "/assets/index-B4kX9_qZ.js"
    assert curl(url).stdout == SCRIPT
    assert curl("-H", "Accept-Encoding: gzip", "-r", "5-9", url).stdout == SCRIPT[5:10]


def test_leases_never_mix_variants_up(site):
    """The same target again and again, on one connection, by clients that accept this and that."""
    packed = gzip.compress(SCRIPT)
    with site.client() as client:
        for _ in range(5):
            for accept, coding in (("gzip, br", "gzip"), ("br", ""), ("gzip;q=0", ""), ("gzip", "gzip")):
                answer = client.ask("/assets/index-B4kX9_qZ.js", f"Accept-Encoding: {accept}")
                assert answer["Content-Encoding"] == coding
                body = gzip.decompress(answer.body) if coding else answer.body
                assert body == SCRIPT
                assert answer["Vary"] == "Accept-Encoding"
            assert client.ask("/assets/index-B4kX9_qZ.js").body == SCRIPT
    assert len(packed) < len(SCRIPT)
    assert "that can't have one" not in site.log()  # no lease was refused


def test_the_applications_own_paths_are_its_index(site):
    for path in ("/", "/users/17", "/users/17/edit?tab=2", "/assets/no.js"):
        answer = site.get(path)
        assert (answer.status, answer.body, answer["Cache-Control"]) == (200, INDEX, "no-cache")
    assert site.get("/users", f"If-None-Match: {site.get('/')['ETag']}").status == 304
    assert site.get("/users", method="POST").status == 405
    assert site.get("/.env").status == 404


def test_what_is_mounted_deeper_has_no_fallback(site):
    assert b"<!doctype" not in site.get("/api/no-such-page").body
    assert site.get("/favicon.ico").body == b"icon"
    assert site.get("/favicon.ico")["Content-Type"] == "image/vnd.microsoft.icon"
    assert site.get("/favicon.ico/more").status == 404


def test_a_new_build_is_seen_and_its_old_neighbour_is_not(site):
    dist = site.folder / "dist"
    (dist / "style.css").write_text("old")
    subprocess.run(["gzip", "-k", dist / "style.css"], check=True)
    site.until(lambda: site.get("/style.css", "Accept-Encoding: gzip")["Content-Encoding"] == "gzip")
    (dist / "style.new").write_text("new")
    (dist / "style.new").rename(dist / "style.css")
    site.until(lambda: site.get("/style.css", "Accept-Encoding: gzip").body == b"new")


def test_one_file_on_the_command_line(tmp_path):
    (tmp_path / "robots.txt").write_text("User-agent: *\n")
    with serving(tmp_path, "story:app", "/robots.txt=./robots.txt") as server:
        assert server.get("/robots.txt").body == b"User-agent: *\n"
        (tmp_path / "robots.txt").unlink()
        server.until(lambda: server.get("/robots.txt").status == 404)


pytestmark = pytest.mark.skipif(shutil.which("gzip") is None, reason="there is no gzip")
