"""What a parsed command line holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halfsync.settings.rows import BY_NAME

Parsed = Mapping[str, Any]
"""Options by name, and `targets` and `config`, as click gives them."""


def own_settings(options: Parsed) -> list[str]:
    """The settings that were given with options of ours."""
    return [name for name, value in options.items() if name in BY_NAME and value not in (None, ())]
