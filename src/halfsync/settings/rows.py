"""What the fields of `Settings` say, in a form that help, docs and parsing can use."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from halfsync.settings.table import Settings

PREFIX = "HALFSYNC_"


class Row(msgspec.Struct, frozen=True, dict=True):
    """One setting."""

    name: str
    type: Any  # without Annotated
    default: Any
    meta: Meta
    words: tuple[str, ...] = ()  # that may stand in place of a number

    def _extra(self, key: str) -> str:
        return str((self.meta.extra or {})[key])

    @property
    def section(self) -> str:
        return self._extra("section")

    @property
    def unit(self) -> str:
        return self._extra("unit")

    @property
    def of_routes(self) -> str:
        """Which routes may have their own: "applications", "files", "folders" or "all"; "": none."""
        return self._extra("of_routes")

    @property
    def of_sites(self) -> bool:
        """Sites may have their own."""
        return bool((self.meta.extra or {})["of_sites"])

    @property
    def description(self) -> str:
        return self.meta.description or ""

    @property
    def metavar(self) -> str:
        """The word for the value in the help; "" for a switch."""
        if self.type is bool:
            return ""
        if self._extra("metavar"):
            return self._extra("metavar")
        return {"seconds": "SECONDS", "bytes": "BYTES"}.get(self.unit, "N")

    @property
    def flags(self) -> tuple[str, ...]:
        """The options of the command line: ("-w", "--workers")."""
        long = "--" + self.name.replace("_", "-")
        return (self._extra("short"), long) if self._extra("short") else (long,)

    @property
    def environment(self) -> tuple[str, ...]:
        """Environment variables, the one that wins last."""
        common = self._extra("env")
        return (common, PREFIX + self.name.upper()) if common else (PREFIX + self.name.upper(),)

    @cached_property
    def is_list(self) -> bool:
        return get_origin(self.type) is list

    @property
    def optional(self) -> bool:
        return type(None) in get_args(self.type)

    @property
    def may_be_table(self) -> bool:
        """Of texts, in a TOML file."""
        return any(get_origin(one) is dict for one in get_args(self.type))

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def expected(self) -> str:
        """What a value must be, as a phrase."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is bool:
            return "true or false"
        if self.is_list:
            return "a list of texts"
        if self.type not in (int, float):
            return "a text, or a table of patterns and texts" if self.may_be_table else "a text"
        number = ("a whole number" if self.type is int else "a number") + self._range()
        return " or ".join((number, *self.words))

    def _range(self) -> str:
        of = f" of {self.unit}" if self.unit else ""
        least, most = self.meta.ge, self.meta.le
        if least is not None and most is not None:
            return f"{of} from {least:g} to {most}"
        return f"{of}, {least:g} or more" if least is not None else of


def _rows() -> tuple[Row, ...]:
    hints = get_type_hints(Settings, include_extras=True)
    defaults = Settings()
    found = []
    for name in Settings.__struct_fields__:
        bare, meta = get_args(hints[name])
        words: tuple[str, ...] = ()
        if get_origin(get_args(bare)[0] if get_args(bare) else None) is Annotated:
            number, literal = get_args(bare)  # a number within bounds, or a word
            bare, bounds = get_args(number)
            meta = Meta(ge=bounds.ge, le=bounds.le, description=meta.description, extra=meta.extra)
            words = get_args(literal)
        found.append(Row(name, bare, getattr(defaults, name), meta, words))
    return tuple(found)


ROWS: tuple[Row, ...] = _rows()
BY_NAME: dict[str, Row] = {row.name: row for row in ROWS}
