"""What a wrong setting raises; and several of them, told in one run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class SettingError(Exception):
    """A setting or a target is wrong. `str()` is one sentence that names it, for the user."""

    @property
    def sentences(self) -> list[str]:
        return [str(self)]


class SettingErrors(SettingError):
    """Several are. `str()` has a sentence in each line."""

    def __init__(self, mistakes: Sequence[SettingError]) -> None:
        self._sentences = list(dict.fromkeys(one for mistake in mistakes for one in mistake.sentences))
        super().__init__("\n".join(self._sentences))

    @property
    def sentences(self) -> list[str]:
        return self._sentences


class Mistakes:
    """What is wrong with a configuration, as far as it has been looked at."""

    def __init__(self) -> None:
        self.found: list[SettingError] = []
        self.places: Mapping[str, str] = {}  # of settings at the top of a file: "halfsync.toml:7: "

    def note(self, sentence: str) -> None:
        self.found.append(SettingError(sentence))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """A SettingError that is raised within is noted, and what is behind goes on."""
        try:
            yield
        except SettingError as mistake:
            self.found.append(mistake)

    def raise_all(self) -> None:
        """If there are any. A sentence that begins with the name of a setting is about its value at the top:
        whoever found that out need not know whether that stands in a file, and where."""
        found = [self._placed(one) for one in self.found]
        if len(found) == 1:
            raise found[0]
        if found:
            raise SettingErrors(found)

    def _placed(self, mistake: SettingError) -> SettingError:
        placed = [self.places.get(re.split("[^a-z0-9_]", one)[0], "") + one for one in mistake.sentences]
        return (
            mistake if placed == mistake.sentences else SettingErrors([SettingError(one) for one in placed])
        )
