"""What a wrong setting raises; and several of them, told in one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        """If there are any."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise SettingErrors(self.found)
