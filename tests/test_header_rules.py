"""What `headers` changes in a response's field lines."""

from __future__ import annotations

import pytest

from halfsync.http.header_rules import HeaderRule, HeaderRules, nearest
from halfsync.settings.errors import Mistakes
from halfsync.settings.headers import header_rules, in_table
from halfsync.settings.places import Place

SET = HeaderRule("X-A", ("new",))
ADD = HeaderRule("X-A", ("one", "two"), keeps=True)
REMOVE = HeaderRule("x-a")


@pytest.mark.parametrize(
    ("rules", "before", "after"),
    [
        ([SET], "", "X-A: new\r\n"),
        ([SET], "x-a: old\r\nB: c\r\nX-A: older\r\n", "B: c\r\nX-A: new\r\n"),
        ([ADD], "X-A: old\r\n", "X-A: old\r\nX-A: one\r\nX-A: two\r\n"),
        ([REMOVE], "X-A: old\r\nX-AB: c\r\n", "X-AB: c\r\n"),
        ([HeaderRule("B", ("",)), REMOVE], "X-A: old\r\n", "B: \r\n"),
        ([], "X-A: old\r\n", "X-A: old\r\n"),
    ],
)
def test_what_becomes_of_field_lines(rules, before, after):
    changed = HeaderRules(rules)
    for _ in range(2):
        assert changed.apply(before.encode()) == after.encode()


def test_what_is_remembered_is_bounded():
    rules = HeaderRules([SET])
    for number in range(2000):
        rules.apply(b"B: %d\r\n" % number)
    assert len(rules._known) <= 512


def test_the_nearest_rule_for_a_name_counts():
    other = HeaderRule("Other", ("b",))
    assert nearest([SET, other], [REMOVE], ()) == (REMOVE, other)


def test_a_table_and_back():
    table = {"set": {"A": "b"}, "add": {"C": ["d", "e"], "F": "g"}, "remove": ["H"]}
    assert in_table(header_rules(table, Place("here", {}, Mistakes()))) == table
