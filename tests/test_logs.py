"""The access log: formats against what Apache would write, and a writer that nothing stops."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from halfsync.logs.formats import compile_format, needs_cookie, needs_times
from halfsync.logs.writer import AccessLogWriter
from halfsync.wire.closes import CloseReason
from halfsync.wire.messages import LogRecord, LogTask
from tests.worker_stage import Stage

SOURCES = Path(__file__).parent.parent / "src"
WHEN = 1_700_000_000.123456


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(head: str = "GET /p?q=1 HTTP/1.1\r\nHost: example.org:81\r\n\r\n", **more: Any) -> LogRecord:
    columns: dict[str, Any] = {
        "when": WHEN,
        "client": "192.0.2.1",
        "head": head.encode("latin-1"),
        "status": 200,
        "body_bytes": 123,
        "wire_bytes": 456,
        "queue_us": 7,
        "handler_us": 89,
        "total_us": 1_234_567,
        "ending": CloseReason.KEPT,
        "request_count": 3,
    }
    return LogRecord(**(columns | more))


def line(form: str, *records: LogRecord) -> str:
    return compile_format(form)(list(records) or [record()]).decode("ascii")


def test_common_and_combined():
    common = '192.0.2.1 - - [14/Nov/2023:23:13:20 +0100] "GET /p?q=1 HTTP/1.1" 200 123'
    assert line("common") == common + "\n"
    assert line("combined") == common + ' "-" "-"\n'
    fields = "referer: http://a/\r\nUser-Agent: curl\r\nAuthorization: Basic YWxpY2U6cHc="
    head = f"GET / HTTP/1.1\r\n{fields}\r\n\r\n"
    found = line("combined", record(head))
    assert found.startswith("192.0.2.1 - alice [")
    assert found.endswith(' "http://a/" "curl"\n')


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("%a %h %l", "192.0.2.1 192.0.2.1 -"),
        ("%m|%U|%q|%H", "GET|/p|?q=1|HTTP/1.1"),
        ("%s %>s %<s", "200 200 200"),
        ("%b %B %O", "123 123 456"),
        ("%D %T %{s}T %{ms}T %{us}T", "1234567 1 1 1234 1234567"),
        ("%{Host}i %{host}i %{X-None}i", "example.org:81 example.org:81 -"),
        ("%v %V %p", "example.org example.org 81"),
        ("%k %X %%", "3 + %"),
        ("%{queue}x %{handler}x %{total}x %{ending}x", "7 89 1234567 kept"),
        ("%{%Y-%m-%d}t %{sec}t %{msec}t %{usec}t", "2023-11-14 1700000000 1700000000123 1700000000123456"),
        ("%{msec_frac}t %{usec_frac}t %{begin:%H}t", "123 123456 23"),
        ("%t", "[14/Nov/2023:23:13:20 +0100]"),
        pytest.param("%P", str(os.getpid()), id="%P"),
        ("no directive {r.head} 'quoted' \"\\ 100%%", "no directive {r.head} 'quoted' \"\\ 100%"),
    ],
)
def test_letters(form, expected):
    assert line(form) == expected + "\n"


def test_what_was_not():
    nothing = record(
        "", status=0, body_bytes=0, queue_us=-1, handler_us=-1, client="", ending=CloseReason.HEAD_TIMEOUT
    )
    found = line("%h %s %b %B %{queue}x %{handler}x %{ending}x %X %r %m %U %q %H %v %u", nothing)
    assert found == "- - - 0 - - head_timeout X - - -  - - -\n"
    assert line("%X", record(ending=CloseReason.ANSWERED)) == "-\n"
    assert line("%{ending}x %X", record(ending=250)) == "250 X\n"


@pytest.mark.parametrize("reason", CloseReason)
def test_each_reason_has_its_own_name(reason: CloseReason):
    letter = "+" if reason is CloseReason.KEPT else "X" if reason.is_error else "-"
    assert line("%{ending}x %X", record(ending=reason)) == f"{reason.name.lower()} {letter}\n"


@pytest.mark.parametrize(
    "head", ["G", "GET", "GET /", "GET / HTTP/1.1", "GET / HTTP/1.1\r\nHo", "\r\n", "\x16\x03\x01"]
)
def test_a_head_that_was_never_whole(head):
    for form in ("combined", "json", "%m %U %q %H %r %{Host}i"):
        assert line(form, record(head)).count("\n") == 1


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("/", "b", "82"),
        ("http://a/", "a", "80"),
        ("HTTP://a:81?x", "a", "81"),
        ("http://[::1]:8/", "[::1]", "8"),
    ],
)
def test_the_host_of_an_absolute_target_is_the_one_that_was_named(target, host, port):
    """As the application sees it. The same field lines come with other targets, and are remembered."""
    render = compile_format("%v %V %p %{Host}i %U")
    fields = "Host: b:82\r\n\r\n"
    heads = [f"GET {one} HTTP/1.1\r\n{fields}" for one in ("/x", target, "http://c/", target, "/x")]
    lines = render([record(head) for head in heads]).decode().splitlines()
    assert lines[0] == lines[4] == "b b 82 b:82 /x"
    assert lines[1] == lines[3] == f"{host} {host} {port} b:82 /"
    (found,) = map(json.loads, line_bytes("json", record(heads[1])).splitlines())
    assert found["host"] == {"/": "b:82", "http://a/": "a"}.get(target, f"{host}:{port}")


def test_escaping_is_apaches():
    head = 'GET /"\\\x7f\xe9 HTTP/1.1\r\nUser-Agent: a"b\\c\td\x01\r\n\r\n'
    assert line("%r|%{User-Agent}i", record(head)) == 'GET /\\"\\\\\\x7f\\xe9 HTTP/1.1|a\\"b\\\\c\\td\\x01\n'


def test_no_field_can_leave_its_quotes_or_its_line():
    every = "".join(map(chr, range(256))).replace("\r", "").replace("\n", "")
    head = f"GET /{every} HTTP/1.1\r\nReferer: {every}\r\nUser-Agent: {every}\r\n\r\n"
    found = line("combined", record(head), record())
    quoted = r'"(?:[^"\\]|\\.)*"'
    assert len(found.splitlines()) == 2
    assert found.isascii()
    for each in found.splitlines():
        assert re.fullmatch(rf"192\.0\.2\.1 - - \[[^]]*\] {quoted} 200 123 {quoted} {quoted}", each)


@pytest.mark.parametrize(
    ("value", "user"), [("Basic !!", "-"), ("Basic", "-"), ("Bearer x", "-"), ("basic YToi", "a")]
)
def test_the_user(value, user):
    assert line("%u", record(f"GET / HTTP/1.1\r\nAuthorization: {value}\r\n\r\n")) == user + "\n"


def test_json_holds_whatever_a_header_contains():
    nasty = '"\\\x01\x7f\xe9</script>'
    head = f"GET /{nasty} HTTP/1.1\r\nHost: h\r\nUser-Agent: {nasty}\r\n\r\n"
    lines = line_bytes("json", record(head), record(queue_us=-1)).splitlines()
    first, second = map(json.loads, lines)
    assert first["user_agent"] == nasty
    assert first["target"] == "/" + nasty
    assert first["time"] == "2023-11-14T22:13:20.123456Z"
    assert (first["status"], first["body_bytes"], first["ending"], first["user"]) == (200, 123, "kept", None)
    assert second["queue_us"] is None


def line_bytes(form: str, *records: LogRecord) -> bytes:
    return compile_format(form)(list(records))


@pytest.mark.parametrize(
    "form", ["%y", "%{x}", "%", "%{}i", "%{nonsense}x", "%{min}T", "%400r", "%!200h", "%{end:%H}t", "a %z b"]
)
def test_an_unknown_directive_is_a_sentence(form):
    with pytest.raises(ValueError, match=r"^The log format.*\.$"):
        compile_format(form)


def test_time_is_rendered_for_each_second():
    found = line("%t", record(when=WHEN), record(when=WHEN + 0.5), record(when=WHEN + 1)).splitlines()
    assert [each[16:21] for each in found] == ["13:20", "13:20", "13:21"]


def test_many_heads_are_all_rendered():
    render = compile_format("%U")
    for n in range(5000):
        assert render([record(f"GET /{n} HTTP/1.1\r\n\r\n")]) == b"/%d\n" % n


def test_json_has_no_control_characters_in_it():
    """DEL and the C1 controls too: some terminals take them for commands."""
    every = "".join(map(chr, range(1, 256))).replace("\r", "").replace("\n", "")
    head = f"GET /{every.replace(' ', '')} HTTP/1.1\r\nReferer: {every}\r\nUser-Agent: \x9b31m\x7f\r\n\r\n"
    found = line_bytes("json", record(head), record(head)).decode()
    assert [letter for letter in found if ord(letter) < 32 or 127 <= ord(letter) < 160] == ["\n", "\n"]
    for each in map(json.loads, found.splitlines()):
        assert each["user_agent"] == "\x9b31m\x7f"
        assert each["referer"] == every.strip("\t ")


@pytest.mark.parametrize(
    "form",
    ["json", "%D", "%T", "%{ms}T", "%{us}T", "%{s}T", "%{total}x", "%{queue}x", "%{handler}x", "a %D b"],
)
def test_a_format_with_a_duration_needs_times(form):
    assert needs_times(form)


@pytest.mark.parametrize("form", ["common", "combined", "%{ending}x", "%t %{%T}t %{D}i", "no %% D"])
def test_a_format_without_a_duration_costs_no_look_at_the_clock(form):
    assert not needs_times(form)


def test_what_the_pump_should_know():
    assert [needs_cookie(f) for f in ("combined", "json", "%{Cookie}i", "%{cookie2}i")] == [
        False,
        False,
        True,
        False,
    ]


# --- the error log ------------------------------------------------------------------------------------


def logging_process(tmp_path: Path, code: str, *, stderr: Any, limit: str = "") -> str:
    """What is in the file `taken` after a process that keeps the log's descriptor has run `code`."""
    program = f"""
import os, resource
{limit}
from halfsync.logs import error
error.keep_descriptor()
error.log("info", "before")
taken = os.open("taken", os.O_RDWR | os.O_CREAT)
{code}
error.log("info", "after")
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, stderr=stderr, check=True, timeout=60
    )
    return (tmp_path / "taken").read_text()


TAKING = {
    "closed": "os.close(2)",
    "replaced": "os.dup2(taken, 2)",
    "all_low_ones_replaced": "[os.dup2(taken, number) for number in range(3)]",
    "closed_and_opened": "os.closerange(0, 3); [os.open('taken', os.O_WRONLY) for _ in range(3)]",
    "ours_replaced": "os.dup2(taken, error.descriptor())",
    "ours_closed": "os.close(error.descriptor())",
    "nothing": "",
}


@pytest.mark.parametrize(
    "limit", ["", "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))"], ids=["", "low"]
)
@pytest.mark.parametrize("code", TAKING.values(), ids=TAKING)
def test_the_error_log_goes_where_standard_error_was(tmp_path, code, limit):
    with (tmp_path / "log").open("wb") as log:
        assert logging_process(tmp_path, code, stderr=log, limit=limit) == ""
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["before", "after"]


@pytest.mark.parametrize("code", [TAKING["replaced"], TAKING["closed_and_opened"]])
def test_the_error_log_to_a_pipe_or_nowhere_is_never_another_file(tmp_path, code):
    reading, writing = os.pipe()
    assert logging_process(tmp_path, code, stderr=writing) == ""
    os.close(writing)
    assert os.read(reading, 10_000).count(b"\n") == 2
    os.close(reading)
    assert logging_process(tmp_path, code, stderr=subprocess.DEVNULL) == ""


def test_with_no_descriptor_left_nothing_is_logged_anywhere(tmp_path):
    code = "os.dup2(taken, 2); os.dup2(taken, error.descriptor())"
    with (tmp_path / "log").open("wb") as log:
        assert logging_process(tmp_path, code, stderr=log) == ""
    assert (tmp_path / "log").read_text().count("\n") == 1


def test_the_logs_descriptor_is_out_of_the_way_and_not_inherited(tmp_path):
    code = (
        "assert error.descriptor() >= 100 and not os.get_inheritable(error.descriptor())\n"
        "error.keep_descriptor(); error.keep_descriptor()\n"
        "assert sum(number >= '100' and len(number) == 3 for number in os.listdir('/proc/self/fd')) == 1"
    )
    with (tmp_path / "log").open("wb") as log:
        logging_process(tmp_path, code, stderr=log)


# --- the writer ---------------------------------------------------------------------------------------


def write(writer: AccessLogWriter, *records: LogRecord) -> None:
    done = threading.Event()
    writer(list(records), done.set)
    assert done.wait(60)


def test_records_arrive_in_order_and_whole(tmp_path):
    path = tmp_path / "log"
    writer = AccessLogWriter("%U", os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    for n in range(10):
        write(writer, record(f"GET /{n}a HTTP/1.1\r\n\r\n"), record(f"GET /{n}b HTTP/1.1\r\n\r\n"))
    writer.reopen(os.open(os.devnull, os.O_WRONLY))
    assert path.read_text() == "".join(f"/{n}a\n/{n}b\n" for n in range(10))


def test_writes_to_a_pipe_are_small_and_end_at_lines():
    reading, writing = os.pipe2(os.O_DIRECT)  # each write is a packet: we see them as they were made
    writer = AccessLogWriter("%r", writing)
    records = [record(f"GET /{'x' * (n % 900)} HTTP/1.1\r\n\r\n") for n in range(400)]
    long = record(f"GET /{'y' * 9000} HTTP/1.1\r\n\r\n")
    thread = threading.Thread(target=write, args=(writer, *records, long))
    thread.start()
    packets: list[bytes] = []
    while sum(map(len, packets)) < len(line_bytes("%r", *records, long)):
        packets.append(os.read(reading, 65536))
    thread.join()
    assert all(len(packet) <= select.PIPE_BUF for packet in packets)
    assert all(packet.endswith(b"\n") for packet in packets if b"y" not in packet)
    assert b"".join(packets) == line_bytes("%r", *records, long)
    os.close(reading)
    writer.reopen(os.open(os.devnull, os.O_WRONLY))


def test_reopened_on_order(tmp_path):
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    writer = AccessLogWriter("%U", os.open(tmp_path / "old", flags))
    write(writer, record())
    writer.reopen(os.open(tmp_path / "new", flags))
    write(writer, record())
    assert (tmp_path / "old").read_text() == (tmp_path / "new").read_text() == "/p\n"


def test_reopened_while_the_last_batch_is_written(tmp_path):
    """The old file is closed behind that, and not only when the next records come."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    old = os.open(tmp_path / "old", flags)
    new = os.open(tmp_path / "new", flags)
    writer = AccessLogWriter("%U", old)
    writer([record()], lambda: writer.reopen(new))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(old)
    write(writer, record())
    assert (tmp_path / "old").read_text() == (tmp_path / "new").read_text() == "/p\n"


def test_a_full_disk_is_said_once_and_records_come_again(capfd, tmp_path):
    writer = AccessLogWriter("%U", os.open("/dev/full", os.O_WRONLY))
    for _ in range(3):
        write(writer, record())
    writer.reopen(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    write(writer, record())
    said = capfd.readouterr().err
    assert said.count("No space left") == 1
    assert "about 3 records were dropped" in said
    assert (tmp_path / "log").read_text() == "/p\n"


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path, monkeypatch):
    path = tmp_path / "log"
    writer = AccessLogWriter("%U", os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    real = os.write
    room = [3]

    def filling(descriptor, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr("halfsync.logs.writer.os.write", filling)
        write(writer, record("GET /long HTTP/1.1\r\n\r\n"))
    write(writer, record())
    assert path.read_text() == "/lo\n/p\n"


def test_a_pipe_without_a_reader_harms_nothing(capfd):
    reading, writing = os.pipe()
    os.close(reading)
    writer = AccessLogWriter("%U", writing)
    write(writer, record())
    assert "Broken pipe" in capfd.readouterr().err


def test_without_a_log_records_are_done_with():
    write(AccessLogWriter("combined", None), record())


def test_a_log_that_is_stuck_holds_one_thread_only(tmp_path):
    reading, writing = os.pipe()
    (tmp_path / "a").write_text("a file")
    writer = AccessLogWriter("%U", writing)
    much = [record(f"GET /{'x' * 1000} HTTP/1.1\r\n\r\n")] * 100  # more than a pipe holds
    with Stage(folder=str(tmp_path), threads=2, log_handler=writer) as stage:
        slots = []
        for _ in range(3):
            slots.append(stage.task("").number)
            stage.send(LogTask(slots[-1], much))
        assert stage.get("/a").body == b"a file"
        thread = threading.Thread(target=drain, args=(reading, 3 * 100 * 1002))
        thread.start()
        assert all(stage.wait(slot).done for slot in slots)
        thread.join()
    os.close(reading)


def drain(descriptor: int, size: int) -> None:
    while size:
        size -= len(os.read(descriptor, min(size, 65536)))


def test_a_log_task_is_answered_when_it_is_written(tmp_path):
    path = tmp_path / "log"
    writer = AccessLogWriter("%U", os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    with Stage(folder=str(tmp_path), log_handler=writer) as stage:
        slot = stage.task("").number
        stage.send(LogTask(slot, [record()]))
        assert stage.wait(slot).done
        assert path.read_text() == "/p\n"


# --- the error log's records ----------------------------------------------------------------------------


def records_of(code: str, *, stderr: Any = subprocess.PIPE, **environment: str) -> str:
    """What a process that runs `code` writes to standard error."""
    program = f"from halfsync.logs import error\n{code}"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(SOURCES), **environment},
        stderr=stderr,
        check=True,
        timeout=60,
    )
    return (found.stderr or b"").decode()


def test_as_json_a_record_is_an_object_in_one_line():
    code = """
error.be("worker(app:app)", "info", "json")
error.log("debug", "not this")
error.log("warning", 'a "quoted"\\nsecond line\\x1b[2J \\udcff \\u20ac')
error.log("error", "short\\n")
"""
    first, second = map(json.loads, records_of(code).splitlines())
    assert first["message"] == 'a "quoted"\nsecond line\x1b[2J \\udcff €'
    assert (first["level"], first["process"]) == ("warning", "worker(app:app)")
    assert isinstance(first["pid"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert (second["level"], second["message"]) == ("error", "short")
    raw = records_of(code).encode()
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", raw)


def test_colours_are_for_terminals():
    code = 'error.keep_descriptor(); error.be("pump", "debug"); error.log("error", "text")'
    assert "\x1b" not in records_of(code, TERM="xterm")
    for environment, is_coloured in (
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb", "NO_COLOR": ""}, False),
    ):
        ours, theirs = os.openpty()
        records_of(code, stderr=theirs, **environment)
        shown = os.read(ours, 10_000).decode()
        os.close(ours)
        os.close(theirs)
        assert (" pump \x1b[31mERROR\x1b[0m text" in shown) is is_coloured
        assert (" pump ERROR text" in shown) is not is_coloured
