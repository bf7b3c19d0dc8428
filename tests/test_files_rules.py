"""What a route of files may say beside its lease: caches, precompressed neighbours, a fallback, one file."""

from __future__ import annotations

import contextlib
import os
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from halfsync.handlers.caching import IMMUTABLE, is_hashed
from halfsync.handlers.encodings import preferred
from tests.worker_stage import Answer, Stage

OLD = 1_700_000_000
"""Seconds since 1970; files of that age are at rest."""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "public"
    (root / "assets").mkdir(parents=True)
    (root / "sub").mkdir()
    write(root / "index.html", b"<h1>index</h1>")
    write(root / "app.js", b"plain")
    write(root / "app.3f2a9c1b.js", b"hashed")
    write(root / "sub/index.html", b"<h1>sub</h1>")
    write(root / ".secret", b"secret")
    write(tmp_path / "outside.txt", b"secret")
    (root / "link-out").symlink_to("../outside.txt")
    os.mkfifo(root / "fifo")
    return root


def write(path: Path, data: bytes, seconds: int = OLD) -> None:
    path.write_bytes(data)
    os.utime(path, (seconds, seconds))


@contextlib.contextmanager
def serving(folder: Path, *, prefix: str = "", lease: float = 1.0, **rules: Any) -> Iterator[Stage]:
    with Stage(folder=str(folder), prefix=prefix, lease=lease, rules=rules) as stage:
        yield stage
        # (Times are set by hand: for REST after that, files are waited for.)


def header(answer: Answer, name: str) -> str:
    return answer.fields.get(name, "")


# --- Cache-Control ----------------------------------------------------------------------------------------


def test_without_a_rule_there_is_no_cache_control(folder):
    with serving(folder) as stage:
        assert "cache-control" not in stage.get("/app.js").fields
        assert "vary" not in stage.get("/app.js").fields


def test_cache_control_is_on_all_that_is_of_the_file_and_nothing_else(folder):
    with serving(folder, cache_control="public, max-age=60") as stage:
        found = stage.get("/app.js")
        etag = found.fields["etag"]
        for fields, status in (
            ("", 200),
            ("Range: bytes=1-2", 206),
            (f"If-None-Match: {etag}", 304),
        ):
            answer = stage.get("/app.js", fields)
            assert answer.status == status
            assert header(answer, "cache-control") == "public, max-age=60"
        for target, status in (("/none", 404), ("/sub", 301)):
            answer = stage.get(target)
            assert answer.status == status
            assert "cache-control" not in answer.fields


@pytest.mark.parametrize("control", ["no-store", "max-age=60, private", "Private"])
def test_what_shared_caches_must_not_keep_has_no_lease(folder, control):
    """The pump would refuse it, and warn of it."""
    with serving(folder, cache_control=control) as stage:
        assert stage.get("/app.js").lease is None
    with serving(folder, cache_control="no-cache") as stage:
        assert stage.get("/app.js").lease is not None


def test_cache_control_by_pattern(folder):
    """The first that fits counts. A pattern without a slash is for names, in whatever folder."""
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub/app.js").write_text("script")
    (folder / "sub/page.html").write_text("page")
    controls = {"sub/*.js": "max-age=1", "*.html": "no-store", "*.js": "max-age=2", "[s]*": ""}
    with serving(folder, cache_control=controls) as stage:
        assert header(stage.get("/sub/app.js"), "cache-control") == "max-age=1"
        assert header(stage.get("/app.js"), "cache-control") == "max-age=2"
        page = stage.get("/sub/page.html")
        assert header(page, "cache-control") == "no-store"
        assert page.lease is None
        assert stage.get("/app.js").lease is not None


def test_hashed_names_are_immutable_if_it_is_asked_for(folder):
    with serving(folder, immutable=True, cache_control="max-age=60") as stage:
        assert header(stage.get("/app.3f2a9c1b.js"), "cache-control") == IMMUTABLE
        assert header(stage.get("/app.js"), "cache-control") == "max-age=60"
    with serving(folder, cache_control="max-age=60") as stage:
        assert header(stage.get("/app.3f2a9c1b.js"), "cache-control") == "max-age=60"


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        # Django
        ("base.27e20196a850.css", True),
        ("jquery.min.27e20196a850.js", True),
        ("logo.27e20196a850.svg", True),
        # webpack, Parcel, Next.js
        ("app.3f2a9c1b.js", True),
        ("main-5d41402a.css", True),
        ("main.3f2a9c1b.chunk.js.map", True),
        ("3f2a9c1b0d4e5f6a7b8c.woff2", True),
        ("framework-64ad27b21261a9ce.js", True),
        ("app_3f2a9c1b.js", True),
        # Vite, Rollup
        ("index-B4kX9_qZ.js", True),
        ("index-C0_-aB3x.css", True),
        ("vendor-DiwR7gTd.js.map", True),
        # what people name
        ("app.js", False),
        ("app.min.js", False),
        ("user-settings.js", False),
        ("page-Settings.js", False),
        ("page-DataView.js", False),
        ("report-20241231.pdf", False),
        ("report.20241231.pdf", False),
        ("photo-IMG_0012.jpg", False),
        ("photo-Photo017.jpg", False),
        ("my-Draft-V2.pdf", False),
        ("figures-Q1-2024b.pdf", False),
        ("facade.jpg", False),
        ("the-defaced.jpg", False),
        ("deadbeef.png", False),
        ("jquery-3.7.1.min.js", False),
        ("bootstrap-5.3.0-alpha1.css", False),
        ("550e8400-e29b-41d4-a716-44665544000f.jpg", False),
        ("3f2a9c1b", False),
        ("app.3f2a9c1b.", False),
        ("chunk-3F2A9C1B.js", True),
        ("x" * 300 + ".js", False),
        ("", False),
    ],
)
def test_what_a_hashed_name_is(name, hashed):
    assert is_hashed(name) == hashed


def test_nearly_all_names_of_the_build_tools_are_known():
    """The rules leave out what might be a word; not many."""
    made = random.Random(4711)
    for alphabet, size, least in (
        ("0123456789abcdef", 8, 950),
        ("0123456789abcdef", 12, 980),
        (string.ascii_letters + string.digits + "-_", 8, 900),
    ):
        names = [f"index-{''.join(made.choices(alphabet, k=size))}.js" for _ in range(1000)]
        assert sum(map(is_hashed, names)) >= least


# --- precompressed neighbours ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "codings"),
    [
        (None, []),
        ("", []),
        ("gzip", ["gzip"]),
        ("gzip, deflate, br, zstd", ["br", "zstd", "gzip"]),
        ("x-gzip", ["gzip"]),
        ("GZIP;Q=0.5", ["gzip"]),
        ("br;q=0.5, gzip", ["gzip", "br"]),
        ("br;q=0, gzip;q=0.001", ["gzip"]),
        ("br ; q=0.1 ,zstd;q=0.9", ["zstd", "br"]),
        ("*", ["br", "zstd", "gzip"]),
        ("br;q=0.4, *;q=0.5", ["zstd", "gzip", "br"]),
        ("*;q=0, br", ["br"]),
        ("*;q=0", []),
        ("identity", []),
        ("identity, gzip;q=0.9", []),
        ("identity;q=0.5, gzip;q=0.9, br;q=0.4", ["gzip"]),
        ("gzip, identity", ["gzip"]),
        ("identity;q=0, gzip", ["gzip"]),
        ("gzip;q=2, br;q=x, zstd;q=", []),
        ("gzip;level=9, br", ["br"]),
        (",, gzip,", ["gzip"]),
        ("g zip", []),
    ],
)
def test_the_codings_a_client_prefers(accept, codings):
    assert list(preferred(accept)) == codings


def compressed(folder: Path) -> None:
    write(folder / "app.js.br", b"br of it")
    write(folder / "app.js.gz", b"gz of it")
    write(folder / "app.js.zst", b"zst of it")


@pytest.mark.parametrize(
    ("accept", "coding", "body"),
    [
        ("gzip, deflate, br, zstd", "br", b"br of it"),
        ("gzip, zstd", "zstd", b"zst of it"),
        ("gzip", "gzip", b"gz of it"),
        ("br;q=0.1, gzip", "gzip", b"gz of it"),
        ("deflate", "", b"plain"),
        ("identity, br;q=0.5", "", b"plain"),
    ],
)
def test_a_neighbour_is_sent_in_the_files_place(folder, accept, coding, body):
    compressed(folder)
    with serving(folder, precompressed=True) as stage:
        answer = stage.get("/app.js", f"Accept-Encoding: {accept}")
        assert (answer.status, answer.body, answer.length) == (200, body, len(body))
        assert header(answer, "content-encoding") == coding
        assert header(answer, "content-type") == "text/javascript; charset=utf-8"
        assert header(answer, "vary") == "Accept-Encoding"
        assert answer.lease is not None
        assert "accept-encoding" in answer.lease.names
        head = stage.ask(f"HEAD /app.js HTTP/1.1\nHost: a\nAccept-Encoding: {accept}")
        assert (head.length, head.fields) == (answer.length, answer.fields)


def test_each_variant_has_a_tag_of_its_own_and_every_response_varies(folder):
    """Though their times and sizes are the same."""
    for suffix in (".br", ".gz", ".zst"):
        write(folder / f"app.js{suffix}", b"other")
    with serving(folder, precompressed=True) as stage:
        tags = set()
        for accept in ("", "br", "gzip", "zstd"):
            answer = stage.get("/app.js", f"Accept-Encoding: {accept}")
            tags.add(answer.fields["etag"])
            again = stage.get("/app.js", f"Accept-Encoding: {accept}\nIf-None-Match: {answer.fields['etag']}")
            assert (again.status, header(again, "vary")) == (304, "Accept-Encoding")
            assert again.fields["etag"] == answer.fields["etag"]
        assert len(tags) == 4
        assert header(stage.get("/app.js"), "vary") == "Accept-Encoding"  # without the field, too


def test_the_tag_of_one_variant_is_not_that_of_another(folder):
    compressed(folder)
    with serving(folder, precompressed=True) as stage:
        tag = stage.get("/app.js", "Accept-Encoding: br").fields["etag"]
        assert stage.get("/app.js", f"Accept-Encoding: gzip\nIf-None-Match: {tag}").status == 200
        assert stage.get("/app.js", f"If-None-Match: {tag}").status == 200


def test_a_range_is_of_the_file_as_it_is(folder):
    """A client that goes on with what it has of a compressed variant says so by its tag, and gets all."""
    compressed(folder)
    with serving(folder, precompressed=True) as stage:
        part = stage.get("/app.js", "Accept-Encoding: br\nRange: bytes=1-2")
        assert (part.status, part.body) == (206, b"la")
        assert "content-encoding" not in part.fields
        tag = stage.get("/app.js", "Accept-Encoding: br").fields["etag"]
        whole = stage.get("/app.js", f"Accept-Encoding: br\nRange: bytes=1-2\nIf-Range: {tag}")
        assert (whole.status, whole.body) == (200, b"plain")
        assert "content-encoding" not in whole.fields


def test_a_range_means_nothing_of_a_head(folder):
    """RFC 9110 14.2: so it is of the variant that a GET without it gets."""
    compressed(folder)
    with serving(folder, precompressed=True) as stage:
        with_range, without = (
            stage.ask(f"HEAD /app.js HTTP/1.1\nHost: a\nAccept-Encoding: br{more}")
            for more in ("\nRange: bytes=1-2", "")
        )
        assert (with_range.status, header(with_range, "content-encoding")) == (200, "br")
        assert with_range.fields == without.fields
        assert with_range.length == without.length


def test_an_older_neighbour_is_of_a_former_content(folder):
    compressed(folder)
    write(folder / "app.js.br", b"former", OLD - 1)
    with serving(folder, precompressed=True) as stage:
        assert header(stage.get("/app.js", "Accept-Encoding: br, gzip"), "content-encoding") == "gzip"
        assert stage.get("/app.js", "Accept-Encoding: br").body == b"plain"


def test_neighbours_that_may_not_be_served(folder, tmp_path):
    write(tmp_path / "outside.br", b"secret")
    (folder / "app.js.br").symlink_to("../outside.br")
    (folder / "app.js.gz").mkdir()
    os.mkfifo(folder / "app.js.zst")
    with serving(folder, precompressed=True) as stage:
        answer = stage.get("/app.js", "Accept-Encoding: br, gzip, zstd")
        assert (answer.body, header(answer, "content-encoding")) == (b"plain", "")


def test_a_neighbour_alone_is_nothing_and_by_its_own_name_a_file(folder):
    write(folder / "alone.js.gz", b"gz")
    with serving(folder, precompressed=True) as stage:
        assert stage.get("/alone.js", "Accept-Encoding: gzip").status == 404
        answer = stage.get("/alone.js.gz", "Accept-Encoding: gzip")
        assert (answer.body, header(answer, "content-type")) == (b"gz", "application/gzip")
        assert "content-encoding" not in answer.fields


def test_an_index_has_neighbours_too_and_a_large_one_goes_by_descriptor(folder):
    data = os.urandom(100_000)
    write(folder / "index.html.br", data)
    with serving(folder, precompressed=True) as stage:
        answer = stage.get("/", "Accept-Encoding: br")
        assert (answer.kinds, answer.body, answer.length) == (["File"], data, len(data))
        assert header(answer, "content-type") == "text/html; charset=utf-8"


def test_without_the_rule_neighbours_are_not_looked_at(folder):
    compressed(folder)
    with serving(folder) as stage:
        answer = stage.get("/app.js", "Accept-Encoding: br")
        assert answer.body == b"plain"
        assert answer.lease is not None
        assert "accept-encoding" not in answer.lease.names


def test_immutable_looks_at_the_name_of_the_file(folder):
    write(folder / "app.3f2a9c1b.js.gz", b"gz")
    with serving(folder, precompressed=True, immutable=True) as stage:
        answer = stage.get("/app.3f2a9c1b.js", "Accept-Encoding: gzip")
        assert (answer.body, header(answer, "cache-control")) == (b"gz", IMMUTABLE)


# --- a fallback -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/users/17",
        "/users/17/",
        "/no.js",
        "/assets",
        "/assets/",
        "/assets/none.3f2a9c1b.js",
        "/fifo",
        "/link-out",
    ],
)
def test_what_does_not_exist_is_the_fallback(folder, target):
    """As with nginx's try_files; with the same tag as the file has, and to be asked for again each time."""
    with serving(folder, fallback="index.html", cache_control="max-age=60", immutable=True) as stage:
        index = stage.get("/")
        answer = stage.get(target)
        assert (answer.status, answer.body) == (200, b"<h1>index</h1>")
        assert header(answer, "content-type") == "text/html; charset=utf-8"
        assert header(answer, "cache-control") == "no-cache"
        assert header(index, "cache-control") == "max-age=60"
        assert answer.fields["etag"] == index.fields["etag"]
        assert stage.get(target, f"If-None-Match: {index.fields['etag']}").status == 304
        assert stage.ask(f"HEAD {target} HTTP/1.1\nHost: a").fields == answer.fields


def test_what_exists_is_itself_and_a_folder_with_an_index_has_its_slash(folder):
    with serving(folder, fallback="index.html") as stage:
        assert stage.get("/app.js").body == b"plain"
        assert stage.get("/sub/").body == b"<h1>sub</h1>"
        assert header(stage.get("/sub"), "location") == "/sub/"


@pytest.mark.parametrize(
    "target", ["/.secret", "/.git/config", "/a/..%2fb", "/%00", "/a%5cb", "/..%2foutside.txt"]
)
def test_what_must_not_be_looked_at_is_not_found_all_the_same(folder, target):
    with serving(folder, fallback="index.html") as stage:
        assert stage.get(target).status == 404


def test_a_fallback_is_leased_no_longer_than_a_404(folder):
    """The file that was asked for may be there the next moment."""
    with serving(folder, fallback="index.html", lease=60.0, precompressed=True) as stage:
        answer = stage.get("/users")
        index = stage.get("/")
        assert answer.lease is not None
        assert index.lease is not None
        assert (answer.lease.seconds, index.lease.seconds) == (1.0, 60.0)
        assert answer.lease.names == index.lease.names


def test_a_fallback_that_is_gone_is_a_404(folder):
    with serving(folder, fallback="gone.html") as stage:
        assert stage.get("/users").status == 404


def test_a_fallback_may_be_compressed(folder):
    write(folder / "index.html.gz", b"gz")
    with serving(folder, fallback="index.html", precompressed=True) as stage:
        answer = stage.get("/users", "Accept-Encoding: gzip")
        assert (answer.body, header(answer, "content-encoding")) == (b"gz", "gzip")
        assert header(answer, "vary") == "Accept-Encoding"


# --- one file -------------------------------------------------------------------------------------------


def test_a_mount_of_one_file(folder):
    with serving(folder / "app.js", prefix="/static/a.js", is_file=True) as stage:
        answer = stage.get("/static/a.js?v=1")
        assert (answer.status, answer.body) == (200, b"plain")
        assert header(answer, "content-type") == "text/javascript; charset=utf-8"
        assert stage.get("/static/a.js", "Range: bytes=0-0").status == 206
        for target in (
            "/static/a.js/",
            "/static/a.js/app.js",
            "/static/a.js/index.html",
            "/static/a.js/../a.js",
        ):
            assert stage.get(target).status == 404


def test_one_file_at_the_root(folder):
    with serving(folder / "index.html", is_file=True) as stage:
        assert stage.get("/").body == b"<h1>index</h1>"
        assert stage.get("/index.html").status == 404


def test_one_file_may_be_hidden_or_a_link_and_have_neighbours_and_be_gone(folder, tmp_path):
    """It was named, so it is meant."""
    with serving(folder / ".secret", prefix="/a", is_file=True) as stage:
        assert stage.get("/a").body == b"secret"
    write(folder / "link-out.gz", b"gz")
    with serving(folder / "link-out", prefix="/a", is_file=True, precompressed=True) as stage:
        assert stage.get("/a").body == b"secret"
        assert stage.get("/a", "Accept-Encoding: gzip").body == b"gz"
        (folder / "link-out").unlink()
        assert stage.get("/a").status == 404
    with serving(folder / "fifo", prefix="/a", is_file=True) as stage:
        assert stage.get("/a").status == 404


# --- all of them ----------------------------------------------------------------------------------------


def test_no_descriptor_is_left_open(folder):
    compressed(folder)
    write(folder / "sub/index.html.br", b"older", OLD - 1)
    rules: dict[str, Any] = {"precompressed": True, "fallback": "index.html", "immutable": True}
    targets = ("/", "/app.js", "/sub", "/sub/", "/users", "/fifo", "/assets", "/.secret", "/link-out")
    with serving(folder, **rules) as stage:

        def ask_all() -> int:
            for target in targets:
                for fields in ("", "Accept-Encoding: br, gzip", "Range: bytes=0-1"):
                    stage.get(target, fields)
            return len(os.listdir("/proc/self/fd"))

        before = ask_all()
        assert ask_all() == before
