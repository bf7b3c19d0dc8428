"""Sizes, durations, and values as texts and as TOML has them: checked against the row of their setting.

Whatever is wrong raises `SettingError`: one sentence that names the setting, for the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from halfsync.settings.errors import SettingError
from halfsync.settings.rows import Row
from halfsync.settings.table import GIB, KIB, MIB

_SIZES = {"": 1, "b": 1}
_SIZES |= {
    f"{letter}{more}": size
    for letter, size in (("k", KIB), ("m", MIB), ("g", GIB))
    for more in ("", "b", "ib")
}
_DURATIONS = {"": 1.0, "s": 1.0, "ms": 0.001, "min": 60.0, "h": 3600.0}
_SUFFIXES: dict[str, Mapping[str, float]] = {"bytes": _SIZES, "seconds": _DURATIONS}
"""By the setting's unit: what may stand behind a number."""
_SWITCH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def from_text(row: Row, text: str, where: str) -> Any:
    """The value that `text`, from the environment or the command line, means."""
    if (word := text.strip().lower()) in row.words:
        return word
    if row.type is bool:
        value: Any = _SWITCH.get(word, text)
    elif row.is_list:
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif row.type in (int, float):
        value = _number(row, text)
    elif row.optional and not text:
        value = None
    elif row.choices:
        value = text.strip().lower()
    else:
        value = text
    return checked(row, value, where)


def from_toml(row: Row, value: Any, where: str) -> Any:
    """The value that a TOML value means: a lone text may stand for a list of one, "64K" for a size,
    "30 s" for a duration, and "" for none, which TOML has no word for."""
    if row.optional and value == "":
        value = None
    if value in row.words:
        return value
    if row.is_list and isinstance(value, str):
        value = [value]
    if row.unit in _SUFFIXES and isinstance(value, str):
        value = _number(row, value)
    return checked(row, value, where)


def checked(row: Row, value: Any, where: str) -> Any:
    """The value, if it has the setting's type and is within its bounds; else SettingError."""
    if isinstance(value, bool) and row.type is not bool:
        raise SettingError(_refusal(row, value, where))
    try:
        bounded = Annotated[row.type, row.meta] if row.type in (int, float) else row.type
        found = msgspec.convert(value, bounded)
    except msgspec.ValidationError:
        raise SettingError(_refusal(row, value, where)) from None
    if found == float("inf") or found != found or _has_nul(found):
        raise SettingError(_refusal(row, value, where))
    return found


def _has_nul(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and "\0" in text for text in texts)


def _refusal(row: Row, value: Any, where: str) -> str:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{where} must be {row.expected}, not {shown}."


def _number(row: Row, text: str) -> Any:
    """The number in `text`, with what may stand behind it by the setting's unit ("64 KiB", "30 s"); `text`
    itself if there is none."""
    found = _NUMBER.fullmatch(text.strip())
    factor = _SUFFIXES.get(row.unit, {"": 1}).get(found["suffix"].lower()) if found else None
    if found is None or factor is None:
        return text
    try:
        return (int(found["digits"]) if row.type is int else float(found["digits"])) * factor
    except ValueError:
        return text


_NUMBER = re.compile(r"(?P<digits>[+-]?(?:inf|nan|[0-9._]+)) ?(?P<suffix>[a-z]*)", re.IGNORECASE)


def octal(name: str, text: str) -> int:
    """The permission bits that an octal text such as "660" or "0o027" means. Raises SettingError."""
    digits = text.strip().lower().removeprefix("0o")
    if not re.fullmatch(r"0*[0-7]{1,3}", digits):
        raise SettingError(f"{name} must be an octal number from 0 to 777, such as 027, not {text!r}.")
    return int(digits, 8)
