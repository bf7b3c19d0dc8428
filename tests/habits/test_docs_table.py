"""The page about coming from gunicorn knows each of gunicorn's settings."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from halfsync.habits.gunicorn_rows import HOOKS
from halfsync.habits.rows import Effect
from halfsync.habits.table import BY_GUNICORN_NAME, TABLE
from halfsync.settings.rows import BY_NAME

KNOWN = Path(__file__).with_name("gunicorn_settings.txt").read_text().split()
PAGE = Path(__file__).parents[2] / "docs/how-to/coming-from.md"


def test_each_of_gunicorns_settings_is_in_the_table_and_no_other():
    assert sorted(BY_GUNICORN_NAME) == KNOWN


@pytest.mark.parametrize("name", KNOWN)
def test_each_is_on_the_page_with_what_to_do(name):
    row = BY_GUNICORN_NAME[name]
    rows = [line for line in PAGE.read_text().splitlines() if line.count("|") == 5]
    line = next(line for line in rows if line.split("|")[2].strip() == f"`{name}`")
    for flag in row.flags:
        assert f"`{flag}`" in line
    assert row.sentence in line
    assert row.setting in line
    assert row.setting in BY_NAME or row.sentence
    assert (name in HOOKS) == (row.does is Effect.HOOK)


def test_the_others_are_on_the_page():
    text = PAGE.read_text()
    for row in TABLE:
        for flag in row.flags:
            assert f"`{flag}`" in text, flag


@pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not installed")
def test_the_list_is_gunicorns_own():
    """Of the version that is installed: a newer one may have more, and those need a row."""
    settings = importlib.import_module("gunicorn.config").make_settings()
    assert sorted(settings) == KNOWN
    for name, setting in settings.items():
        assert set(setting.cli or []) <= set(BY_GUNICORN_NAME[name].flags), name
