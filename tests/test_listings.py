"""Listings of folders: what is named in one, and how clients keep it."""

from __future__ import annotations

import contextlib
import errno
import html
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock
from urllib.parse import unquote_to_bytes

import pytest

from halfsync.handlers.listings import MOST_KEPT, BusyError, Entry, Listings, Turns, page
from tests.descriptors import open_descriptors
from tests.e2e.harness import LONG, until
from tests.worker_stage import Answer, Stage

ODD = [b"a b&<x>\"'", b"new\nline", b"\xff\xfe", b"javascript:alert(1)", b"?#%41", "\u00fc".encode()]
"""Names that mean something else in a URL, in HTML or in a terminal."""


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "public"
    for name in ("with index", "sub/deep", ".git", "sub/.hidden"):
        (root / name).mkdir(parents=True)
    for name in (
        "with index/index.html",
        "b.txt",
        "A.txt",
        ".secret",
        "sub/c.txt",
        ".git/config",
        "back\\slash",
    ):
        (root / name).write_bytes(b"text")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    for link, target in {
        "link": "b.txt", "link to sub": "sub", "out": "../outside", "out too": "../outside/secret",
        "to a dot": ".git/config", "broken": "nowhere", "itself": "itself",
    }.items():  # fmt: skip
        (root / link).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{root}/socket")
    return root


@contextlib.contextmanager
def listing(folder: Path, prefix: str = "", **rules: object) -> Iterator[Stage]:
    with Stage(folder=str(folder), prefix=prefix, lease=1.0, rules={"listing": True, **rules}) as stage:
        yield stage


def named(answer: Answer) -> list[str]:
    """Where the links lead, in order."""
    assert (answer.status, answer.fields["content-type"]) == (200, "text/html; charset=utf-8")
    return [html.unescape(one) for one in re.findall('<a href="([^"]*)">', answer.body.decode())]


def test_what_would_be_served_is_named_and_nothing_else(folder):
    with listing(folder) as stage:
        assert named(stage.get("/")) == [
            "link%20to%20sub/", "sub/", "with%20index/", "A.txt", "b.txt", "link",
        ]  # fmt: skip
        assert named(stage.get("/sub/")) == ["../", "deep/", "c.txt"]
        assert named(stage.get("/sub/deep/")) == ["../"]
        for target in ("/link%20to%20sub/", "/sub/", "/with%20index/", "/A.txt", "/b.txt", "/link"):
            assert stage.get(target).status == 200


@pytest.mark.parametrize(
    "target", ["/out/", "/.git/", "/sub/.hidden/", "/none/", "/b.txt/", "/sub//", "/fifo/"]
)
def test_what_must_not_be_served_is_not_listed_either(folder, target):
    with listing(folder) as stage:
        assert stage.get(target).status == 404


def test_it_is_off_by_default(folder):
    with Stage(folder=str(folder)) as stage:
        assert stage.get("/").status == 404
        assert stage.get("/sub/").status == 404


def test_an_index_is_sent_in_place_of_a_listing(folder):
    with listing(folder) as stage:
        assert stage.get("/with%20index/").body == b"text"


def test_odd_names_lead_to_their_files_and_are_no_markup(folder):
    for name in ODD:
        (folder / "sub/deep" / os.fsdecode(name)).write_bytes(name)
    with listing(folder) as stage:
        answer = stage.get("/sub/deep/")
        links = named(answer)[1:]
        assert sorted(map(unquote_to_bytes, links)) == sorted(ODD)
        for link in links:
            assert re.fullmatch("[A-Za-z0-9%._~-]+", link)  # no colon, so it is relative
            assert stage.get(f"/sub/deep/{link}").body == unquote_to_bytes(link)
        text = answer.body.decode()
        assert "<x>" not in text
        assert "a b&amp;&lt;x&gt;&quot;&#x27;</a>" in text
        assert answer.fields["content-security-policy"].startswith("default-src 'none'")


def test_the_path_is_shown_and_is_no_markup(folder):
    (folder / "<b>&").mkdir()
    with listing(folder, "/files") as stage:
        assert b"<h1>Index of /files/&lt;b&gt;&amp;/</h1>" in stage.get("/files/%3Cb%3E&/").body


def test_a_route_below_the_root_has_no_parent_and_its_slash_is_added(folder):
    with listing(folder, "/files") as stage:
        assert named(stage.get("/files/"))[0] == "link%20to%20sub/"
        assert named(stage.get("/files/sub/"))[0] == "../"
        assert stage.get("/files").fields["location"] == "/files/"
        assert stage.get("/files/sub?a=b").fields["location"] == "/files/sub/?a=b"


def test_sizes_and_times(folder):
    (folder / "sub/c.txt").write_bytes(b"x" * 1_234_567)
    os.utime(folder / "sub/c.txt", (1_700_000_000, 1_700_000_000))
    with listing(folder) as stage:
        row = '<td>2023-11-14 22:13</td><td class="n">1,234,567</td>'
        assert row in stage.get("/sub/").body.decode()


def test_a_listing_that_is_the_same_need_not_be_sent_again(folder):
    with listing(folder, cache_control="max-age=60") as stage:
        first = stage.get("/sub/")
        assert first.fields["cache-control"] == "no-cache"
        assert first.lease is not None
        assert "if-none-match" in first.lease.names
        tag = first.fields["etag"]
        assert stage.get("/sub/", f"If-None-Match: {tag}").status == 304
        assert stage.get("/sub/", 'If-Match: "other"').status == 412
        assert stage.get("/sub/", "If-Modified-Since: Fri, 27 Nov 2099 12:00:00 GMT").status == 200
        head = stage.ask("HEAD /sub/ HTTP/1.1\nHost: a")
        assert (head.fields, head.length) == (first.fields, len(first.body))


def test_a_listing_is_made_once_a_second_at_most(folder, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with listing(folder) as stage:
        first = stage.get("/sub/")
        assert first.lease is not None
        assert first.lease.seconds == 1.0
        (folder / "sub/new").touch()
        now += 0.75
        second = stage.get("/sub/?another")
        assert (second.body, second.fields) == (first.body, first.fields)
        assert second.lease is not None
        assert second.lease.seconds == 0.25
        assert named(stage.get("/sub/deep/")) == ["../"]
        now += 0.25
        assert named(stage.get("/sub/")) == ["../", "deep/", "c.txt", "new"]


def test_without_leases_each_listing_is_made_for_its_request(folder):
    with Stage(folder=str(folder), lease=0.0, rules={"listing": True}) as stage:
        tag = stage.get("/sub/").fields["etag"]
        (folder / "sub/new").touch()
        again = stage.get("/sub/", f"If-None-Match: {tag}")
        assert named(again) == ["../", "deep/", "c.txt", "new"]
        assert again.lease is None


def test_so_much_of_listings_is_kept(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    listings = Listings(1.0, Turns(4))
    for name in (b"a", b"b", b"c"):
        listings.get(name, lambda: bytes(MOST_KEPT // 3 + 1))
    assert [*listings._kept] == [b"c"]
    now += 1.0
    listings.get(b"d", lambda: b"page")
    assert [*listings._kept] == [b"d"]  # what is old is dropped


def test_one_listing_is_made_at_a_time_and_a_thread_is_left_to_other_requests():
    turns = Turns(4)
    listings, other = Listings(1.0, turns), Listings(1.0, turns)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> bytes:
        begun.set()
        assert go_on.wait(LONG)
        return b"slow"

    with ThreadPoolExecutor() as pool:
        made = [pool.submit(listings.get, b"a", slow)]
        assert begun.wait(LONG)
        made += [pool.submit(one.get, b"a", lambda: b"another") for one in (listings, other)]
        until(lambda: turns.waiting._value == 0)
        for one in (listings, other):
            with pytest.raises(BusyError):
                one.get(b"b", lambda: b"none")
        go_on.set()
        found = [one.result() for one in made]
    assert [one.body for one in found if one is not None] == [b"slow", b"slow", b"another"]
    assert turns.making.acquire(blocking=False)


def test_a_listing_that_fails_keeps_no_other_from_being_made(folder):
    listings = Listings(1.0, Turns(4))
    with pytest.raises(OSError, match="too many"):
        listings.get(b"a", mock.Mock(side_effect=OSError(errno.EMFILE, "too many")))
    found = listings.get(b"a", lambda: b"page")
    assert found is not None
    assert found.body == b"page"


def test_what_another_route_has_is_not_listed(folder):
    for name in ("reports", "sub/drafts"):
        (folder / name).mkdir()
    others = ("/files/reports", "/files/b.txt", "/files/sub/drafts", "/files/with index/deeper")
    with listing(folder, "/files", of_others=others) as stage:
        assert named(stage.get("/files/")) == ["link%20to%20sub/", "sub/", "with%20index/", "A.txt", "link"]
        assert named(stage.get("/files/sub/")) == ["../", "deep/", "c.txt"]


@pytest.mark.parametrize("index", ["a link that leads out", "a folder", "a pipe"])
def test_a_folder_with_an_index_that_may_not_be_served_is_not_listed(folder, index):
    path = folder / "sub/index.html"
    if index == "a folder":
        path.mkdir()
    elif index == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("../../outside/secret")
    with listing(folder) as stage:
        assert stage.get("/sub/").status == 404


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-(2**63), "0001-01-01 00:00"),
        (-62_135_596_801, "0001-01-01 00:00"),
        (1_700_000_000, "2023-11-14 22:13"),
        (253_402_300_800, "9999-12-31 23:59"),
        (2**63 - 1, "9999-12-31 23:59"),
    ],
)
def test_times_that_are_no_dates(seconds, shown):
    """File systems can have them: tmpfs any, ext4 up to the year 2446."""
    listed = [Entry(b"c.txt", False, 4, float(seconds))]
    assert f"<td>{shown}</td>" in page(b"/", listed, has_parent=False).decode()


def test_with_a_fallback_folders_are_listed_and_what_is_not_there_is_the_fallback(folder):
    with listing(folder, fallback="b.txt") as stage:
        assert named(stage.get("/sub/")) == ["../", "deep/", "c.txt"]
        assert stage.get("/sub").fields["location"] == "/sub/"
        assert stage.get("/none/").body == b"text"


def test_a_large_listing(folder):
    names = [f"{number:05}-{'x' * 40}" for number in range(3000)]
    for name in names:
        (folder / "sub/deep" / name).touch()
    with listing(folder) as stage:
        answer = stage.get("/sub/deep/")
        assert named(answer) == ["../", *names]
        assert answer.length == len(answer.body) > 64 * 1024


def test_no_descriptor_is_left_open(folder):
    with Stage(folder=str(folder), lease=0.0, rules={"listing": True}) as stage:
        stage.get("/")
        before = open_descriptors()
        for target in ("/", "/sub/", "/out/", "/none/", "/b.txt/"):
            stage.get(target)
        assert open_descriptors() == before
