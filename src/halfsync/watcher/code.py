"""Which folders have the code of the applications, and which files there are code. None of it is imported."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Sequence
from importlib.util import cache_from_source, find_spec
from pathlib import PurePath

from halfsync.plan.plan import Plan

CODE = "*.py"

IGNORED = frozenset(("__pycache__", "node_modules", "site-packages"))
"""Folders whose files never count; nor do those of hidden folders (.git, .venv, .tox) and of virtual
environments, whatever their name is."""


def folders(plan: Plan) -> list[str]:
    """Real paths of the folders to watch, none of them within another: those that `reload_dir` names, or
    else the current folder and those where the applications' modules are; and those of `reload_include`."""
    named = plan.settings.reload_dir or [os.getcwd(), *_folders_of_modules(plan)]
    named = [*named, *included_folders(plan.settings.reload_include)]
    found = sorted({os.path.realpath(folder) for folder in named})
    return [folder for folder in found if not any(_is_within(folder, other) for other in found)]


def included_folders(include: Sequence[str]) -> list[str]:
    """Real paths of those among the patterns that are no patterns, but name a folder."""
    return [os.path.realpath(one) for one in include if os.path.isdir(one)]


def included_files(include: Sequence[str]) -> list[str]:
    """The same for files."""
    return [os.path.abspath(one) for one in include if os.path.isfile(one)]


def _folders_of_modules(plan: Plan) -> Iterable[str]:
    for pool in plan.pools:
        if pool.target is not None:
            yield from _folders_of(pool.target.partition(":")[0].partition(".")[0])


def _folders_of(module: str) -> list[str]:
    """Of a top-level module: to find it, nothing needs to be imported. None if it is installed: that
    changes with pip, not with an editor."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    found = list(spec.submodule_search_locations or [os.path.dirname(spec.origin or "")])
    return [folder for folder in found if os.path.isdir(folder) and not _is_installed(folder)]


def _is_installed(folder: str) -> bool:
    paths = sysconfig.get_paths()
    places = [os.path.realpath(paths[name]) for name in ("stdlib", "purelib", "platlib")]
    real = os.path.realpath(folder)
    return any(real == place or _is_within(real, place) for place in places)


def _is_within(path: str, folder: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")


class Filter:
    """Says which changed paths count: files named like code, in no folder that is ignored. `include` has
    patterns, and folders of which all files count."""

    def __init__(self, folders: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> None:
        self._folders = folders
        self._include = (CODE, *include)
        self._included = included_folders(include)
        self._exclude = exclude

    def __call__(self, _change: object, path: str) -> bool:
        root = next((folder for folder in self._folders if _is_within(path, folder)), None)
        if root is None:
            return False
        below = PurePath(os.path.relpath(path, root))
        return self._is_named(path, below) and not self._is_ignored(root, below)

    def is_ignored(self, root: str, folder: str) -> bool:
        """Whether nothing in this folder, which is below `root`, counts."""
        return self._is_ignored(root, PurePath(os.path.relpath(folder, root)) / "any")

    def _is_named(self, path: str, file: PurePath) -> bool:
        """(A hidden file only by a pattern with the dot: editors make `.#app.py` and the like.)"""
        hidden = file.name.startswith(".")
        if not hidden and any(_is_within(path, folder) for folder in self._included):
            return True
        return any(
            file.match(pattern)
            for pattern in self._include
            if PurePath(pattern).name.startswith(".") or not hidden
        )

    def _is_ignored(self, root: str, file: PurePath) -> bool:
        """`file` is relative to `root`. The folders above `root` do not matter: it was named."""
        within = [folder for folder in file.parents if folder.name]
        if any(one.match(pattern) for pattern in self._exclude for one in (file, *within)):
            return True
        return any(
            folder.name in IGNORED
            or folder.name.startswith(".")
            or os.path.exists(os.path.join(root, folder, "pyvenv.cfg"))
            for folder in within
        )


def forget_compiled(paths: Iterable[str]) -> None:
    """Python takes a .pyc for current if its source has the same time, in whole seconds, and the same size.
    A second edit may come sooner than that, and would then never be seen."""
    for path in paths:
        try:
            os.unlink(cache_from_source(path))
        except (OSError, ValueError, NotImplementedError):
            pass  # there is none, or it is not ours to delete


def in_words(paths: Iterable[str]) -> str:
    """ "app.py", "app.py and views.py", "app.py and 7 other files"."""
    names = sorted({_shown(path) for path in paths})
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} other files"


def _shown(path: str) -> str:
    here = os.path.realpath(os.getcwd())
    return os.path.relpath(path, here) if _is_within(path, here) else path
