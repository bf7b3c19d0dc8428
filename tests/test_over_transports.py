"""`make transports`: one summary and one status, whatever happens over the first transport."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import over_transports
from tests.over_transports import left_out, main, summary

REPORT = """<testsuites><testsuite errors="{errors}" failures="{failures}" skipped="1" tests="7">
<testcase classname="tests.pump.test_x" name="test_fine"/>{more}</testsuite></testsuites>"""
FAILED = '<testcase classname="tests.pump.test_x" name="test_a[1]"><failure message="no"/></testcase>'


def test_what_is_left_out_exists():
    assert [path for path in left_out() if not path.exists()] == []
    assert len(left_out()) == len(set(left_out()))


def test_the_summary_counts_and_names_what_failed(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format(errors=0, failures=1, more=FAILED))
    assert summary(report) == ("7 tests, 1 skipped, 1 failed", ["tests.pump.test_x::test_a[1]"])


@pytest.mark.parametrize("text", [None, "<testsui"])
def test_a_run_that_ended_early_has_no_report(tmp_path, text):
    if text is not None:
        (tmp_path / "report.xml").write_text(text)
    assert summary(tmp_path / "report.xml") == ("no report", [])


@pytest.mark.parametrize(
    ("arguments", "statuses", "status", "over"),
    [
        ([], [0, 0, 0], 0, ["bytes", "records", "tls"]),
        ([], [1, 0, 0], 1, ["bytes", "records", "tls"]),
        ([], [0, 2, 0], 2, ["bytes", "records", "tls"]),
        (["records"], [1], 1, ["records"]),
        (["tls"], [0], 0, ["tls"]),
    ],
)
def test_each_transport_is_run_and_any_failure_is_the_status(
    monkeypatch, capsys, tmp_path, arguments, statuses: list[int], status, over
):
    runs: list[tuple[str, list[str]]] = []

    def run(name: str, more: list[str], _report: Path) -> int:
        runs.append((name, more))
        return statuses[len(runs) - 1]

    monkeypatch.setattr(over_transports, "run", run)
    monkeypatch.setattr(over_transports, "ROOT", tmp_path)
    assert main([*arguments, "--", "-n", "4"]) == status
    assert runs == [(name, ["-n", "4"]) for name in over]
    printed = capsys.readouterr().out.split()
    assert [word.rstrip(":") for word in printed if word.endswith(":")] == over
