"""`make walk`: what docs/walk.txt says of a request's way through the code is what requests enter."""

from __future__ import annotations

import re

from bench.walk import GOAL, RESULT, Steps, common, listing, walk


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


def test_the_stored_lists_are_those_of_a_fresh_walk():
    """A busy machine may add steps, such as a look at a handler that has been slow, or have two events in one
    turn, which saves some. So where a walk differs, there are two more, and what they all enter has to be
    stored, and what is stored has to be entered by one of them."""
    stored = unordered(RESULT.read_text("utf-8"))
    fresh = [unordered(listing(walk()))]
    if fresh[0] != stored:
        fresh += [unordered(listing(walk())) for _ in range(2)]
    where = {place for one in fresh for place in one} | stored.keys()
    for place in where:
        walks = [one.get(place, set()) for one in fresh]
        assert set.intersection(*walks) <= stored.get(place, set()) <= set.union(*walks), (
            f"{place}: make walk docs, and commit"
        )


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
