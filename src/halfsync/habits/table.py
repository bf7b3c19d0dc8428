"""All rows together."""

from __future__ import annotations

from halfsync.habits import gunicorn_rows, other_rows

TABLE = (*gunicorn_rows.ROWS, *other_rows.ROWS)

BY_GUNICORN_NAME = {row.name: row for row in TABLE if row.name}

OTHER_NAMES = {name: row.setting for name, row in BY_GUNICORN_NAME.items() if row.setting not in ("", name)}
"""What gunicorn calls settings that have another name here."""
