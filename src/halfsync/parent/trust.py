"""Writing as root where the service's user may change names.

With `user` set, the parent stays root while it opens the pid file and the access log, and makes unix
sockets, often in folders of that user. There he could put a link in the place of the file, or of a folder
on the way, and have root write, create or remove something elsewhere. Looking first and opening afterwards
does not help: he changes it in between.

So where he may change any name on the way, the parent does it with exactly his rights; and then a link leads
only to what he could have written himself. Where only root may change the names (/run, /var/log), it is done
as root, and a link there is the administrator's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from halfsync.parent.privileges import Identity
from halfsync.system.folders import here

_MOST_LINKS = 40
"""As many as the kernel follows."""


def rights_for(path: str, identity: Identity | None) -> AbstractContextManager[None]:
    """In the block, do what `path` needs: with this process's own rights, or with the service's user's."""
    return acting_as(identity) if is_users(path, identity) and identity else nullcontext()


def is_users(path: str, identity: Identity | None) -> bool:
    """Whether the service's user, who is not root, may change what `path` names."""
    if identity is None or identity.uid == 0 or os.geteuid() != 0:
        return False
    return not only_root_changes(path, identity)


def note(path: str, identity: Identity | None) -> str:
    """For the sentence about a failure: "" or with whose rights it was tried."""
    if identity is None or not is_users(path, identity):
        return ""
    return f" (tried as the user {identity.uid}, who may change a folder on the way, and not as root)"


@contextmanager
def acting_as(identity: Identity) -> Iterator[None]:
    """With the rights of that user, and only those. Raises OSError if that is not allowed."""
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    try:
        os.setgroups(identity.groups)
        os.setegid(identity.gid)
        os.seteuid(identity.uid)
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def only_root_changes(path: str, identity: Identity) -> bool:
    """Whether that user can change none of the names on the way to `path`, links and what they lead to
    included. (As nobody else can, there is no race between this and the use of the path.)"""
    at, links = "/", 0
    due = (path if os.path.isabs(path) else os.path.join(here() or "/", path)).split("/")[::-1]
    while due:
        name = due.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        below = os.path.join(at, name)
        try:
            entry: os.stat_result | None = os.lstat(below)
        except OSError:
            entry = None
        if not _is_fixed(at, entry, identity):
            return False
        if entry is None:
            return True  # to be made by root in a folder of root's; or in none, which fails
        if not stat.S_ISLNK(entry.st_mode):
            at = below
            continue
        links += 1
        if at.startswith("/proc/"):  # a descriptor of this process, as in /dev/stdout
            return True
        if links > _MOST_LINKS:
            return False
        target = os.readlink(below)
        at = "/" if target.startswith("/") else at
        due += target.split("/")[::-1]
    return True


def _is_fixed(folder: str, entry: os.stat_result | None, identity: Identity) -> bool:
    """Whether the user can neither make this entry of the folder nor put another in its place."""
    found = os.stat(folder)
    if found.st_uid != 0:
        return False
    if not _may_write(folder, found, identity):
        return True
    # As in /tmp: nobody replaces what is root's. But a hard link to a file of root's may be anybody's.
    is_sticky = bool(found.st_mode & stat.S_ISVTX)
    return (
        is_sticky
        and entry is not None
        and entry.st_uid == 0
        and (entry.st_nlink == 1 or stat.S_ISDIR(entry.st_mode))
    )


def _may_write(folder: str, found: os.stat_result, identity: Identity) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    if not found.st_mode & stat.S_IWGRP:  # with an access control list, this is its mask
        return False
    return found.st_gid in identity.groups or _has_access_list(folder)


def _has_access_list(folder: str) -> bool:
    try:
        os.getxattr(folder, "system.posix_acl_access")
    except OSError:
        return False
    return True
