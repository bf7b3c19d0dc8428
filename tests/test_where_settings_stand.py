"""Where docs/settings.md says that a setting may stand, there it is accepted, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from halfsync.plan.layout import work_out
from halfsync.settings.errors import SettingError
from halfsync.settings.rows import BY_NAME, Row
from halfsync.settings.sources import Loaded, load
from halfsync.settings.toml_text import in_toml

PAGE = (Path(__file__).parents[1] / "docs/settings.md").read_text("utf-8")
SAID = dict(re.findall(r"^### `(\w+)`\n\n.*\n\n.* May stand ([^.]+)\.", PAGE, re.MULTILINE))

APPLICATION = {"the route of an application": 'app = "app:app"'}
FOLDER = {"the route of a folder": 'folder = "./public"'}
FILE = {"the route of a file": 'file = "./public/index.html"'}
OTHERS = {
    "a redirect": 'redirect = "/elsewhere"',
    "a text": 'respond = "pong"',
    "an error": "status = 404",
    "the status page": "status_page = true",
}
ROUTES = {**APPLICATION, **FOLDER, **FILE, **OTHERS}
"""What a route's table has, by what is said of it below."""

MEANS = {
    "only at the top": {"the top"},
    "at the top or in a site": {"the top", "a site"},
    "at the top, in a site, or in a route": {"the top", "a site", *ROUTES},
    "at the top, in a site, or in the route of an application": {"the top", "a site", *APPLICATION},
    "at the top, in a site, or in the route of a folder or file": {"the top", "a site", *FOLDER, *FILE},
    "at the top, in a site, or in the route of a folder": {"the top", "a site", *FOLDER},
}

TEXTS: dict[str, Any] = {
    "allow": ["10.0.0.0/8"],
    "alt_svc": 'h3=":443"',
    "bind": ["127.0.0.1:9000"],
    "control_socket_mode": "660",
    "deny": ["10.0.0.0/8"],
    "env": ["A=b"],
    "fallback": "index.html",
    "hsts": "max-age=300",
    "root_path": "/shop",
    "umask": "027",
    "unix_mode": "660",
    "upgrade_probe": ["/healthz"],
}
"""Values of those that don't take just any text."""


def another_value(row: Row) -> Any:
    """Not the default."""
    if row.type is bool:
        return not row.default
    if row.choices:
        return next(one for one in row.choices if one != row.default)
    if row.type in (int, float):
        if row.default in row.words:
            return 3
        return row.default + (1 if row.meta.le is None or row.default < row.meta.le else -1)
    return TEXTS.get(row.name, ["x"] if row.is_list else "x")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "public").mkdir()
    (tmp_path / "public/index.html").write_text("here\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def accepted(text: str) -> Loaded | None:
    Path("halfsync.toml").write_text(text)
    try:
        loaded = load({}, {}, "halfsync.toml")
        work_out(loaded.settings, loaded.targets, loaded.sites)
    except SettingError:
        return None
    return loaded


def test_each_entry_of_the_page_says_where_it_may_stand():
    assert SAID.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", BY_NAME)
def test_it_is_accepted_there_and_nowhere_else(folder, name):
    value = another_value(BY_NAME[name])
    line = f"{name} = {in_toml(value)}"
    served = '"/" = "app:app"\n"/files" = "./public"'
    found = set()
    if loaded := accepted(f"{line}\n[routes]\n{served}\n"):
        assert getattr(loaded.settings, name) == value
        found.add("the top")
    if loaded := accepted(f"[sites.a]\n{line}\n[sites.a.routes]\n{served}\n"):
        [site] = loaded.sites
        assert {**site.own, **site.tls, "bind": list(site.bind)}[name] == value
        found.add("a site")
    for kind, does in ROUTES.items():
        if loaded := accepted(f'[routes]\n"/x" = {{ {does}, {line} }}\n'):
            [target] = loaded.targets
            assert target.own[name] == value
            found.add(kind)
    assert found == MEANS[SAID[name]]
