"""Writes settings.md beside this file, from the settings themselves. A test checks that it is current."""

from __future__ import annotations

from pathlib import Path

from halfsync.commands.cli import in_words
from halfsync.plan.at_reload import NEEDS_RESTART
from halfsync.settings.rows import ROWS, Row
from halfsync.settings.table import SECTIONS
from halfsync.settings.toml_text import in_toml

PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
# Settings

<!-- written by docs/make_settings_page.py (make docs) from src/halfsync/settings/table/; do not edit -->

Each setting can be given in four places; the later ones win:

 1. its default
 2. the TOML file named with `-c FILE`: `workers = 4`
 3. the environment: `HALFSYNC_WORKERS=4`; commas separate the members of a list
 4. the command line: `--workers 4`

`halfsync --print-config` shows each value and where it came from. Sizes are in bytes and may end in K, M or G
(in TOML as `"64K"`), durations in seconds and may end in ms, s, min or h
(`"500 ms"`). An empty text means none. Changes in the file take effect at a
[reload](how-to/reload.md), except where an entry says that they need a restart. Routes and sites are
not settings: [sites and routes](reference/sites-and-routes.md). Where an entry says that a site or a route
may have its own, the nearest value counts: the route's, else its site's, else the one at the top.
"""


def page() -> str:
    """The whole text."""
    parts = [HEAD]
    for section in SECTIONS:
        parts.append(f"\n## {section}\n")
        parts += [entry(row) for row in ROWS if row.section == section]
    return "\n".join(parts)


def entry(row: Row) -> str:
    flags = ", ".join(f"`{flag}`" for flag in row.flags)
    if not row.metavar:
        flags += f", `--no-{row.flags[-1][2:]}`"
    variables = ", ".join(f"`{variable}`" for variable in reversed(row.environment))
    why = NEEDS_RESTART.get(row.name)
    restart = f" A change needs a restart: {why}." if why else ""
    where = PLACES[row.of_routes]
    return (
        f"### `{row.name}`\n\n{row.description}\n\n"
        f"Default {default(row)}; {row.expected}. Option {flags}; variable {variables}.{where}{restart}\n"
    )


PLACES = {
    "": "",
    "all": " A site or a route may have its own.",
    "applications": " A site, or the route of an application, may have its own.",
    "files": " A site, or the route of a folder or file, may have its own.",
}


def default(row: Row) -> str:
    if row.default is None:
        return "none"
    return f"`{in_words(row.default) if row.unit == 'bytes' else in_toml(row.default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
