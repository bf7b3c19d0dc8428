"""Whom the pump and the workers run as."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from halfsync.settings import SettingError, Settings


@dataclass(frozen=True)
class Identity:
    """A user and groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def identity(settings: Settings) -> Identity | None:
    """Whom `user` and `group` mean; None if this process is that already. Raises SettingError."""
    if settings.user is None and settings.group is None:
        return None
    entry = _user(settings.user) if settings.user is not None else None
    uid = entry.pw_uid if entry else os.getuid()
    gid = entry.pw_gid if entry else os.getgid()
    if settings.group is not None:
        gid = _group(settings.group)
    groups = tuple(sorted({gid, *os.getgrouplist(entry.pw_name, gid)})) if entry else (gid,)
    if os.geteuid() == 0:
        return Identity(uid, gid, groups)
    if (uid, gid) == (os.getuid(), os.getgid()):
        return None
    setting = f"user {settings.user!r}" if settings.user is not None else f"group {settings.group!r}"
    raise SettingError(f"{setting}: only root may become another user or group.")


def drop(to: Identity) -> None:
    """Become that user, for good. Raises OSError; then nothing may go on."""
    os.setgroups(to.groups)
    os.setresgid(to.gid, to.gid, to.gid)
    os.setresuid(to.uid, to.uid, to.uid)


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise SettingError(f"user {name!r}: this machine has no such user.") from None


def _group(name: str) -> int:
    try:
        return (grp.getgrgid(int(name)) if name.isdecimal() else grp.getgrnam(name)).gr_gid
    except (KeyError, OverflowError):
        raise SettingError(f"group {name!r}: this machine has no such group.") from None
