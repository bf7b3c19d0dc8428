"""The configuration, read again while the server runs.

The settings file is read again, be it TOML or a gunicorn.conf.py, which a process of its own executes. The
command line and the environment stay as they were at the start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from halfsync.commands.checks import check_formats, check_served, ineffective, with_places
from halfsync.habits.sources import Sources
from halfsync.habits.table import OTHER_NAMES
from halfsync.http.header_rules import HeaderRule
from halfsync.plan.at_reload import kept
from halfsync.plan.layout import Layout, target_of, work_out
from halfsync.settings.error_pages import PageEntry
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.site_tls import SiteTLS
from halfsync.settings.sites import SiteEntry
from halfsync.settings.sources import Loaded, load
from halfsync.settings.table import Settings
from halfsync.settings.targets import Target
from halfsync.system.seen_files import SeenFile, seen

Served = tuple[Settings, list[Target], tuple[SiteEntry, ...], tuple[HeaderRule, ...], tuple[PageEntry, ...]]
"""What the user wrote: settings, the routes of the default site, the other sites, and for all of them rules
for headers and error pages."""


class Configuration(msgspec.Struct, frozen=True):
    settings: Settings
    layout: Layout
    configuration: tuple[SeenFile, ...] = ()  # the files that it was read from
    tls: tuple[SiteTLS, ...] = ()
    notes: Sequence[str] = ()  # sentences for the log: what takes effect at a restart only, or not at all
    with_places: Callable[[SettingError], SettingError] = lambda wrong: wrong
    """What is found to be wrong with it later, with the place where it stands."""


class Rereading:
    """Call it to read the configuration again."""

    def __init__(
        self,
        sources: Sources,
        environment: Mapping[str, str],
        folder: str,
        running: Settings,
    ) -> None:
        """`environment` and `folder` (by its name) are those of the start; `running` are the settings that
        the server was started with."""
        self._sources = sources
        self._environment = dict(environment)
        self._folder = folder
        self._running = running
        self._ineffective_before: list[str] = []  # what was said of them is not said again
        self._before: tuple[Served, Layout] | None = None

    @property
    def files(self) -> list[str]:
        """Which are read, by whole paths."""
        return [os.path.join(self._folder, file) for file in self._sources.files]

    def __call__(self) -> Configuration:
        """Raises SettingError; then nothing has changed."""
        with _back_if_it_fails() as before:
            _enter(self._folder, before)
            for file in self._sources.files:
                _check_regular(file)
            files = seen(self.files)
            sources = self._sources.read_again()
            mistakes = Mistakes()
            layers = sources.command_line, self._environment, sources.file, sources.layers
            loaded = load(*layers, OTHER_NAMES, mistakes)
            if not loaded.was_read:
                mistakes.raise_all()
            settings, notes = kept(self._running, loaded.settings)
            _enter(os.path.join(self._folder, settings.chdir or ""), before)
            targets = [*loaded.targets, *map(target_of, sources.targets)]
            layout = self._worked_out(
                (settings, targets, loaded.sites, loaded.headers, loaded.error_pages), mistakes
            )
            loaded = msgspec.structs.replace(loaded, settings=settings)
            check_formats(loaded, mistakes)
            tls = check_served(loaded, layout, mistakes)
            mistakes.raise_all()
        notes += [note for note in sources.notes if note not in self._sources.notes]
        found = ineffective(loaded, settings, targets, layout)
        notes += [note for note in found if note not in self._ineffective_before]
        self._ineffective_before = found
        self._sources = sources
        placed = partial(with_places, loaded=loaded, places=mistakes.places)
        return Configuration(settings, layout, files, tls, notes, placed)

    def started_with(self, targets: list[Target], loaded: Loaded, found: Layout) -> None:
        """What these meant at the start."""
        self._before = (self._running, targets, loaded.sites, loaded.headers, loaded.error_pages), found
        self._ineffective_before = ineffective(loaded, self._running, targets, found)

    def _worked_out(self, served: Served, mistakes: Mistakes) -> Layout:
        """If a folder is gone, but the configuration is the same as before: as before, so that the code can
        be reloaded. A deployment may delete an old release while it is served."""
        of_layout = Mistakes()
        found = work_out(*served, of_layout)
        if not of_layout.found:
            self._before = served, found
            return found
        if self._before is not None and self._before[0] == served:
            return self._before[1]
        mistakes.found += of_layout.found
        return found


@contextmanager
def _back_if_it_fails() -> Iterator[int]:
    """To the folder where we were. That may have been deleted since, so its descriptor is kept, and given."""
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield before
    except BaseException:
        os.fchdir(before)
        raise
    finally:
        os.close(before)


def _check_regular(file: str) -> None:
    """To read from a named pipe might wait for ever."""
    if os.path.exists(file) and not os.path.isfile(file):
        raise SettingError(f"The settings file {file} is no regular file, so it can't be read again.")


def _enter(folder: str, before: int) -> None:
    """If it is gone, to the folder where we were: so do workers, which say so. What is missed there is told
    by whoever needs it."""
    try:
        os.chdir(folder)
    except OSError:
        os.fchdir(before)
