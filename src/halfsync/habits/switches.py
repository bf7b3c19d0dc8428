"""Switches with a value on the command line: `--ws-per-message-deflate true`, as uvicorn has it."""

from __future__ import annotations

from collections.abc import Sequence

from halfsync.settings.rows import ROWS

_ON = frozenset(("true", "t", "1", "yes", "y", "on"))
_OFF = frozenset(("false", "f", "0", "no", "n", "off"))

_OURS = frozenset(row.flags[-1] for row in ROWS if row.type is bool)
_WITH_A_VALUE = frozenset(("--ws-per-message-deflate",))
"""Those to which uvicorn's users give it as a word of its own. For the others that may be a target."""


def without_values(arguments: Sequence[str]) -> list[str]:
    """The same words, with switches as ours are: `--name` or `--no-name`."""
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        flag, equals, value = word.partition("=")
        if flag in _OURS and equals and _is_bool(value):
            words.append(_switch(flag, value))
        elif word in _WITH_A_VALUE and rest and _is_bool(rest[0]):
            words.append(_switch(flag, rest.pop(0)))
        else:
            words.append(word)
    return words


def _is_bool(text: str) -> bool:
    return text.lower() in _ON or text.lower() in _OFF


def _switch(flag: str, value: str) -> str:
    return flag if value.lower() in _ON else "--no-" + flag[2:]
