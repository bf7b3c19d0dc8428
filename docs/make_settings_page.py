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
[reload](how-to/reload.md), except where an entry says that they need a restart.

In the TOML file a setting stands at the top, and many may also stand in the table of a site or of a route, as
each entry says. The nearest value counts: the route's, else its site's, else the one at the top; one in the
environment or on the command line takes the place of the one at the top. `hosts`, `routes`, `headers` and
`error_pages` are not settings but parts of these tables: [sites and routes](reference/sites-and-routes.md).
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
    return (
        f"### `{row.name}`\n\n{row.description}\n\n"
        f"Default {default(row)}; {row.expected}. Option {flags}; variable {variables}. "
        f"May stand {PLACES[row.of_routes] if row.of_sites else 'only at the top'}.{restart}\n"
    )


PLACES = {
    "": "at the top or in a site",
    "all": "at the top, in a site, or in a route",
    "applications": "at the top, in a site, or in the route of an application",
    "files": "at the top, in a site, or in the route of a folder or file",
    "folders": "at the top, in a site, or in the route of a folder",
}
"""In the file, by `of_routes` of those that sites may have."""


def default(row: Row) -> str:
    if row.default is None:
        return "none"
    return f"`{in_words(row.default) if row.unit == 'bytes' else in_toml(row.default)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
