"""Writes the tables of other servers' options in how-to/coming-from.md, from halfsync.habits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from halfsync.habits import gunicorn_rows, other_rows
from halfsync.habits.rows import HYPERCORN, UVICORN, WAITRESS, Effect, Foreign

PAGE = Path(__file__).resolve().parent / "how-to/coming-from.md"

NAMES = {UVICORN: "uvicorn", WAITRESS: "waitress", HYPERCORN: "hypercorn"}
WHAT = {Effect.NOTHING: "accepted, no effect", Effect.REFUSED: "refused", Effect.HOOK: "not called"}


def page(text: str) -> str:
    """The page with its tables as they should be."""
    text = _between(text, "gunicorn", gunicorn_table(gunicorn_rows.ROWS))
    return _between(text, "others", other_table(other_rows.ROWS))


def gunicorn_table(rows: Sequence[Foreign]) -> str:
    lines = ["| gunicorn | in its file | halfsync | |", "| --- | --- | --- | --- |"]
    lines += [f"| {_flags(row)} | `{row.name}` | {_here(row)} | {row.sentence} |" for row in rows]
    return "\n".join(lines)


def other_table(rows: Sequence[Foreign]) -> str:
    lines = ["| option | of | halfsync | |", "| --- | --- | --- | --- |"]
    lines += [f"| {_flags(row)} | {NAMES[row.server]} | {_here(row)} | {row.sentence} |" for row in rows]
    return "\n".join(lines)


def _flags(row: Foreign) -> str:
    return ", ".join(f"`{flag}`" for flag in row.flags)


def _here(row: Foreign) -> str:
    if row.does is not Effect.MEANS:
        return WHAT[row.does]
    if not row.setting:
        return "`app:create_app()`" if row.means == "()" else "the same" if row.flags else "a target"
    return f"`{row.setting}`"


def _between(text: str, mark: str, table: str) -> str:
    begin, end = f"<!-- {mark}: from halfsync.habits (make docs) -->", f"<!-- end of {mark} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    assert pattern.search(text), f"no {begin}"
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
