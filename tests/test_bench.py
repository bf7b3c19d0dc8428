"""The harness reads its tools rightly and sends what it says."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import compare, crowd, http2, load, overload, processes, ramp, report, servers, trace
from bench.open_loop import OpenLoop
from tests.e2e.harness import until
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent

WRK_SAID = """\
Running 3s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.90ms  120.11us   5.21ms   88.00%
    Req/Sec    71.02k     2.1k    75.00k    70.00%
  Latency Distribution
     50%    0.88ms
     75%    0.95ms
     90%    1.02ms
     99%    1.31ms
  212345 requests in 3.00s, 1.31GB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  70781.66
Transfer/sec:    447.5MB
"""

STRACE_SAID = """\
syscall           calls
---------------- ------
setsockopt         3686
recvfrom           1845
---------------- ------
total              5531
"""


def test_figures_are_read_from_what_wrk_prints():
    taken = 1.31 * 1024**3
    assert load.read(WRK_SAID) == load.Outcome(212345, 70781.66, 1.31 * 1e-3, 15, seconds=3.0, taken=taken)


def test_of_large_responses_the_parts_count():
    """None of eight of 100 MiB is complete after a second, but half of each has come."""
    said = WRK_SAID.replace("212345 requests in 3.00s, 1.31GB read", "0 requests in 1.00s, 400.00MB read")
    outcome = load.read(said)
    assert outcome.requests == 0
    assert outcome.in_parts(100 * 1024**2).per_second == 4.0


def test_no_figures_is_an_error():
    with pytest.raises(load.CannotLoad, match="no figures"):
        load.read("unable to connect")


def test_calls_are_read_from_what_strace_prints():
    assert trace.read_summary(STRACE_SAID) == {"setsockopt": 3686, "recvfrom": 1845}


def test_a_table_lines_up():
    assert report.table(["", "n"], [["a", "1"], ["long", "22"]]).splitlines() == [
        "         n",
        "  ----  --",
        "  a      1",
        "  long  22",
    ]


@pytest.mark.parametrize(
    ("figure", "at_least", "word"), [(1.0, True, "met"), (0.9, True, "NOT MET"), (0.9, False, "met")]
)
def test_a_verdict_says_whether_the_target_is_met(figure, at_least, word):
    assert report.verdict("x", figure, 1.0, at_least=at_least).split("  ")[1].strip() == word


def test_a_process_is_found_by_its_name():
    child = subprocess.Popen(["sleep", "60"])
    try:
        # Popen may return a moment before the kernel gives the process its new name.
        until(lambda: processes.command_name(child.pid) == "sleep")
        assert processes.find_child(os.getpid(), "sleep") == child.pid
        assert processes.resident_bytes(child.pid) > 0
        with pytest.raises(LookupError, match="no process named 'nothing'"):
            processes.find_child(child.pid, "nothing")
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(not load.installed(), reason="wrk is not installed")
def test_browser_like_heads_have_600_bytes_and_never_repeat():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heads: list[bytes] = []
        answering = threading.Thread(target=_record, args=(listener, heads))
        answering.start()
        port = listener.getsockname()[1]
        load.wrk(f"http://127.0.0.1:{port}/a/file.html", 1, connections=1, script=load.BROWSER)
        answering.join()
    assert len(heads) > 2
    for head in heads[:3]:
        assert len(head) == 600
        assert head.count(b"\r\n") == 1 + 10 + 1
    assert len(set(heads)) == len(heads)


def _record(listener: socket.socket, heads: list[bytes]) -> None:
    """Answer one connection until it is closed, and keep the heads that came. (wrk looks first
    whether anyone listens, and says nothing.)"""
    listener.settimeout(60)
    while not heads:
        connection, _ = listener.accept()
        with connection:
            rest = b""
            try:
                while data := connection.recv(65536):
                    rest += data
                    while b"\r\n\r\n" in rest:
                        head, _, rest = rest.partition(b"\r\n\r\n")
                        heads.append(head + b"\r\n\r\n")
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except ConnectionResetError:
                pass


@pytest.mark.skipif(servers.version("nginx") is None, reason="nginx is not installed")
def test_a_peer_is_started_pinned_and_stopped(monkeypatch):
    monkeypatch.setattr(servers, "free_port", free_port)
    with compare.workplace() as place:
        public = compare.own_folder(place, "public")
        (public / "file.html").write_bytes(b"whole")
        server = servers.nginx(compare.own_folder(place, "nginx"), public)
        server.cores = {min(os.sched_getaffinity(0))}
        with compare.running([server], "/file.html", b"whole") as up:
            assert up == [server]
            tree = [server.pid, *processes.children(server.pid)]
            assert len(tree) == 2
        give_up = time.monotonic() + 60
        while any(Path(f"/proc/{pid}").exists() for pid in tree):  # its worker is reaped by init
            assert time.monotonic() < give_up
            time.sleep(0.01)


def test_a_server_that_does_not_start_is_named_and_left_out(capsys):
    with compare.workplace() as place:
        folder = compare.own_folder(place, "broken")
        command = [sys.executable, "-c", "raise SystemExit('I will not')"]
        broken = servers.Server("broken", free_port(), command, folder)
        with compare.running([broken], "/", b"") as up:
            assert up == []
    assert "broken does not start: it ended with status 1" in (said := capsys.readouterr().out)
    assert "I will not" in said


def test_an_unknown_case_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no case 'nonsense'" in done.stderr


def test_only_listed_tools_are_needed():
    """What the harness starts, .ci/debian-packages installs."""
    packages = (ROOT / ".ci/debian-packages").read_text()
    assert all(tool in packages for tool in ("wrk", "nginx-light", "strace"))
    assert shutil.which("taskset"), "util-linux, on every Debian"


H2LOAD = """\
starting benchmark...
Warm-up phase is over for all threads.
Main benchmark duration is started for thread #0.

finished in 2.00s, 1234.50 req/s, 7.32MB/s
requests: 2469 total, 2471 started, 2469 done, 2460 succeeded, 4 failed, 5 errored, 0 timeout
status codes: 2440 2xx, 10 3xx, 7 4xx, 3 5xx
"""


def test_the_figures_of_h2load_are_read():
    assert http2.read(H2LOAD) == (2460, 1234.5, 19)
    with pytest.raises(load.CannotLoad, match="no figures"):
        http2.read("protocol error")


def test_the_ramp_is_climbed_and_drawn(tmp_path):
    found = {"with preload": ramp.ramp(tmp_path, preload=True, busy=2)}
    assert found["with preload"][-1][1] == 2
    assert 0 < ramp.seconds_to(found["with preload"], 2) < ramp.GIVE_UP
    svg = ElementTree.fromstring(ramp.drawn(found))
    lines = [one.attrib["class"] for one in svg.iter("{http://www.w3.org/2000/svg}polyline")]
    assert lines == ["line0", "line0", "line1", "line1"]  # each with a sample in the legend
    assert ramp.seconds_to(ramp.apache(), 100) == 95.0


def test_a_crowd_comes_and_an_ordinary_client_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(crowd, "SETTLE", 0.0)
    server = servers.halfsync(tmp_path, "bench.apps:crowd")
    with compare.running([server], "/", b"Hello, world\n") as up:
        assert up == [server]
        figures, cells = crowd.measured(server, 1.0, set(), slow=3, idle=5, new=20)
    assert len(figures) == 3
    assert all(0 < figure < 60 for figure in figures)
    assert len(cells) == 5
    calm, busy = re.findall("halfsync: (.*)", capsys.readouterr().out)
    assert calm.startswith("0 idle;")
    assert re.match("5 idle; .*new: served [1-9]", busy)
    assert "ended" not in calm + busy


def test_an_open_loop_sends_whatever_becomes_of_it(tmp_path):
    """Ten times as many as the one thread can take: the queue holds two, and the others are refused."""
    options = ("--queue-limit", "2", "--queue-target", "0")
    server = servers.halfsync(tmp_path, "bench.apps:taking", threads=1, options=options)
    with compare.running([server], "/", b"Hello, world\n") as up:
        assert up == [server]
        with contextlib.closing(OpenLoop(server.port, "/?sleep=0.1")) as load:
            seen = load.run(100, 1.0, even=True)
        assert overload.capacity(server.port, "/?sleep=0.01", 2, 0.5) > 1
    assert 99 <= seen.sent <= 101
    assert not seen.others
    assert len(seen.served) + len(seen.refused) == seen.sent
    assert seen.served
    assert len(seen.refused) > 10
    assert seen.served == sorted(seen.served)
    assert seen.served[0] >= 0.1
    found = overload.Found(10.0, 0.1, seen)
    assert found.p95 >= found.median >= 1
    row = overload.cells(overload.ROWS[0], found)
    assert len(row) == 9
    assert all(row)
