"""How many workers there are: by the processors, and by the load."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from halfsync.parent.workers.pools import WorkerPool
from halfsync.parent.workers.scaling import SURPLUS, Scaling
from halfsync.plan.layout import target_of, work_out
from halfsync.plan.plan import Plan, PoolPlan, ScalePlan
from halfsync.settings.errors import SettingError
from halfsync.settings.sources import load
from halfsync.system import cores

# --- what the settings mean


def planned(**given: str) -> PoolPlan:
    return work_out(load(given, {}, None).settings, [target_of("app:app")]).pools[1]


@pytest.mark.parametrize(
    ("given", "processes", "scale"),
    [
        ({}, 1, None),
        ({"workers": "3"}, 3, None),
        ({"max_workers": "4"}, 1, ScalePlan(1, 4, 2, 18)),
        ({"workers": "3", "max_workers": "4", "threads": "1"}, 3, ScalePlan(3, 4, 2, 4)),
        ({"min_workers": "2", "max_workers": "4", "threads": "1"}, 2, ScalePlan(2, 4, 2, 4)),
        ({"workers": "3", "min_workers": "2", "max_workers": "4"}, 3, ScalePlan(2, 4, 2, 18)),
        ({"workers": "3", "min_workers": "2"}, 3, ScalePlan(2, 3, 2, 18)),
        ({"min_workers": "2"}, 2, None),
        ({"workers": "4", "max_workers": "4"}, 4, None),
        ({"max_workers": "9", "min_spare": "5", "max_spare": "6"}, 1, ScalePlan(1, 9, 5, 13)),
        ({"max_workers": "9", "min_spare": "5", "max_spare": "60"}, 1, ScalePlan(1, 9, 5, 60)),
    ],
)
def test_the_settings_of_a_pool(given, processes, scale):
    pool = planned(**given)
    assert (pool.processes, pool.scale) == (processes, scale)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": "5", "max_workers": "4"}, "'app:app': workers (5) is more than max_workers (4)."),
        (
            {"min_workers": "5", "max_workers": "4"},
            "'app:app': min_workers (5) is more than max_workers (4).",
        ),
    ],
)
def test_bounds_that_can_not_be(given, sentence):
    with pytest.raises(SettingError) as wrong:
        planned(**given)
    assert str(wrong.value) == f"Target {sentence}"


def test_auto_means_the_processors_that_there_are_for_us(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "usable", lambda: 6)
    assert planned(workers="auto").processes == 6
    assert planned(workers="Auto", max_workers="4").processes == 4
    file = tmp_path / "halfsync.toml"
    file.write_text('workers = "auto"\n[routes]\n"/" = { app = "a:b", workers = 2 }\n"/c" = "c:d"\n')
    found = load({}, {}, str(file))
    assert found.settings.workers == "auto"
    assert [one.processes for one in work_out(found.settings, found.targets).pools] == [1, 2, 6]


def test_a_word_that_is_not_auto():
    with pytest.raises(SettingError, match="must be a whole number from 1 to 1000 or auto, not 'max'"):
        load({"workers": "max"}, {}, None)


def test_a_folder_has_no_workers_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "halfsync.toml"
    file.write_text('[routes]\n"/" = { folder = ".", max_workers = 2 }\n')
    found = load({}, {}, str(file))
    with pytest.raises(SettingError, match="max_workers is for applications, not for files"):
        work_out(found.settings, found.targets)


# --- processors


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b": "150000 100000"}, 2),
        ({"a/b": "max 100000"}, 1 << 30),
        ({"a": "400000 100000", "a/b": "max 100000"}, 4),
        ({"a": "100000 100000", "a/b": "800000 100000"}, 1),
        ({"": "50000 100000"}, 1),
        ({}, 1 << 30),
        ({"a/b": "nonsense"}, 1 << 30),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, limits, expected):
    groups = tmp_path / "cgroup"
    groups.write_text("0::/a/b\n")
    mounted = tmp_path / "mounted"
    for where, text in limits.items():
        group(mounted / where, cpu__max=text)
    assert cores.quota(groups, mounted) == expected


@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 1 << 30)])
def test_the_quota_of_version_1(tmp_path, quota, expected):
    groups = tmp_path / "cgroup"
    groups.write_text("5:memory:/x\n4:cpu,cpuacct:/docker/1234\n")
    group(tmp_path / "cpu,cpuacct", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000\n")
    assert cores.quota(groups, tmp_path) == expected


def test_without_proc_there_is_no_quota(tmp_path):
    assert cores.quota(tmp_path / "missing", tmp_path) == 1 << 30


def test_the_set_of_processors_counts():
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        assert cores.usable() == 1
    finally:
        os.sched_setaffinity(0, everywhere)


# --- by the load


class Load:
    """A pool whose workers have `threads` threads each, and start within a report's time."""

    def __init__(self, plan: ScalePlan, threads: int, size: int) -> None:
        self.scaling = Scaling("app:app", plan, threads)
        self.threads = threads
        self.size = size
        self.now = 0.0
        self.sizes: list[int] = []

    def report(self, busy: int, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.5
            threads = self.size * self.threads
            self.scaling.note(max(0, threads - busy), max(0, busy - threads), self.threads)
            self.size = self.scaling.size(self.size, 0, self.now)
            self.sizes.append(self.size)


def test_it_grows_faster_and_faster_to_a_hundred(capfd):
    load = Load(ScalePlan(1, 200, 2, 4), 1, 1)
    load.report(98, 20)
    steps = [b - a for a, b in zip([1, *load.sizes], load.sizes, strict=False) if b != a]
    assert steps == [1, 2, 4, 8, 16, 32, 32, 4]
    assert load.size == 100
    log = capfd.readouterr().err
    assert "app:app: 4 worker processes had to be started" not in log
    assert "app:app: 8 worker processes had to be started in one second; a larger min_spare (2)" in log


def test_when_there_is_enough_it_begins_with_one_again():
    load = Load(ScalePlan(1, 200, 2, 100), 1, 1)
    load.report(13, 10)
    assert load.size == 15
    load.report(13, 4)
    load.report(30, 3)
    assert load.sizes[-3:] == [15, 16, 16]


def test_one_burst_is_no_reason_to_grow():
    load = Load(ScalePlan(1, 8, 2, 100), 4, 1)
    for _ in range(10):
        load.report(0)
        load.report(20)
    assert load.size == 1


def test_workers_that_are_being_started_count():
    """An import may take a minute; no more are started meanwhile than are missing."""
    scaling = Scaling("app:app", ScalePlan(1, 50, 2, 100), 2)
    size, now = 1, 0.0
    for _ in range(40):
        now += 0.5
        scaling.note(0, 6, 2)
        size = scaling.size(size, size - 1, now)
    assert size == 5  # 4 more: threads for 6 that wait, and 2 to spare


def test_it_shrinks_slowly_and_not_below_its_least():
    load = Load(ScalePlan(2, 9, 2, 4), 1, 9)
    load.report(0, int(SURPLUS / 0.5))
    assert load.size == 9
    load.report(0, 40)
    steps = [now - before for before, now in pairwise(load.sizes)]
    assert min(steps) == -1
    assert all(one == 0 or two == 0 for one, two in pairwise(steps))
    assert load.size == 4  # four are idle: not more than max_spare


def test_a_moment_of_work_starts_the_count_again():
    load = Load(ScalePlan(1, 9, 2, 4), 1, 9)
    for _ in range(6):
        load.report(0, int(SURPLUS / 0.5) - 1)
        load.report(6)
    assert load.size == 9


def test_at_its_most_it_says_so_once(capfd):
    load = Load(ScalePlan(1, 3, 2, 4), 1, 1)
    load.report(20, 30)
    assert load.size == 3
    assert capfd.readouterr().err.count("there are max_workers (3) already") == 1


def test_a_bound_that_was_moved_is_not_called_by_the_settings_number(capfd):
    load = Load(ScalePlan(1, 3, 2, 4), 1, 1)
    load.scaling.shift(-1)
    load.report(20, 30)
    assert load.size == 2
    said = "there are 2 (max_workers is 3; TTIN, TTOU or scale have moved it) already"
    assert capfd.readouterr().err.count(said) == 1


def test_workers_with_event_loops_have_as_many_places_as_the_pump_says():
    """The plan's threads are not theirs. Two that are half busy are not one too many."""
    load = Load(ScalePlan(1, 4, 2, 18), 1000, 1)
    load.scaling._threads = 8
    load.report(1500, 4)
    assert load.size == 2
    load.report(1500, 40)
    assert load.size == 2
    load.report(900, 20)
    assert load.size == 1


def test_without_a_report_nothing_changes():
    scaling = Scaling("app:app", ScalePlan(1, 9, 2, 4), 1)
    assert [scaling.size(5, 0, float(now)) for now in range(3)] == [5, 5, 5]
    scaling.note(0, 9, 1)
    scaling.note(0, 9, 1)
    assert scaling.size(5, 0, 10.0) == 6
    assert scaling.size(6, 0, 20.0) == 6


def test_ttin_and_ttou_move_the_bounds():
    plan = Plan(load({}, {}, None).settings, (), (PoolPlan("a", "a", 2, 1, ScalePlan(2, 3, 2, 4)),), ())
    pool = WorkerPool(0, plan, 2)
    for _ in range(3):
        pool.resize(+1)
    assert pool.scaling is not None
    assert (pool.current.size, pool.scaling.least, pool.scaling.most) == (5, 5, 6)
    for _ in range(9):
        pool.resize(-1)
    assert (pool.current.size, pool.scaling.least, pool.scaling.most) == (1, 1, 1)
