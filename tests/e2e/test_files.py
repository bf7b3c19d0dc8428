"""A folder of files, as browsers and curl ask for it, and as nobody should."""

from __future__ import annotations

import email.utils
import os
import threading
import time

import pytest

from tests.e2e.harness import AT_ONCE, LONG, MIB, curl, digest, pattern, request, resident, serving

LARGE = 100 * MIB


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    public = folder / "public"
    (public / "deep/er").mkdir(parents=True)
    (public / "empty").mkdir()
    (public / ".hidden").mkdir()
    (public / "hello.txt").write_text("hello, file\n")
    (public / "empty.txt").write_bytes(b"")
    (public / "data.bin").write_bytes(pattern(1_000_000))
    (public / "deep/index.html").write_text("<p>deep</p>\n")
    (public / "deep/er/ä b.txt").write_text("umlaut\n")
    (public / ".env").write_text("SECRET\n")
    (public / ".hidden/file").write_text("SECRET\n")
    (public / "deep/.git").write_text("SECRET\n")
    (folder / "outside").mkdir()
    (folder / "outside/secret").write_text("SECRET\n")
    (folder / "public-secret").write_text("SECRET\n")
    (public / "link-out").symlink_to(folder / "outside/secret")
    (public / "folder-out").symlink_to(folder / "outside")
    (public / "link-hidden").symlink_to(public / ".env")
    (public / "link-in").symlink_to("hello.txt")
    (public / "link-broken").symlink_to("nothing")
    os.mkfifo(public / "fifo")
    with serving(folder, "/files=./public", "/=./public", "/app=story:app") as server:
        yield server


@pytest.fixture
def client(site):
    with site.client() as client:
        yield client


# --- what is there ---------------------------------------------------------------------------------


def test_a_file_has_type_length_date_and_tag(site):
    answer = site.get("/hello.txt")
    assert (answer.status, answer.body) == (200, b"hello, file\n")
    assert answer["Content-Type"].startswith("text/plain")
    assert answer["Content-Length"] == "12"
    assert answer["Accept-Ranges"] == "bytes"
    assert answer["ETag"].startswith('"')
    changed = email.utils.parsedate_to_datetime(answer["Last-Modified"]).timestamp()
    assert changed == int((site.folder / "public/hello.txt").stat().st_mtime)


def test_names_queries_and_links_within(client):
    assert client.ask("/deep/er/%C3%A4%20b.txt").body == b"umlaut\n"
    assert client.ask("/files/hello.txt?v=3").body == b"hello, file\n"
    assert client.ask("/link-in").body == b"hello, file\n"
    assert client.ask("/empty.txt").body == b""
    assert client.ask("/%68ello.txt").body == b"hello, file\n"


def test_a_folder_is_its_index(client):
    assert client.ask("/deep/").body == b"<p>deep</p>\n"
    assert client.ask("/deep/")["Content-Type"].startswith("text/html")
    assert client.ask("/empty/").status == 404
    assert client.ask("/").status == 404


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("/deep", "/deep/"),
        ("/deep?a=b&c=%20", "/deep/?a=b&c=%20"),
        ("/files", "/files/"),
        ("/files/deep?x", "/files/deep/?x"),
    ],
)
def test_a_folder_without_its_slash_is_a_redirect_that_keeps_the_query(site, asked, told):
    answer = site.get(asked)
    assert (answer.status, answer["Location"]) == (301, told)


def test_only_reading_is_allowed(client):
    for method, body in (("POST", b"x"), ("DELETE", b""), ("PUT", b"x")):
        answer = client.ask("/hello.txt", method=method, body=body)
        assert (answer.status, answer["Allow"]) == (405, "GET, HEAD")
    assert client.ask("/hello.txt").status == 200


# --- what is never served --------------------------------------------------------------------------

FORBIDDEN = [
    "/../outside/secret",
    "/deep/../../outside/secret",
    "/%2e%2e/outside/secret",
    "/%2e%2e%2foutside/secret",
    "/..%2foutside%2fsecret",
    "/..%252foutside%252fsecret",
    "/%252e%252e/outside/secret",
    "/%25252e%25252e/outside/secret",
    "/..%5coutside%5csecret",
    "/..\\outside\\secret",
    "/%c0%ae%c0%ae/outside/secret",
    "/%uff0e%uff0e/outside/secret",
    "//outside/secret",
    "//etc/passwd",
    "/files/../../outside/secret",
    "/files//etc/passwd",
    "/files..%2fpublic-secret",
    "/files-secret",
    "/hello.txt%00",
    "/hello.txt%00.html",
    "/%00hello.txt",
    "/hello.txt/",
    "/hello.txt/../../outside/secret",
    "/.env",
    "/%2eenv",
    "/%2Eenv",
    "/.hidden/file",
    "/deep/.git",
    "/deep/./.git",
    "/link-out",
    "/folder-out/secret",
    "/link-hidden",
    "/link-broken",
    "/fifo",
    "/.",
    "/..",
    "/deep/..%00/",
    "/hello.txt;x",
    "/HELLO.TXT",
]


@pytest.mark.parametrize("target", FORBIDDEN)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_nothing_outside_nor_hidden_is_served(site, target, method):
    answer = site.get(target, method=method)
    assert answer.status in (400, 404)
    assert b"SECRET" not in answer.body
    assert b"root:" not in answer.body


@pytest.mark.parametrize("target", ["/../outside/secret", "/%2e%2e/outside/secret", "/.env"])
def test_curl_with_the_path_as_it_is_gets_nothing(site, target):
    done = curl("--path-as-is", "-w", "%{http_code}", "-o", "/dev/null", site.url + target)
    assert done.stdout in (b"400", b"404")


# --- parts and conditions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-9", 0, 9),
        ("999990-", 999_990, 999_999),
        ("-5", 999_995, 999_999),
        ("0-0", 0, 0),
        ("5-2000000", 5, 999_999),
    ],
)
def test_curl_gets_the_range_it_asks_for(site, asked, first, last):
    whole = pattern(1_000_000)
    done = curl("-r", asked, f"{site.url}/data.bin")
    assert done.stdout == whole[first : last + 1]
    answer = site.get("/data.bin", f"Range: bytes={asked}")
    assert answer.status == 206
    assert answer["Content-Range"] == f"bytes {first}-{last}/1000000"


def test_curl_continues_a_download(site, tmp_path):
    whole = pattern(1_000_000)
    (tmp_path / "part").write_bytes(whole[:123_456])
    done = curl("--continue-at", "-", "-o", f"{tmp_path}/part", f"{site.url}/data.bin")
    assert done.returncode == 0
    assert (tmp_path / "part").read_bytes() == whole


def test_what_is_no_part_is_416_or_the_whole(client):
    answer = client.ask("/data.bin", "Range: bytes=1000000-")
    assert (answer.status, answer["Content-Range"]) == (416, "bytes */1000000")
    assert client.ask("/empty.txt", "Range: bytes=0-").status in (200, 416)
    for other in ("bytes=5-4", "lines=1-2", "bytes=a-b", "bytes"):
        assert client.ask("/hello.txt", f"Range: {other}").body == b"hello, file\n"


def test_several_parts_are_the_whole(site):
    """Which RFC 9110 14.2 allows; a client must be ready for it."""
    answer = site.get("/hello.txt", "Range: bytes=0-1,3-4")
    assert (answer.status, answer.body) == (200, b"hello, file\n")


def test_parts_and_wholes_of_one_file_are_not_mixed_up_by_leases(client):
    data = pattern(1_000_000)
    for _ in range(3):
        for first, last in ((0, 9), (10, 70_000), (0, 999_999), (5, 5)):
            assert client.ask("/data.bin", f"Range: bytes={first}-{last}").body == data[first : last + 1]
        assert client.ask("/data.bin").body == data
        assert client.ask("/data.bin", "Range: bytes=7-9", method="HEAD")["Content-Length"] == "1000000"


def test_a_condition_that_holds_is_304(client):
    answer = client.ask("/hello.txt")
    for field in (
        f"If-None-Match: {answer['ETag']}",
        f'If-None-Match: "other", W/{answer["ETag"]}',
        "If-None-Match: *",
        f"If-Modified-Since: {answer['Last-Modified']}",
    ):
        unchanged = client.ask("/hello.txt", field)
        assert unchanged.status == 304
        assert unchanged["ETag"] == answer["ETag"]
    for field in ('If-None-Match: "other"', "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"):
        assert client.ask("/hello.txt", field).body == b"hello, file\n"
    assert client.ask("/hello.txt", 'If-Match: "other"').status == 412
    assert client.ask("/hello.txt", f"If-Match: {answer['ETag']}").status == 200


def test_if_range_gives_the_part_or_all_that_is_new(client):
    tag = client.ask("/hello.txt")["ETag"]
    assert client.ask("/hello.txt", "Range: bytes=0-4", f"If-Range: {tag}").body == b"hello"
    assert client.ask("/hello.txt", "Range: bytes=0-4", 'If-Range: "old"').body == b"hello, file\n"


def test_head_tells_the_length_and_sends_nothing(client):
    for target, size in (("/data.bin", 1_000_000), ("/hello.txt", 12), ("/empty.txt", 0)):
        for _ in range(3):  # the first time by a worker, then by a lease
            assert client.ask(target, method="HEAD")["Content-Length"] == str(size)
    assert client.ask("/data.bin").body == pattern(1_000_000)


# --- leases ----------------------------------------------------------------------------------------


def test_a_replaced_file_is_seen_within_the_leases_second(site):
    """And never a mixture of the two."""
    path = site.folder / "public/news"
    path.write_bytes(b"a" * 100_000)
    seen = []
    with site.client() as client:
        assert client.ask("/news").body == b"a" * 100_000
        fresh = path.with_name("news.new")
        fresh.write_bytes(b"b" * 90_000)
        fresh.rename(path)
        replaced = time.monotonic()
        while True:
            answer = client.ask("/news")
            assert answer.whole
            seen.append(answer.body)
            if answer.body[:1] == b"b":
                break
            assert time.monotonic() - replaced < AT_ONCE
    assert set(seen) <= {b"a" * 100_000, b"b" * 90_000}


def test_without_leases_a_change_is_seen_at_once(tmp_path):
    (tmp_path / "public").mkdir()
    with serving(tmp_path, "./public", "--lease", "0") as server, server.client() as client:
        for number in range(50):
            (tmp_path / "public/new").write_text(f"{number}")
            (tmp_path / "public/new").rename(tmp_path / "public/file")
            assert client.ask("/file").body == f"{number}".encode()
        (tmp_path / "public/file").unlink()
        assert client.ask("/file").status == 404


def test_a_file_that_is_cut_while_it_is_sent_ends_in_an_abort(site):
    path = site.folder / "public/shrinking"
    path.write_bytes(pattern(20 * MIB))
    with site.client(receive_buffer=8192) as client:
        client.send(request("/shrinking"))
        assert client.until(b"\r\n\r\n")
        os.truncate(path, 1 * MIB)
        assert len(client.rest()) < 20 * MIB


# --- large -----------------------------------------------------------------------------------------


def test_a_hundred_mebibytes_go_to_slow_and_fast_clients_at_once(site):
    """Two of each, in pieces of their own size; every byte arrives, and the pump holds none of them."""
    data = pattern(LARGE)
    (site.folder / "public/large").write_bytes(data)
    expected = digest(data)
    before = resident(site.pump)
    found = []

    def fetch(receive_buffer: int) -> None:
        with site.client(receive_buffer=receive_buffer) as client:
            answer = client.ask("/large")
            found.append(answer.whole and digest(answer.body))

    crowd = [threading.Thread(target=fetch, args=[size]) for size in (0, 0, 32_768, 32_768)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(2 * LONG)
    assert found == [expected] * 4
    assert resident(site.pump) - before < 10 * MIB
    (site.folder / "public/large").unlink()


def test_a_file_wrapper_and_a_range_of_the_same_large_file_agree(site):
    data = pattern(5 * MIB)
    (site.folder / "public/agreed").write_bytes(data)
    assert site.get("/app/wrapped?file=public/agreed").body == data
    assert site.get("/agreed").body == data
    assert site.get("/agreed", "Range: bytes=4194304-").body == data[4 * MIB :]
