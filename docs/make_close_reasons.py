"""Writes docs/reference/close-reasons.md from the table in halfsync.wire.closes."""

from __future__ import annotations

from pathlib import Path

from halfsync.wire.closes import CloseReason

PAGE = Path(__file__).resolve().parent / "reference/close-reasons.md"

HEAD = """\
# Close reasons

<!-- written by docs/make_close_reasons.py (make docs); do not edit -->

Why a connection was closed, or a response on it ended. The word is what the access log shows for
`%{ending}x`, and the label of `halfsync_connections_closed_total`.

| reason | what happened | an error |
| --- | --- | --- |
"""


def page() -> str:
    rows = [
        f"| `{reason.name.lower()}` | {reason.text} | {'yes' if reason.is_error else ''} |\n"
        for reason in CloseReason
    ]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
