"""`make walk`: what docs/walk.txt says of a request's way through the code is what requests enter."""

from __future__ import annotations

import re

from bench.walk import GOAL, RESULT, Run, Steps, common, listing, recorded, walk


def unordered(text: str) -> dict[str, set[str]]:
    """ "kind, process, file" -> functions. Their order may differ by what came first in a turn."""
    found: dict[str, set[str]] = {}
    kind = process = file = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            kind = line.partition(":")[0]
        elif line.startswith("  in the "):
            process = line.split()[-1]
        elif line:
            if not line.startswith(" " * 8):
                file, _, line = line.strip().partition(": ")
            found.setdefault(f"{kind}, {process}, {file}", set()).update(re.findall(r"[^\s,]+", line))
    return found


def by_any(runs: dict[str, list[Run]]) -> dict[str, set[str]]:
    """The same of what at least one request has entered."""
    found: dict[str, set[str]] = {}
    for kind, of_one_kind in runs.items():
        for run in of_one_kind:
            for process, steps in run.items():
                for file, function in steps:
                    found.setdefault(f"{kind}, {process}, {file}", set()).add(function)
    return found


def differences(stored: dict[str, set[str]], runs: dict[str, list[Run]]) -> list[str]:
    """Where what all requests have entered is not stored, or no request has entered what is stored."""
    always, once = unordered(listing(walk(runs))), by_any(runs)
    return [
        place
        for place in always.keys() | stored.keys()
        if not always.get(place, set()) <= stored.get(place, set()) <= once.get(place, set())
    ]


def test_the_stored_lists_are_those_of_a_fresh_walk():
    """A busy machine may add steps, such as a look at a handler that has been slow, or have two events in one
    turn, which saves some. So where a walk differs, more are taken, and all requests are judged together."""
    stored = unordered(RESULT.read_text("utf-8"))
    runs = recorded()
    if unordered(listing(walk(runs))) == stored:
        return
    for _ in range(4):
        for kind, more in recorded().items():
            runs[kind] += more
        if not differences(stored, runs):
            return
    assert not differences(stored, runs), "make walk docs, and commit"


def test_a_step_that_is_missing_or_new_is_a_difference():
    some: dict[str, list[Run]] = {
        "A GET": [{"pump": [("a.py", "x"), ("a.py", "y")]}, {"pump": [("a.py", "x")]}]
    }
    place = "A GET, pump, a.py"
    assert differences({place: {"x"}}, some) == []
    assert differences({place: {"x", "y"}}, some) == []  # one of them was quicker
    assert differences({place: {"y"}}, some) == [place]  # all enter x
    assert differences({place: {"x", "z"}}, some) == [place]  # none enters z
    assert differences({}, some) == [place]


def test_a_small_wsgi_request_is_followed_through_few_files():
    files = re.search(r"^A small WSGI GET: (\d+) files$", RESULT.read_text("utf-8"), re.MULTILINE)
    assert files is not None
    assert int(files[1]) <= GOAL


def test_a_function_counts_if_every_run_entered_it():
    first: dict[str, Steps] = {
        "pump": [("a.py", "x"), ("b.py", "y"), ("a.py", "z")],
        "parent": [("p.py", "p")],
    }
    second: dict[str, Steps] = {"pump": [("a.py", "z"), ("a.py", "x")], "worker": [("w.py", "w")]}
    assert common([first, second]) == {"pump": [("a.py", "x"), ("a.py", "z")]}


def test_a_long_list_is_wrapped_and_read_again():
    many: Steps = [("a.py", f"function_number_{number}") for number in range(40)]
    text = listing({"A request": {"pump": many}})
    assert text.startswith("A request: 1 files\n  in the pump\n    a.py: function_number_0, ")
    assert max(map(len, text.splitlines())) <= 118
    assert unordered(text) == {"A request, pump, a.py": {function for _, function in many}}
