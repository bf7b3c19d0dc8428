"""Every setting once: name, type, default, unit, reason, and where it may be set.

`Settings` is the only list. It is written in parts, a module for each section or two, of which every one
is built on the one before, because a msgspec structure has a single base. The command line's options and
help, the TOML keys, the environment variables, `--print-config` and docs/settings.md all grow from its
fields; nothing repeats a name or a default.

The modules do without `from __future__ import annotations`: what is a type here would be a text then, and be
compiled twice at each start, by those who read the fields (rows.py, msgspec).
"""

from __future__ import annotations

from halfsync.settings.table.about import GIB, KIB, MIB, SECTIONS
from halfsync.settings.table.development import Development

__all__ = ["GIB", "KIB", "MIB", "SECTIONS", "Settings"]


class Settings(Development, frozen=True, kw_only=True):
    """All settings, checked. Durations are in seconds, sizes in bytes."""
