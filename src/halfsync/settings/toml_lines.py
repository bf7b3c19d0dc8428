"""On which line of a TOML file each key stands, which Python's own parser does not tell.

The text is one that `tomllib` has taken, so nothing is checked here: the scanner only has to tell keys from
values, and strings from what looks like more of the file.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str, ...]

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?!"(?!""))"{0,2}|\'\'\'.*?\'\'\'(?!\'(?!\'\'))\'{0,2}|"(?:\\.|[^"\\])*"|\'[^\']*\'',
    re.DOTALL,
)
_OTHER_VALUE = re.compile(r"[^,\]}\n#]*")


def key_lines(text: str) -> dict[Path, int]:
    """The line of each key, by its path from the top: ("routes", "/static", "lease") -> 12."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: dict[Path, int] = {}
        self._counted = 0  # up to here
        self._line = 1

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_space() < len(self._text):
            if self._text[self._at] == "[":
                brackets = 2 if self._text.startswith("[[", self._at) else 1
                self._at += brackets
                table = self._key(())
                self._skip_space()
                self._at += brackets
            else:
                self._pair(table)
        return self._found

    def _skip_space(self) -> int:
        self._at = self._match(_SPACE)
        return self._at

    def _match(self, pattern: re.Pattern[str]) -> int:
        """Where it ends."""
        found = pattern.match(self._text, self._at)
        return self._at if found is None else found.end()

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._at += 1  # the equals sign
        self._value(path)

    def _key(self, table: Path) -> Path:
        """A dotted one, and what is behind it up to the next sign."""
        path = table
        while True:
            self._skip_space()
            end = self._match(_STRING if self._text[self._at] in "\"'" else _BARE)
            name = self._text[self._at : end]
            path = (*path, _unquoted(name))
            self._found.setdefault(path, self._line_here())
            self._at = max(end, self._at + 1)
            self._skip_space()
            if self._text[self._at : self._at + 1] != ".":
                return path
            self._at += 1

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _value(self, path: Path) -> None:
        self._skip_space()
        sign = self._text[self._at : self._at + 1]
        if sign in ("[", "{"):
            self._at += 1
            while self._skip_space() < len(self._text) and self._text[self._at] not in "]}":
                if self._text[self._at] == ",":
                    self._at += 1
                elif sign == "{":
                    self._pair(path)
                else:
                    self._value(path)
            self._at += 1
        elif sign and sign in "\"'":
            self._at = self._match(_STRING)
        else:
            self._at = max(self._match(_OTHER_VALUE), self._at)


def _unquoted(name: str) -> str:
    if name[:1] not in ("'", '"'):
        return name
    found: str = tomllib.loads(f"name = {name}")["name"]
    return found
