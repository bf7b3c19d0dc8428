"""The status page's forms, of what there is in one moment."""

from __future__ import annotations

from typing import Any

from halfsync.pump.status.auto import auto
from halfsync.pump.status.html import _letters

MOMENT: dict[str, Any] = {
    "version": "1", "generation": 0, "uptime": 10.0, "requests": 5, "bytes_sent": 5000, "connections": {},
    "handlers": [],
}  # fmt: skip


def worker(letters: str, busy: int) -> dict[str, Any]:
    """With an event loop, whose letters end where there are too many."""
    tasks = [{"seconds": 1.0, "request": f"GET '/{number}'"} for number in range(busy)]
    return {"letters": letters, "busy": busy, "slots": [], "tasks": tasks}


def test_requests_that_have_no_letter_are_counted_all_the_same():
    workers = [worker("W" * 128 + "_", 1000), worker("GG.", 2), worker("___", 0)]
    lines = dict(line.split(": ", 1) for line in auto({**MOMENT, "workers": workers}).splitlines())
    assert lines["BusyWorkers"] == "1002"
    assert lines["GracefulWorkers"] == "2"
    assert lines["IdleWorkers"] == "4"


def test_the_page_says_how_many_have_no_letter():
    assert _letters(worker("W" * 128 + "_", 1128)).endswith(">_</b> and 1,000 more")
    assert "more" not in _letters(worker("WW_", 2))
