"""`halfsync convert gunicorn.conf.py`: the same as TOML, and what has no counterpart as comments."""

from __future__ import annotations

import textwrap

from halfsync.habits import gunicorn
from halfsync.settings.rows import BY_NAME
from halfsync.settings.sources import Layer, load
from halfsync.settings.toml_text import in_toml

USAGE = "Usage: halfsync convert gunicorn.conf.py > halfsync.toml"


def converted(path: str) -> str:
    """The text of a halfsync.toml. Raises SettingError if the file can't be read or a value means nothing."""
    found = gunicorn.read(path)
    given = {**found.understood.implied, **found.understood.given}
    settings = load({}, {}, None, (Layer(path, given, found.understood.spelled),)).settings
    lines = [f"# Made from {path} by halfsync convert.", ""]
    lines += [f"{name} = {in_toml(getattr(settings, name))}" for name in BY_NAME if name in given]
    without = [_after(path, sentence) for sentence in (*found.refused, *found.understood.notes)]
    if without:
        lines += ["", "# What follows has no counterpart.", "#"]
    for sentence in without:
        lines += textwrap.wrap(sentence, 100, initial_indent="#  - ", subsequent_indent="#    ")
    target = found.target or "module:app"
    lines += ["", "[routes]", f'{"" if found.target else "# "}"/" = {in_toml(target)}']
    return "\n".join(lines) + "\n"


def _after(path: str, sentence: str) -> str:
    return sentence.removeprefix(f"{path}: ")
