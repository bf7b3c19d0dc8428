"""A folder of files: what is served, what never is, conditional and range requests, leases."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from halfsync.handlers.conditions import UNSATISFIABLE, Span, Validators, seconds, span
from halfsync.http.content_types import content_type
from halfsync.system.stamps import REST, stamp_of
from tests.descriptors import open_descriptors
from tests.worker_stage import Stage

TEXT = b"0123456789" * 10


@pytest.fixture
def folder(tmp_path):
    """The served folder, with a secret beside it."""
    root = tmp_path / "public"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "a.txt").write_bytes(TEXT)
    (root / "big.bin").write_bytes(os.urandom(100_000))
    (root / "empty.css").write_bytes(b"")
    (root / "sub" / "index.html").write_bytes(b"<h1>sub</h1>")
    (root / "name with %41 ü.txt").write_bytes(b"odd name")
    (root / ".hidden").write_bytes(b"secret")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(b"secret")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    (tmp_path / "public2").mkdir()
    (tmp_path / "public2" / "secret.txt").write_bytes(b"secret")
    (root / "link-in").symlink_to("a.txt")
    (root / "link-out").symlink_to("../secret.txt")
    (root / "link-out-abs").symlink_to(tmp_path / "secret.txt")
    (root / "link-beside").symlink_to("../public2")
    (root / "link-dot").symlink_to(".git/config")
    (root / "link-dir-out").symlink_to("..")
    (root / "broken").symlink_to("nowhere")
    os.utime(root / "a.txt", (1_700_000_000, 1_700_000_000))
    return root


@pytest.fixture
def stage(folder):
    with Stage(folder=str(folder)) as stage:
        yield stage


def test_a_file_with_its_type_and_validators(stage):
    answer = stage.get("/a.txt?query")
    assert (answer.status, answer.length, answer.body) == (200, 100, TEXT)
    assert answer.fields == {
        "content-type": "text/plain; charset=utf-8",
        "last-modified": formatdate(1_700_000_000, usegmt=True),
        "etag": '"17979cfe362a0000-64"',
        "accept-ranges": "bytes",
    }


def test_a_small_file_travels_in_memory_and_a_large_one_by_descriptor(stage, folder):
    assert stage.get("/a.txt").kinds == []
    big = stage.get("/big.bin")
    assert (big.kinds, big.length) == (["File"], 100_000)
    assert big.body == (folder / "big.bin").read_bytes()


def test_the_limit_of_memory_is_a_setting(folder):
    with Stage(folder=str(folder), lease_file_memory=99) as stage:
        assert stage.get("/a.txt").kinds == ["File"]


@pytest.mark.parametrize(
    "target", ["/name%20with%20%2541%20%C3%BC.txt", "/link-in", "/empty.css", "http://x/a.txt"]
)
def test_names_are_decoded_once_and_links_inside_are_followed(stage, target):
    assert stage.get(target).status == 200


def test_head_says_the_same_as_get(stage):
    for target in ("/a.txt", "/big.bin"):
        get, head = stage.get(target), stage.ask(f"HEAD {target} HTTP/1.1\nHost: a")
        assert (head.status, head.length, head.fields) == (200, get.length, get.fields)


def test_a_folder_with_an_index(stage):
    answer = stage.get("/sub/")
    assert (answer.body, answer.fields["content-type"]) == (b"<h1>sub</h1>", "text/html; charset=utf-8")


def test_a_folder_without_an_index_is_not_listed(stage):
    assert stage.get("/").status == 404
    assert stage.get("/sub/empty/").status == 404


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/sub", "/sub/"),
        ("/s%75b?a=b%20c", "/s%75b/?a=b%20c"),
        ("http://evil/sub", "/sub/"),
        ("/sub/empty", "/sub/empty/"),
    ],
)
def test_a_folder_is_redirected_to_its_slash(stage, target, location):
    answer = stage.get(target)
    assert (answer.status, answer.fields["location"]) == (301, location)


def test_a_redirect_never_names_another_host(stage):
    for target in ("//sub", "/%2Fsub", "/\\sub", "//evil.example/..%2Fsub", "///sub"):
        assert stage.get(target).status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/sub/../a.txt",
        "/./a.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/%252e%252e/secret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/sub\\..\\..\\secret.txt",
        "/a.txt%00",
        "/a.txt%00.html",
        "/%00",
        "/.hidden",
        "/%2ehidden",
        "/.git/config",
        "/.git/",
        "/.git",
        "/link-out",
        "/link-out-abs",
        "/link-beside/secret.txt",
        "/link-dot",
        "/link-dir-out/secret.txt",
        "/link-dir-out/public/a.txt/",
        "/link-dir-out",
        "/link-dir-out/",
        "/broken",
        "/a.txt/",
        "/a.txt/x",
        "//a.txt",
        "/sub//index.html",
        "/missing",
        "/" + "x" * 300,
        "/" + "x/" * 3000,
        "/%ff%fe",
        "/%",
        "/%zz",
        "/..",
        "/...",
    ],
)
def test_what_is_never_served(stage, target):
    answer = stage.get(target)
    assert answer.status == 404
    assert b"secret" not in answer.body


def test_only_regular_files_are_served(stage, folder):
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "sock"))
        (folder / "null").symlink_to("/dev/null")
        for name in ("fifo", "sock", "null"):
            assert stage.get("/" + name).status == 404


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_there(stage, folder):
    (folder / "a.txt").chmod(0)
    assert stage.get("/a.txt").status == 404


def test_a_mount_under_a_prefix(folder):
    with Stage(folder=str(folder), prefix="/stätic") as stage:
        base = "/st%C3%A4tic"
        assert stage.get(base + "/a.txt").body == TEXT
        assert stage.get(base + "/sub").fields["location"] == base + "/sub/"
        assert stage.get(base).fields["location"] == base + "/"
        assert stage.get(base + "/").status == 404
        assert stage.get(base + "/../secret.txt").status == 404


def test_a_folder_that_is_a_link_may_be_turned_to_a_new_release(tmp_path):
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "v").write_text(release)
    current = tmp_path / "current"
    current.symlink_to("one")
    with Stage(folder=str(current)) as stage:
        assert stage.get("/v").body == b"one"
        current.unlink()
        current.symlink_to("two")
        assert stage.get("/v").body == b"two"


def test_a_link_that_is_turned_to_within_the_old_folder_shows_nothing_beside_the_new(tmp_path):
    """The folder is resolved each time: what the last one held is outside of this one."""
    (tmp_path / "one" / "sub").mkdir(parents=True)
    (tmp_path / "one" / "v").write_text("one")
    (tmp_path / "one" / "sub" / "v").write_text("sub")
    (tmp_path / "one" / "sub" / "up").symlink_to("../v")
    current = tmp_path / "current"
    current.symlink_to("one")
    with Stage(folder=str(current)) as stage:
        assert stage.get("/v").body == b"one"
        assert stage.get("/sub/up").body == b"one"
        current.unlink()
        current.symlink_to("one/sub")
        assert stage.get("/v").body == b"sub"
        assert stage.get("/up").status == 404


def test_a_folder_that_is_moved_away_and_replaced(tmp_path):
    public = tmp_path / "public"
    for version in ("one", "two"):
        (tmp_path / "next").mkdir()
        (tmp_path / "next" / "v").write_text(version)
        if version == "one":
            (tmp_path / "next").rename(public)
            stage = Stage(folder=str(public))
    with stage:
        assert stage.get("/v").body == b"one"
        public.rename(tmp_path / "old")
        assert stage.get("/v").status == 404
        (tmp_path / "next").rename(public)
        assert stage.get("/v").body == b"two"


def test_well_known_is_served_at_the_root_and_no_other_dot_folder(folder):
    (folder / ".well-known" / "acme-challenge").mkdir(parents=True)
    (folder / ".well-known" / "acme-challenge" / "token").write_bytes(b"token")
    (folder / ".well-known" / ".hidden").write_bytes(b"secret")
    (folder / "sub" / ".well-known").mkdir()
    (folder / "sub" / ".well-known" / "x").write_bytes(b"secret")
    (folder / ".well-known2").write_bytes(b"secret")
    with Stage(folder=str(folder)) as stage:
        for target in ("/.well-known/acme-challenge/token", "/%2ewell-known/acme-challenge/token"):
            assert stage.get(target).body == b"token"
        assert stage.get("/.well-known").fields["location"] == "/.well-known/"
        for target in (
            "/.well-known/.hidden",
            "/sub/.well-known/x",
            "/.well-known2",
            "/.Well-Known/acme-challenge/token",
            "/.well-known/../.hidden",
            "/.well-known/..",
            "/x/.well-known/acme-challenge/token",
        ):
            assert stage.get(target).status == 404
    with Stage(folder=str(folder), prefix="/static") as stage:
        assert stage.get("/static/.well-known/acme-challenge/token").status == 404


@pytest.mark.parametrize("name", ["..dots.txt", "...", "..data", "....a"])
def test_names_that_begin_with_two_dots_are_served(folder, name):
    (folder / name).write_bytes(b"dots")
    (folder / f"{name}.d").mkdir()
    (folder / f"{name}.d" / "file").write_bytes(b"deep")
    (folder / "to-it").symlink_to(f"{name}.d/file")
    with Stage(folder=str(folder)) as stage:
        for target in (f"/{name}", "/" + name.replace(".", "%2e")):
            assert stage.get(target).body == b"dots"
        assert stage.get(f"/{name}.d/file").body == b"deep"
        assert stage.get("/to-it").body == b"deep"
        for target in ("/..", "/../a.txt", f"/{name}.d/../a.txt", f"/{name}.d/.."):
            assert stage.get(target).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"])
def test_other_methods_are_not_allowed(stage, method):
    answer = stage.ask(f"{method} /a.txt HTTP/1.1\nHost: a", b"body")
    assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")


# --- conditions -----------------------------------------------------------------------------------------

TAG = '"17979cfe362a0000-64"'
DATE = formatdate(1_700_000_000, usegmt=True)
BEFORE = formatdate(1_699_999_999, usegmt=True)
AFTER = formatdate(1_700_000_001, usegmt=True)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (f"If-None-Match: {TAG}", 304),
        (f"If-None-Match: W/{TAG}", 304),
        (f'If-None-Match: "a,b", {TAG}', 304),
        (f'If-None-Match: "a"\nIf-None-Match: {TAG}', 304),
        ("If-None-Match: *", 304),
        ('If-None-Match: "other"', 200),
        (f'If-None-Match: "other"\nIf-Modified-Since: {DATE}', 200),
        (f"If-Modified-Since: {DATE}", 304),
        (f"If-Modified-Since: {AFTER}", 304),
        (f"If-Modified-Since: {BEFORE}", 200),
        ("If-Modified-Since: nonsense", 200),
        (f"If-Match: {TAG}", 200),
        ("If-Match: *", 200),
        (f"If-Match: W/{TAG}", 412),
        ('If-Match: "other"', 412),
        (f"If-Unmodified-Since: {DATE}", 200),
        (f"If-Unmodified-Since: {BEFORE}", 412),
        (f"If-Match: {TAG}\nIf-Unmodified-Since: {BEFORE}", 200),
        (f"If-Match: {TAG}\nIf-None-Match: {TAG}", 304),
    ],
)
def test_conditions(stage, fields, status):
    answer = stage.get("/a.txt", fields)
    assert answer.status == status
    if status == 304:
        assert answer.body == b""
        assert (answer.fields["etag"], answer.fields["last-modified"]) == (TAG, DATE)


@pytest.mark.parametrize(
    ("fields", "status", "content_range", "body"),
    [
        ("Range: bytes=0-9", 206, "bytes 0-9/100", TEXT[:10]),
        ("Range: bytes=95-", 206, "bytes 95-99/100", TEXT[95:]),
        ("Range: bytes=-3", 206, "bytes 97-99/100", TEXT[-3:]),
        ("Range: bytes=-1000", 206, "bytes 0-99/100", TEXT),
        ("Range: bytes=90-1000", 206, "bytes 90-99/100", TEXT[90:]),
        ("Range: BYTES = 5-5", 206, "bytes 5-5/100", TEXT[5:6]),
        ("Range: bytes=100-", 416, "bytes */100", None),
        ("Range: bytes=-0", 416, "bytes */100", None),
        ("Range: bytes=5-4", 200, None, TEXT),
        ("Range: bytes=0-1,3-4", 200, None, TEXT),
        ("Range: lines=0-1", 200, None, TEXT),
        ("Range: bytes=a-b", 200, None, TEXT),
        ("Range: bytes=", 200, None, TEXT),
        ("Range: bytes=-", 200, None, TEXT),
        (f"Range: bytes=0-0\nIf-Range: {TAG}", 206, "bytes 0-0/100", TEXT[:1]),
        (f"Range: bytes=0-0\nIf-Range: W/{TAG}", 200, None, TEXT),
        ('Range: bytes=0-0\nIf-Range: "other"', 200, None, TEXT),
        (f"Range: bytes=0-0\nIf-Range: {DATE}", 206, "bytes 0-0/100", TEXT[:1]),
        (f"Range: bytes=0-0\nIf-Range: {AFTER}", 200, None, TEXT),
        (f"Range: bytes=0-0\nIf-None-Match: {TAG}", 304, None, b""),
    ],
)
def test_ranges(stage, fields, status, content_range, body):
    answer = stage.get("/a.txt", fields)
    assert (answer.status, answer.fields.get("content-range")) == (status, content_range)
    if body is not None:
        assert answer.body == body


@pytest.mark.parametrize(("asked", "status"), [("-5", 200), ("-0", 416), ("0-", 416), ("0-0", 416)])
def test_ranges_of_an_empty_file(stage, folder, asked, status):
    """RFC 9110 14.1.2: its last five bytes are all of it, which no Content-Range can say."""
    (folder / "empty").touch()
    answer = stage.get("/empty", f"Range: bytes={asked}")
    assert (answer.status, answer.fields.get("content-range")) == (
        status,
        "bytes */0" if status == 416 else None,
    )


def test_a_range_of_a_large_file_goes_by_descriptor(stage, folder):
    answer = stage.get("/big.bin", "Range: bytes=10000-89999")
    assert (answer.kinds, answer.length) == (["File"], 80_000)
    assert answer.body == (folder / "big.bin").read_bytes()[10_000:90_000]


def test_head_ignores_range(stage):
    assert stage.ask("HEAD /a.txt HTTP/1.1\nHost: a\nRange: bytes=0-1").status == 200


@pytest.mark.parametrize("size", [0, 1, 100])
def test_no_span_leaves_its_file(size):
    values = [f"bytes={a}-{b}" for a in ("", 0, 1, 99, 100, 10**18) for b in ("", 0, 1, 99, 100, 10**17)]
    for value in values:
        part = span({"range": value}, Validators('"x"', 0), size)
        if part is not None and part is not UNSATISFIABLE:
            assert 0 <= part.offset < size
            assert 0 < part.count <= size - part.offset
        assert part is None or isinstance(part, Span)


@pytest.mark.parametrize(
    "date", ["", "x", "Mon, 99 Nov 2026 10:00:00 GMT", "Mon, 23 Nov 99999 10:00:00 GMT", "1"]
)
def test_a_bad_date_is_none(date):
    assert seconds(date) is None


# --- files that change --------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0.5, 3600, 10**9])
def test_last_modified_is_never_later_than_now(stage, folder, ahead):
    """RFC 9110 8.8.2.1. And a client that has that date is given the file as long as it is to come."""
    os.utime(folder / "a.txt", (time.time() + ahead,) * 2)
    answer = stage.get("/a.txt")
    modified = seconds(answer.fields["last-modified"])
    assert modified is not None
    assert time.time() - 5 < modified <= time.time()
    if ahead > 10:
        before = formatdate(modified - 1, usegmt=True)
        assert stage.get("/a.txt", f"If-Modified-Since: {before}").status == 200


def test_a_time_before_all_dates():
    """(File systems on disks know none.)"""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, Stage(folder=name) as stage:
        path = Path(name, "a.txt")
        path.write_bytes(TEXT)
        os.utime(path, (-62_135_596_801, -62_135_596_801))
        answer = stage.get("/a.txt")
        assert (answer.status, answer.body) == (200, TEXT)
        assert answer.fields["last-modified"] == "Mon, 01 Jan 0001 00:00:00 GMT"


class Unsteady:
    """Writes into a file whenever it is looked at, `times` times."""

    def __init__(self, path: Path, times: int) -> None:
        self.path, self.left = path, times
        self._fstat = os.fstat

    def __call__(self, descriptor: int) -> os.stat_result:
        status = self._fstat(descriptor)
        if self.left and status.st_ino == self.path.stat().st_ino:
            self.left -= 1
            self.path.write_bytes(b"%04d" % self.left + bytes(50))
        return status


@pytest.mark.parametrize(("times", "status"), [(0, 200), (1, 200), (2, 200), (1000, 503)])
def test_a_small_file_that_changes_while_it_is_read_is_read_again(stage, folder, monkeypatch, times, status):
    """And if that never ends, the client is told to come again; it gets no mixture, and no wrong length."""
    unsteady = Unsteady(folder / "a.txt", times)
    monkeypatch.setattr("halfsync.handlers.files.os.fstat", unsteady)
    answer = stage.get("/a.txt")
    assert answer.status == status
    if status == 200 and times:
        assert answer.body == (folder / "a.txt").read_bytes()
        assert answer.length == 54
    if status == 503:
        assert answer.fields["retry-after"] == "1"
        assert answer.lease is None


def test_a_file_that_does_not_come_to_rest_has_a_tag_of_its_own_and_no_lease(stage, folder, monkeypatch):
    """It may change again in the same tick of the clock, with the same times."""
    monkeypatch.setattr("halfsync.handlers.files.is_at_rest", lambda status: False)
    answers = [stage.get("/a.txt") for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.lease for answer in answers] == [None, None]
    assert answers[0].fields["etag"] != answers[1].fields["etag"]
    assert stage.get("/a.txt", f"If-None-Match: {answers[0].fields['etag']}").status == 200


@pytest.mark.parametrize("waits", [True, False])
def test_a_large_file_that_is_rewritten_again_and_again_is_not_sent(stage, folder, monkeypatch, waits):
    """While one that grows is: whenever it is looked at, it is what it is."""
    monkeypatch.setattr("halfsync.handlers.files.is_at_rest", lambda status: False)
    if not waits:
        monkeypatch.setattr("threading.Semaphore.acquire", lambda *_, **__: False)
    answer = stage.get("/big.bin")
    assert (answer.status, answer.fields["retry-after"], answer.lease) == (503, "1", None)
    size = itertools.count((folder / "big.bin").stat().st_size)

    def pause(_seconds: float) -> None:
        os.truncate(folder / "big.bin", next(size) + 1)

    monkeypatch.setattr("halfsync.handlers.files.time.sleep", pause)
    answer = stage.get("/big.bin")
    assert (answer.status, answer.lease) == (200, None)


def test_a_file_that_was_just_written_is_waited_for(stage, folder):
    """A moment later it is at rest, and has its lease."""
    (folder / "new").write_bytes(b"new")
    answer = stage.get("/new")
    assert answer.lease is not None
    assert time.time() - (folder / "new").stat().st_ctime >= REST


def test_with_a_large_file_goes_what_it_was(stage, folder):
    stage.get("/big.bin")
    (item,) = stage.get("/big.bin").reply.objects
    assert item.stamp == stamp_of((folder / "big.bin").stat())


# --- leases and types ---------------------------------------------------------------------------------


def test_leases_name_the_fields_on_which_the_answer_depends(stage):
    for target, fields in (("/a.txt", ""), ("/big.bin", ""), ("/a.txt", f"If-None-Match: {TAG}")):
        lease = stage.get(target, fields).lease
        assert (lease.seconds, lease.public) == (1.0, True)
        assert set(lease.names) == {
            "range",
            "if-range",
            "if-match",
            "if-none-match",
            "if-modified-since",
            "if-unmodified-since",
        }
    for target in ("/missing", "/sub"):
        assert (stage.get(target).lease.names, stage.get(target).lease.public) == ((), True)


def test_what_is_not_there_is_leased_shortly(folder):
    with Stage(folder=str(folder), lease=60.0) as stage:
        leases = [stage.get(target).lease for target in ("/a.txt", "/missing")]
    assert [lease.seconds for lease in leases if lease] == [60.0, 1.0]


def test_no_lease_when_it_is_off(folder):
    with Stage(folder=str(folder), lease=0.0) as stage:
        for target in ("/a.txt", "/big.bin", "/missing", "/sub"):
            assert stage.get(target).lease is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.HTML", "text/html; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.json", "application/json; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.xml", "application/xml; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/gzip"),
        ("a.woff2", "font/woff2"),
        ("a.unknown", "application/octet-stream"),
        ("README", "application/octet-stream"),
        ("html", "application/octet-stream"),
    ],
)
def test_content_types(name, kind):
    assert content_type(name) == kind


def test_no_descriptor_is_left_behind(stage):
    targets = ["/a.txt", "/missing", "/sub", "/sub/", "/link-out", "/fifo", "/sub/empty/"]
    for target in targets:
        stage.get(target)
    before = open_descriptors()
    for target in targets * 5:
        stage.get(target)
    assert open_descriptors() == before
