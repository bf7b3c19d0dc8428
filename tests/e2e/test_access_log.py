"""The access log: what was really sent, one whole line each, whatever clients put into it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.harness import LONG, Answer, Crowd, Server, request, serving


def lines_of(server: Server, count: int, name: str = "access") -> list[str]:
    """The log's lines, as soon as there are so many."""
    path = server.folder / name
    server.until(lambda: path.exists() and len(path.read_text().splitlines()) >= count)
    return path.read_text().splitlines()


def test_combined_lines_are_as_every_analyser_expects(tmp_path):
    with serving(tmp_path, "story:app", "--access-logfile", "access") as server:
        server.get(
            "/hello?a=b", "Referer: http://a.test/", "User-Agent: Story/1.0", "Authorization: Basic YW5uOng="
        )
        server.get("/status?line=204%20No")
        first, second = lines_of(server, 2)
    assert re.fullmatch(
        r"127\.0\.0\.1 - ann \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
        r'"GET /hello\?a=b HTTP/1\.1" 200 6 "http://a\.test/" "Story/1\.0"',
        first,
    )
    assert second.endswith('"GET /status?line=204%20No HTTP/1.1" 204 - "-" "-"')


def test_the_common_format_on_standard_output(tmp_path):
    arguments = ("--access-logfile", "-", "--access-logformat", "common")
    with serving(tmp_path, "story:app", *arguments) as server:
        server.get("/hello")
        server.until(lambda: server.output.read_text().count("\n") == 1)
        assert server.output.read_text().endswith('"GET /hello HTTP/1.1" 200 6\n')


def test_no_client_can_break_a_line_or_a_quotation(tmp_path):
    evil = 'a" 200 5 "x\\" \t \x80\xff'
    with serving(tmp_path, "story:app", "--access-logfile", "access") as server:
        server.get('/hello?"\\', f"User-Agent: {evil}", f"Referer: {evil}")
        with server.client() as client:
            client.send(b'BAD "\x01\x1b[31m\xff request\r\n\r\n')
            assert client.answer().status == 400
        first, second = lines_of(server, 2)
    quoted = r'"((?:[^"\\]|\\.)*)"'
    found = re.search(rf"{quoted} 200 6 {quoted} {quoted}$", first)
    assert found
    assert found[2] == found[3] == r"a\" 200 5 \"x\\\" \t \x80\xff"
    assert re.search(rf"{quoted} 400 ", second)
    assert all(32 <= ord(letter) < 127 for letter in first + second)


def test_json_lines_are_json_whatever_is_in_them(tmp_path):
    arguments = ("--access-logfile", "access", "--access-logformat", "json")
    with serving(tmp_path, "story:app", *arguments) as server:
        server.get("/hello", 'User-Agent: "\\\x80\t</script>')
        with server.client() as client:
            client.send(request("/hello") * 2)
            client.answer()
            client.answer()
        one, *two = map(json.loads, lines_of(server, 3))
    assert one["user_agent"] == '"\\\x80\t</script>'
    assert (one["method"], one["target"], one["status"], one["body_bytes"]) == ("GET", "/hello", 200, 6)
    assert one["ending"] == "kept"
    assert one["handler_us"] >= 0
    assert one["queue_us"] >= 0
    assert one["total_us"] >= one["handler_us"]
    assert [other["request_count"] for other in two] == [0, 1]


def test_letters_tell_the_bytes_that_were_sent_and_how_it_ended(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public/file").write_bytes(b"x" * 5000)
    form = "%U %>s %B %O %X %k %{ending}x %{X-Own}i %{handler}x %D %%"
    arguments = ("/public=./public", "--access-logfile", "access", "--access-logformat", form)
    with serving(tmp_path, "story:app", *arguments) as server:
        with server.client() as client:
            answer = client.ask("/public/file", "X-Own: mine")
            head = len("\r\n".join([answer.line, *(": ".join(field) for field in answer.fields)])) + 4
            client.ask("/public/file", method="HEAD")
            client.ask("/pieces?size=100000")
            client.ask("/hello", "Connection: close")
        with server.client(receive_buffer=8192) as leaver:
            leaver.send(request("/whole?size=20000000"))
            assert leaver.until(b"\r\n\r\n")
            assert leaver.take(1)
        found = {tuple(line.split()[:2]): line.split() for line in lines_of(server, 5)}
        whole = [line.split() for line in lines_of(server, 5)]
    assert whole[0][:8] == ["/public/file", "200", "5000", str(head + 5000), "+", "0", "kept", "mine"]
    assert whole[1][2] == "0"
    assert int(whole[1][3]) < 300
    assert whole[2][2] == "100000"
    assert int(whole[2][3]) > 100_000
    assert whole[3][4:7] == ["-", "3", "answered"]
    left = found["/whole", "200"]
    assert left[4:7] == ["X", "0", "client_disconnected"]
    assert 0 < int(left[2]) < 20_000_000
    assert whole[0][-1] == "%"


LETTERS = {
    "%h": r"127\.0\.0\.1",
    "%a": r"127\.0\.0\.1",
    "%{c}a": r"127\.0\.0\.1",
    "%l": "-",
    "%L": "-",
    "%{UNIQUE_ID}e": "-",
    "%u": "ann",
    "%t": r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]",
    "%{%Y}t": r"2\d{3}",
    "%{sec}t": r"\d{10}",
    "%{msec}t": r"\d{13}",
    "%{usec}t": r"\d{16}",
    "%{msec_frac}t": r"\d{3}",
    "%{usec_frac}t": r"\d{6}",
    "%r": r"GET /hang\?file=go&as=%.* HTTP/1\.1",
    "%m": "GET",
    "%U": "/hang",
    "%q": r"\?file=go&as=%.*",
    "%H": r"HTTP/1\.1",
    "%s": "200",
    "%>s": "200",
    "%b": "7",
    "%B": "7",
    "%O": r"1\d\d",
    "%D": r"[1-9]\d{6}",
    "%{us}T": r"[1-9]\d{6}",
    "%{ms}T": r"[1-9]\d{3}",
    "%T": "[1-9]",
    "%{s}T": "[1-9]",
    "%{X-Own}i": "mine",
    "%v": r"story\.test",
    "%V": r"story\.test",
    "%p": "8123",
    "%P": r"[1-9]\d*",
    "%k": "1",
    "%X": r"\+",
    "%%": "%",
    "%{queue}x": r"[1-9]\d*",
    "%{handler}x": r"[1-9]\d{6}",
    "%{total}x": r"[1-9]\d{6}",
    "%{site}x": "-",
    "%{ending}x": "kept",
}


def test_every_letter_has_its_true_value(tmp_path):
    """All in one format, for a request that took more than a second, and less than ten on a busy machine."""
    arguments = ("--access-logfile", "access", "--access-logformat", "\t".join(LETTERS))
    with serving(tmp_path, "story:app", *arguments) as server:
        assert_letters(server, list(LETTERS))


@pytest.mark.parametrize("letter", ["%D", "%{us}T", "%{ms}T", "%T", "%{total}x", "%{queue}x", "%{handler}x"])
def test_a_duration_is_measured_for_each_letter_alone(tmp_path, letter):
    """None depends on another one in the format."""
    with serving(tmp_path, "story:app", "--access-logfile", "access", "--access-logformat", letter) as server:
        assert_letters(server, [letter])


def assert_letters(server: Server, letters: list[str]) -> None:
    with server.client() as client:
        client.ask("/hello")
        client.send(
            b"GET /hang?file=go&as=% HTTP/1.1\r\nHost: story.test:8123\r\n"
            b"X-Own: mine\r\nAuthorization: Basic YW5uOng=\r\n\r\n"
        )
        server.until((server.folder / "here-%").exists)
        begun = time.monotonic()
        server.until(lambda: time.monotonic() - begun > 1.05)
        (server.folder / "go").touch()
        assert client.answer().body == b"waited\n"
    values = lines_of(server, 2)[1].split("\t")
    for letter, value in zip(letters, values, strict=True):
        assert re.fullmatch(LETTERS[letter], value), f"{letter}: {value!r}"


def test_the_letters_are_those_of_the_documentation():
    """The table in docs/reference/access-log.md names each of them, and no other."""
    page = Path(__file__).parents[2] / "docs/reference/access-log.md"
    rows = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `%")]
    told = {letter for row in rows for letter in re.findall(r"`(%[^`]*)`", row)}
    known = {letter.replace("%{X-Own}i", "%{Name}i").replace("%Y}t", "%Y-%m-%d}t") for letter in LETTERS}
    missing = {"%{sec}t", "%{msec}t", "%{usec}t", "%{msec_frac}t", "%{usec_frac}t"}  # named beside one letter
    assert told == known - missing


def test_the_log_is_reopened_on_usr1_and_no_line_is_lost(tmp_path):
    def judge(answer: Answer) -> str:
        assert answer.status == 200
        return "right"

    arguments = ("--access-logfile", "access", "--access-logformat", "%U")
    with serving(tmp_path, "story:app", *arguments) as server:
        with Crowd(server, ["/hello"] * 4, judge) as crowd:
            for number in range(1, 4):
                crowd.until_seen(100)
                server.until(lambda: (tmp_path / "access").stat().st_size)
                (tmp_path / "access").rename(tmp_path / f"access.{number}")
                server.signal(signal.SIGUSR1)
                server.until((tmp_path / "access").exists)
        server.get("/path/last")
        server.until(lambda: "/path/last" in (tmp_path / "access").read_text())
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        files = [tmp_path / "access", *(tmp_path / f"access.{number}" for number in range(1, 4))]
        assert all(path.read_text() for path in files)
        assert sum(path.read_text().count("/hello\n") for path in files) == len(crowd.seen)
        assert crowd.wrong == crowd.broken == []


def test_a_pipe_gets_whole_lines_and_a_slow_reader_of_it_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    arguments = ("--access-logfile", "pipe", "--access-logformat", "%U %{User-Agent}i.")
    pieces: list[bytes] = []
    go_on = threading.Event()

    def read() -> None:
        with (tmp_path / "pipe").open("rb", buffering=0) as pipe:
            go_on.wait(LONG)
            while piece := pipe.read(4096):
                pieces.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with serving(tmp_path, "story:app", *arguments) as server:
            with server.client() as client:
                for _ in range(300):  # more than the pipe holds, and nobody reads it
                    assert client.ask("/hello", f"User-Agent: {'y' * 1000}").status == 200
            go_on.set()
            server.signal(signal.SIGTERM)
            assert server.ends() == 0
    finally:
        go_on.set()
        reader.join(LONG)
    assert b"".join(pieces) == (b"/hello " + b"y" * 1000 + b".\n") * 300


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nobody(tmp_path):
    arguments = ("--access-logfile", "/dev/full")
    with serving(tmp_path, "story:app", *arguments) as server:
        for _ in range(5):
            assert server.get("/hello").status == 200
        server.until_logged("The access log can't be written: No space left on device")
        assert server.get("/hello").status == 200
    assert len(re.findall("can't be written", server.log())) == 1


def test_without_an_access_log_there_is_none(tmp_path):
    with serving(tmp_path, "story:app") as server:
        server.get("/hello")
    assert server.output.read_bytes() == b""
    assert {path.name for path in Path(tmp_path).iterdir()} == {server.errors.name, server.output.name}
