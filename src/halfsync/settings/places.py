"""Where in a file something is said, for sentences about it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from halfsync.settings.errors import Mistakes
from halfsync.settings.toml_lines import Path


class Place:
    """A table in a file; `str()` is "halfsync.toml:12: routes.'/x'". What is wrong there is noted in
    `mistakes`."""

    def __init__(
        self, file: str, lines: dict[Path, int], mistakes: Mistakes, path: Path = (), text: str = ""
    ) -> None:
        self._file = file
        self._lines = lines
        self._mistakes = mistakes
        self._path = path
        self._text = text

    def __str__(self) -> str:
        path = self._path
        while path and path not in self._lines:
            path = path[:-1]
        where = f"{self._file}:{self._lines[path]}" if path else self._file
        return f"{where}: {self._text}" if self._text else where

    def at(self, key: str) -> Place:
        """A key in it: the same text, and the line of the key."""
        return Place(self._file, self._lines, self._mistakes, (*self._path, key), self._text)

    def table(self, key: str, text: str) -> Place:
        """A table in it; `text` is put behind this one's."""
        return Place(self._file, self._lines, self._mistakes, (*self._path, key), self._text + text)

    def note(self, sentence: str) -> None:
        self._mistakes.note(sentence)

    def noted(self) -> AbstractContextManager[None]:
        return self._mistakes.noted()
