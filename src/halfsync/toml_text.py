"""Values as the TOML file would have them."""

from __future__ import annotations

import json
from typing import Any

from halfsync.settings.targets import OWN_OF_ROUTES, Target


def in_toml(value: Any) -> str:
    """A value as the TOML file would have it; "" for none, which the file understands."""
    if value is None:
        return '""'
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {in_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return json.dumps(value, ensure_ascii=False)


def target_in_toml(target: Target) -> str:
    own = {name: getattr(target, name) for name in OWN_OF_ROUTES}
    own = {name: value for name, value in own.items() if value is not None}
    return in_toml({"target": target.target, **own} if own else target.target)
