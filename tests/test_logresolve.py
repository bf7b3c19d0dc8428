"""Host names in access logs: looked up while the log is written, and afterwards by `halfsync logresolve`."""

from __future__ import annotations

import gzip
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfsync.commands.logresolve import Resolving, address_in, with_name
from halfsync.logs import names
from halfsync.logs.formats import compile_format
from halfsync.logs.names import Names
from halfsync.logs.writer import AccessLogWriter
from halfsync.system.primitives import socket
from halfsync.wire.messages import LogRecord
from tests.e2e.harness import serving, until

LONG = 60.0
SOURCES = str(Path(__file__).parent.parent / "src")


class Server:
    """Stands in for those that know names. Each lookup waits until the test lets it go on."""

    def __init__(self, known: dict[str, str], *, waits: bool = False) -> None:
        self.known = known
        self.asked: list[str] = []
        self.go_on = threading.Event()
        if not waits:
            self.go_on.set()

    def lookup(self, address: str) -> str:
        self.asked.append(address)
        assert self.go_on.wait(LONG)
        return self.known.get(address, "")


def record(client: str, head: bytes = b"GET / HTTP/1.1\r\n\r\n") -> LogRecord:
    return LogRecord(1.5, client, head, 200, 5, 100, 10, 20, 300, 0, 0)


# --- while the log is written ------------------------------------------------------------------------


def written(file: Path, server: Server, *clients: str, form: str = "%h %a") -> list[str]:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writer = AccessLogWriter(form, descriptor, names=Names(lookup=server.lookup))
    try:
        for _ in range(2):
            writer([record(client) for client in clients], lambda: None)
    finally:
        os.close(descriptor)
    return file.read_text().splitlines()


def test_names_stand_in_the_place_of_addresses_and_each_is_looked_up_once(tmp_path):
    server = Server({"192.0.2.1": "one.test", "2001:db8::1": "six.test"})
    clients = ("192.0.2.1", "2001:db8::1", "192.0.2.1", "192.0.2.2", "")
    lines = written(tmp_path / "log", server, *clients)
    once = ["one.test 192.0.2.1", "six.test 2001:db8::1", "one.test 192.0.2.1", "192.0.2.2 192.0.2.2", "- -"]
    assert lines == once * 2
    assert sorted(server.asked) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]


def test_json_has_the_name_beside_the_address(tmp_path):
    server = Server({"192.0.2.1": "one.test"})
    lines = [
        json.loads(line) for line in written(tmp_path / "log", server, "192.0.2.1", "192.0.2.2", form="json")
    ]
    found = [(line["client"], line["client_name"]) for line in lines]
    assert found == [("192.0.2.1", "one.test"), ("192.0.2.2", None)] * 2


def test_a_name_that_does_not_come_holds_lines_for_a_moment_only(tmp_path, monkeypatch):
    monkeypatch.setattr("halfsync.logs.writer.NAMES_WAIT", 0.01)
    server = Server({"192.0.2.1": "one.test"}, waits=True)
    assert written(tmp_path / "log", server, "192.0.2.1") == ["192.0.2.1 192.0.2.1"] * 2
    until(lambda: server.asked)  # the thread that does it may not have had its turn
    server.go_on.set()
    assert server.asked == ["192.0.2.1"]


def test_many_addresses_are_looked_up_side_by_side():
    server = Server({f"192.0.2.{n}": f"n{n}.test" for n in range(200)}, waits=True)
    found = Names(lookup=server.lookup, threads=8)
    assert [found.name(f"192.0.2.{n}") for n in range(200)] == [f"192.0.2.{n}" for n in range(200)]
    end = time.monotonic() + LONG
    while len(server.asked) < 8 and time.monotonic() < end:
        time.sleep(0.001)
    assert len(server.asked) == 8
    server.go_on.set()
    assert found.wait(LONG)
    assert [found.name(f"192.0.2.{n}") for n in range(200)] == [f"n{n}.test" for n in range(200)]
    assert not found.wait(LONG)


def test_what_is_remembered_is_bounded_and_grows_old(monkeypatch):
    server = Server({f"192.0.2.{n}": f"n{n}.test" for n in range(5)})
    monkeypatch.setattr(names, "MOST", 3)
    found = Names(lookup=server.lookup)
    for n in range(5):
        found.name(f"192.0.2.{n}")
        assert found.wait(LONG)
    assert list(found._known) == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]
    monkeypatch.setattr(names, "KEPT", 0.0)
    found.name("192.0.2.0")
    assert found.wait(LONG)
    assert found.name("192.0.2.0") == "192.0.2.0"
    assert found.wait(LONG), "it was not looked up again"


def test_what_is_no_address_is_no_question():
    server = Server({})
    found = Names(lookup=server.lookup)
    for text in ("", "-", "unix", "192.0.2", "a.test", "::x"):
        assert found.name(text) == text
    assert not found.wait(LONG)
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "is_one"), [("a-b.c_d.test", True), ('a" b', False), ("a\nb", False), ("x" * 300, False)]
)
def test_a_name_that_could_break_a_line_is_none(monkeypatch, name, is_one):
    monkeypatch.setattr(socket, "getnameinfo", lambda _address, _flags: (name, "0"))
    assert names.name_of("192.0.2.1") == (name if is_one else "")


def test_double_believes_a_name_that_leads_back_and_no_other(monkeypatch):
    monkeypatch.setattr(socket, "getnameinfo", lambda _address, _flags: ("a.test", "0"))
    there = [(2, 1, 6, "", ("192.0.2.7", 0)), (10, 1, 6, "", ("2001:db8::1%eth0", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda _name, _port: there)
    assert names.name_of_checked("192.0.2.7") == "a.test"
    assert names.name_of_checked("2001:db8::1") == "a.test"
    assert names.name_of_checked("192.0.2.8") == ""


def test_the_letter_alone_changes():
    server = Server({"192.0.2.1": "one.test"})
    found = Names(lookup=server.lookup)
    render = compile_format("%h %a %{c}a", names=found)
    render([record("192.0.2.1")])
    assert found.wait(LONG)
    assert render([record("192.0.2.1")]) == b"one.test 192.0.2.1 192.0.2.1\n"


def test_a_real_server_looks_names_up(tmp_path):
    """127.0.0.1 has one on every machine (/etc/hosts)."""
    name = names.name_of("127.0.0.1")
    if not name:
        pytest.skip("127.0.0.1 has no name here")
    arguments = ("--access-logfile", "access", "--access-logformat", "%h %a", "--hostname-lookups", "on")
    with serving(tmp_path, "story:app", *arguments) as server:
        server.get("/hello")
        server.until(lambda: (tmp_path / "access").exists() and (tmp_path / "access").read_text())
        assert (tmp_path / "access").read_text() == f"{name} 127.0.0.1\n"


# --- afterwards --------------------------------------------------------------------------------------


def resolved(
    server: Server, *lines: bytes, jobs: int = 8, timeout: float = LONG
) -> tuple[list[bytes], Resolving]:
    output = io.BytesIO()
    work = Resolving(server.lookup, jobs, timeout, output)
    work.run(iter(lines))
    work.count()
    return output.getvalue().splitlines(keepends=True), work


def test_lines_keep_their_order_and_what_else_is_in_them():
    server = Server({"192.0.2.1": "one.test", "2001:db8::1": "six.test"})
    lines = [
        b'192.0.2.1 - - [x] "GET /192.0.2.1 HTTP/1.1" 200 5\n',
        b"no address\n",
        b"\n",
        b"2001:db8::1 x\r\n",
        b"192.0.2.9 y\n",
        b"192.0.2.1\n",
        b"\xff\xfe 192.0.2.1\n",
        b'{"client":"192.0.2.1","client_name":null,"x":1}\n',
        b'{"client":"192.0.2.1","client_name":"there","x":1}\n',
        b"192.0.2.1 without an end of line",
    ]
    found, work = resolved(server, *lines)
    assert found == [
        lines[0].replace(b"192", b"one.test", 1).replace(b".0.2.1", b"", 1),
        *lines[1:3],
        b"six.test x\r\n",
        lines[4],
        b"one.test\n",
        lines[6],
        b'{"client":"192.0.2.1","client_name":"one.test","x":1}\n',
        lines[8],
        b"one.test without an end of line",
    ]
    statistics = work.statistics
    assert (statistics.lines, statistics.with_address, statistics.addresses) == (10, 6, 3)
    assert (statistics.found, statistics.not_found, statistics.late) == (2, 1, 0)
    assert len(server.asked) == 3


def test_one_slow_name_is_waited_for_once(monkeypatch):
    server = Server({"192.0.2.2": "two.test"})
    hangs = threading.Event()
    usual = server.lookup

    def lookup(address: str) -> str:
        if address == "192.0.2.1":
            hangs.wait(LONG)
        return usual(address)

    lines = [b"192.0.2.1 a\n", b"192.0.2.2 b\n"] * 100
    monkeypatch.setattr(server, "lookup", lookup)
    try:
        found, work = resolved(server, *lines, timeout=2.0)
    finally:
        hangs.set()
    assert found == [b"192.0.2.1 a\n", b"two.test b\n"] * 100
    assert work.statistics.late == 1


@pytest.mark.parametrize(
    "line", [b"", b"-", b"1.2.3 x", b"x" * 1000, b"{}", b'{"client":"x"}', b'{"client":"1.2.3.4"}']
)
def test_lines_without_an_address(line):
    assert address_in(line) == b""


def test_a_name_takes_the_place_of_the_address_at_the_beginning():
    assert with_name(b"1.2.3.4 1.2.3.4\n", b"1.2.3.4", b"a") == b"a 1.2.3.4\n"


def halfsync(*arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    return subprocess.Popen(
        [sys.executable, "-m", "halfsync", "logresolve", *arguments], env=environment, **more
    )


def test_it_writes_a_line_as_soon_as_it_has_come():
    """tail -f | halfsync logresolve"""
    name = names.name_of("127.0.0.1").encode() or b"127.0.0.1"
    with halfsync(stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for n in range(3):
            process.stdin.write(b"127.0.0.1 %d\n" % n)
            process.stdin.flush()
            assert process.stdout.readline() == b"%b %d\n" % (name, n)
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(LONG) == 0


def on_terminal(act: Callable[[int], subprocess.Popen[bytes]]) -> str:
    """What a process shows whose standard error is a terminal."""
    ours, theirs = pty.openpty()
    with act(theirs) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], LONG)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # its other end is closed
                break
            shown += data
        assert process.wait(LONG) == 0
    os.close(ours)
    return shown.decode()


def test_files_have_a_progress_bar_on_a_terminal_and_statistics(tmp_path):
    log, out, statistics = tmp_path / "log", tmp_path / "out", tmp_path / "statistics"
    log.write_bytes(b"127.0.0.1 x\nnone\n" * 2000)
    with out.open("wb") as output:
        shown = on_terminal(
            lambda end: halfsync("-s", str(statistics), str(log), str(log), stdout=output, stderr=end)
        )
    assert re.search(r"\r\[#{30}\] 100% 8,000 lines, (1 name|0 names)\r\n$", shown), shown
    assert len(out.read_bytes().splitlines()) == 8000
    assert re.search(r"^lines with an address +4,000$", statistics.read_text(), re.MULTILINE)
    with out.open("wb") as output, log.open("rb") as given:
        assert on_terminal(lambda end: halfsync(stdin=given, stdout=output, stderr=end)) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "nowhere"),
        (("-j", "0"), "-j"),
        (("--nothing",), "--nothing"),
        (("-s", "/nowhere/s"), "/nowhere/s"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arguments, words):
    with halfsync(
        *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        _, errors = process.communicate(timeout=LONG)
    assert process.returncode == 2
    assert errors.startswith(b"halfsync: ")
    assert words.encode() in errors
    assert errors.count(b"\n") == 1


def test_what_gzip_has_compressed_is_read_as_what_it_was_before(tmp_path):
    """As a file, with a progress bar; and on standard input."""
    plain, packed, out = tmp_path / "1", tmp_path / "2.gz", tmp_path / "out"
    plain.write_bytes(b"none 1\n" * 3)
    packed.write_bytes(gzip.compress(b"none 2\n" * 50_000))
    with out.open("wb") as output:
        shown = on_terminal(lambda end: halfsync(str(plain), str(packed), stdout=output, stderr=end))
    assert out.read_bytes() == b"none 1\n" * 3 + b"none 2\n" * 50_000
    shares = [int(one) for one in re.findall(r"(\d+)% ", shown)]
    assert shares == sorted(shares)
    assert shares[0] < 50
    assert shares[-1] == 100
    with (
        packed.open("rb") as given,
        out.open("wb") as output,
        halfsync(stdin=given, stdout=output) as process,
    ):
        assert process.wait(LONG) == 0
    assert out.read_bytes() == b"none 2\n" * 50_000


@pytest.mark.parametrize("harm", ["cut", "changed", "a head alone", "in the head"])
def test_a_compressed_file_that_is_damaged_is_told_in_one_sentence(tmp_path, harm):
    whole = gzip.compress(os.urandom(50_000).hex().encode())
    packed = {
        "cut": whole[:-9],
        "changed": whole[:20_000] + bytes(100) + whole[20_100:],
        "a head alone": whole[:2],
        "in the head": whole[:2] + b"\xff" * 10 + whole[12:],
    }
    file = tmp_path / "a.gz"
    file.write_bytes(packed[harm])
    with halfsync(str(file), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=LONG)
    assert errors.decode() == f"halfsync: {file}: it is compressed, and damaged or not complete\n"
    assert process.returncode == 2


def test_nobody_reads_what_it_writes(tmp_path):
    (tmp_path / "log").write_bytes(b"127.0.0.1 x\n" * 100_000)
    with halfsync(str(tmp_path / "log"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(LONG) == 1
