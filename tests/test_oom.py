"""Deaths for want of memory, in control groups that the tests write."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from halfsync.parent.workers import oom
from halfsync.parent.workers.oom import OOMKills
from tests.e2e.harness import kill, serving

V2 = "low 0\nhigh 3\nmax 7\noom 2\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


class Group:
    """The count, in one of the places where it may be."""

    def __init__(self, folder: Path, lines: str, file: str, text: str) -> None:
        self.groups, self.mounted = folder / "cgroup", folder / "mounted"
        self.groups.write_text(lines)
        self.file = self.mounted / file
        self.file.parent.mkdir(parents=True)
        self._text = text

    def count(self, number: int) -> None:
        self.file.write_text(self._text.format(number))

    def limit(self, name: str, text: str) -> None:
        (self.file.parent / name).write_text(text)


PLACES = {
    "version 2": ("0::/a/b\n", "a/b/memory.events", V2),
    "in a container": ("0::/../host/path\n", "memory.events", V2),
    "below, where it counts": ("0::/a/b/c\n", "a/memory.events", V2),
    "both versions": ("4:memory:/a\n0::/x\n", "memory/a/memory.oom_control", V1),
    "with others": ("9:cpu:/z\n4:cpuset,memory:/a\n", "memory/a/memory.oom_control", V1),
    "version 1, in a container": ("4:memory:/docker/x\n", "memory/memory.oom_control", V1),
}


@pytest.fixture(params=PLACES.values(), ids=list(PLACES))
def group(request, tmp_path, monkeypatch):
    made = Group(tmp_path, *request.param)
    monkeypatch.setattr(oom, "GROUPS", made.groups)
    monkeypatch.setattr(oom, "MOUNTED", made.mounted)
    made.count(3)
    return made


def test_a_count_that_has_grown_is_told_once(group):
    kills = OOMKills()
    assert kills.in_words() == ""
    group.count(4)
    assert kills.in_words() == " (out of memory: 1 new OOM kill in its control group, 4 in all)"
    assert kills.in_words() == ""
    group.count(6)
    group.limit("memory.max", "536870912\n")
    assert kills.in_words().endswith("2 new OOM kills in its control group, 6 in all, memory.max is 512 MiB)")


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", "", "x"])
def test_no_limit_is_not_told(group, text):
    group.limit("memory.max", text)
    group.limit("memory.limit_in_bytes", text)
    kills = OOMKills()
    group.count(4)
    assert "MiB" not in kills.in_words()


@pytest.mark.parametrize(
    "text", [None, "", "oom_kill_disable 0\nunder_oom 0\n", "oom_kill\n", "oom_kill x\n"]
)
def test_where_nothing_is_counted_nothing_is_told(tmp_path, monkeypatch, text):
    made = Group(tmp_path, "0::/a\n4:memory:/a\n", "a/memory.events", "")
    monkeypatch.setattr(oom, "GROUPS", made.groups)
    monkeypatch.setattr(oom, "MOUNTED", made.mounted)
    if text is not None:
        made.file.write_text(text)
    assert OOMKills().in_words() == ""
    made.groups.unlink()
    assert OOMKills().in_words() == ""


WITH_GROUP = """
import runpy, sys
from pathlib import Path
folder = sys.argv[1]
del sys.argv[:4]  # and what starts it as a program of its own
from halfsync.parent.workers import oom
oom.GROUPS, oom.MOUNTED = Path(folder, "cgroup"), Path(folder, "mounted")
runpy.run_module("halfsync", run_name="__main__", alter_sys=True)
"""


def test_a_death_names_the_signal_the_counts_and_the_requests_in_flight(tmp_path, monkeypatch):
    monkeypatch.delenv("HALFSYNC_TEST_TRANSPORT", raising=False)
    group = Group(tmp_path, "0::/a\n", "a/memory.events", V2)
    group.count(0)
    group.limit("memory.max", "536870912\n")
    through = (sys.executable, "-c", WITH_GROUP, str(tmp_path))
    with serving(tmp_path, "story:app", "-w", "1", through=through) as server:
        for signals in (signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL):
            [worker] = server.until(lambda: server.workers("story:app"))
            (tmp_path / "here-one").unlink(missing_ok=True)
            with server.client() as client:
                client.send(b"POST /hang?as=one&file=never HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                server.until((tmp_path / "here-one").exists)
                if signals is signal.SIGSEGV:
                    os.kill(worker, signals)
                    server.until_gone([worker])
                else:
                    group.count(1 + len(re.findall("out of memory", server.log())))
                    kill(worker)
                assert client.answer().status == 502
            server.until_logged(rf"\[{worker}\] was killed by {signals.name}.*Another starts")
            server.until_logged(rf"worker {worker} of story:app is gone; requests in flight")
        log = server.log()
    why = r"out of memory: 1 new OOM kill in its control group, 1 in all, memory\.max is 512 MiB"
    assert re.search(rf"worker\(story:app\) \[\d+\] was killed by SIGKILL \({why}\)\. Another starts", log)
    assert re.search(r"was killed by SIGSEGV( and dumped core)?\. Another starts", log)
    assert "1 new OOM kill in its control group, 2 in all" in log
    assert log.count("requests in flight: POST '/hang?as=one&file=never' from 127.0.0.1 (begun: 502)") == 3


def test_the_score_is_a_part_of_what_the_group_may_have(group):
    assert 1 <= oom.score_of(1) <= oom.score_of(oom.LARGER) <= oom.MOST_SCORE
    for name in ("memory.max", "memory.limit_in_bytes"):
        group.limit(name, str(1 << 62) if name == "memory.limit_in_bytes" else "max")
    unlimited = oom.score_of(1 << 20)
    group.limit("memory.max", str(100 << 20))
    assert oom.score_of(1 << 20) == 10 >= unlimited
    assert oom.score_of(oom.LARGER) == oom.MOST_SCORE
    group.limit("memory.max", "0")
    assert oom.score_of(oom.LARGER) == oom.MOST_SCORE


@pytest.mark.parametrize(("before", "after"), [("0", "30"), ("-500\n", "-470"), ("990", "1000"), ("x", "x")])
def test_a_process_asks_to_be_killed_sooner(tmp_path, monkeypatch, before, after):
    monkeypatch.setattr(oom, "SCORE", tmp_path / "score")
    oom.be_killed_sooner(30)  # where there is no such file
    oom.SCORE.write_text(before)
    oom.be_killed_sooner(30)
    assert oom.SCORE.read_text() == after
