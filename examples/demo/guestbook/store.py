"""The notes, in SQLite: one connection for each request, opened at the first use."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from flask import Flask, current_app, g

SCHEMA = """
CREATE TABLE IF NOT EXISTS note (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    written TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M', 'now'))
);
"""

FIRST_NOTES = (
    (
        "The harbour master",
        "Welcome ashore. Sign the book, then try to sink the server: the front page says how.",
    ),
    ("A slow client", "I took an hour over one download and held nobody up. Splendid service."),
    ("Robert'); DROP TABLE note;--", "Tried my name in the form. <b>Nothing</b> happened. Disappointed."),
)


def prepare(path: Path) -> None:
    """Make the database if there is none, with a few notes in it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        (count,) = connection.execute("SELECT count(*) FROM note").fetchone()
        if count == 0:
            connection.executemany("INSERT INTO note (name, text) VALUES (?, ?)", FIRST_NOTES)


def add(name: str, text: str) -> None:
    with _connection() as connection:
        connection.execute("INSERT INTO note (name, text) VALUES (?, ?)", (name, text))


def search(words: str, limit: int = 50) -> list[sqlite3.Row]:
    """The newest notes that have `words` in name or text; all of them if it is empty."""
    escaped = words.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return (
        _connection()
        .execute(
            r"SELECT name, text, written FROM note WHERE name || ' ' || text LIKE ? ESCAPE '\' "
            "ORDER BY id DESC LIMIT ?",
            (f"%{escaped}%", limit),
        )
        .fetchall()
    )


def init_app(app: Flask) -> None:
    app.teardown_appcontext(_close)


def _connection() -> sqlite3.Connection:
    if "database" not in g:
        g.database = sqlite3.connect(current_app.config["DATABASE"], timeout=10)
        g.database.row_factory = sqlite3.Row
    connection: sqlite3.Connection = g.database
    return connection


def _close(_error: BaseException | None) -> None:
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()
