"""On which line of a TOML file a key stands."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from halfsync.settings.toml_lines import key_lines

TEXT = '''
# workers = 1 [no]
workers = 3 # = [
bind = ["a]", # [b]
  'c = 4', """
d = 5
""", """"quoted"""", { e = 6, f = [7] },
]
a.b . "c d" = \'\'\'x = "
\'\'\'
date = 2020-01-01 10:00:00
"" = "\\"\\\\"

[routes]
"/x" = { app = "a:b", threads = 2,
  } #
'/y' = { a = { b = [ { c = 1 } ] } }
[ sites . "blog.example" ]
hosts = [
]
[sites."blog.example".routes."/"]
app = "\\u00e9"
[[many]]
one = true
[[many]]
two = -inf
'''.replace("threads = 2,\n  }", "threads = 2 }")

LINES = {
    ("workers",): "workers = 3",
    ("bind",): "bind",
    ("bind", "e"): '""", """"quoted',
    ("a", "b", "c d"): "a.b",
    ("date",): "date",
    ("",): '"" =',
    ("routes",): "[routes]",
    ("routes", "/x"): '"/x"',
    ("routes", "/x", "threads"): '"/x"',
    ("routes", "/y", "a", "b", "c"): "'/y'",
    ("sites", "blog.example"): "[ sites",
    ("sites", "blog.example", "hosts"): "hosts",
    ("sites", "blog.example", "routes", "/", "app"): "app =",
    ("many",): "[[many]]",
    ("many", "one"): "one",
    ("many", "two"): "two",
}


@pytest.mark.parametrize("path", LINES, ids=".".join)
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_where_a_key_stands(path, ending):
    text = TEXT.replace("\n", ending)
    line = key_lines(text)[path]
    assert text.split("\n")[line - 1].strip().startswith(LINES[path])


def paths(table: Any, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    if isinstance(table, list):
        return found.union(*(paths(one, above) for one in table))
    if isinstance(table, dict):
        for key, value in table.items():
            found |= {(*above, key)} | paths(value, (*above, key))
    return found


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # it ends within a value
        return False
    return True


BEGINNINGS = ["\n".join(TEXT.split("\n")[:cut]) for cut in range(1, TEXT.count("\n") + 1)]


@pytest.mark.parametrize("text", [text for text in BEGINNINGS if is_toml(text)])
def test_all_keys_are_found_and_nothing_else(text):
    assert set(key_lines(text)) == paths(tomllib.loads(text))
