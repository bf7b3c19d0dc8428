"""The current folder, which may be gone: a deployment deletes an old release while its server runs."""

from __future__ import annotations

from halfsync.system.primitives import os


def here() -> str | None:
    """The current folder; None if it was deleted, or may not be looked up."""
    try:
        return os.getcwd()
    except OSError:
        return None


def here_in_words() -> str:
    """For sentences."""
    return here() or "the current folder, which was deleted"


def absolute(path: str) -> str:
    """The path from "/" on. If the current folder was deleted: by the name that it had, so that it is the
    same again if somebody makes it again, and never another file."""
    named = os.environ.get("PWD", "")
    folder = here() or (named if os.path.isabs(named) else "/deleted")
    return os.path.normpath(os.path.join(folder, path))


def current_folder() -> str:
    """The current folder by the name that the shell knows, symbolic links and all."""
    named = os.environ.get("PWD", "")
    try:
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
    except OSError:
        pass
    return here() or named or "/"
