"""All rows together."""

from __future__ import annotations

from halfsync.habits import gunicorn_rows, other_rows
from halfsync.settings import BY_NAME

TABLE = tuple(
    row for row in (*gunicorn_rows.ROWS, *other_rows.ROWS) if not row.setting or row.setting in BY_NAME
)

BY_GUNICORN_NAME = {row.name: row for row in TABLE if row.name}
