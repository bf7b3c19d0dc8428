"""Whom the pump and the workers run as."""

from __future__ import annotations

import grp
import os
import pwd

import msgspec

from halfsync.settings.errors import SettingError
from halfsync.settings.table import Settings


class Identity(msgspec.Struct, frozen=True):
    """A user and groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def identity(settings: Settings) -> Identity | None:
    """Whom `user` and `group` mean; None if this process is that already. Raises SettingError."""
    if settings.user is None and settings.group is None:
        return None
    uid, entry = _user(settings.user) if settings.user is not None else (os.getuid(), None)
    if entry is not None:
        gid = entry.pw_gid
    else:
        # A number without an entry has no group of its own. Never root's then: the one of the same number.
        gid = os.getgid() if uid == os.getuid() else uid
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


def _user(name: str) -> tuple[int, pwd.struct_passwd | None]:
    """Its number, and its entry; a number needs none (containers)."""
    number = _number(name)
    try:
        entry = pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
    except (KeyError, OverflowError):
        if number is None:
            raise SettingError(f"user {name!r}: this machine has no such user.") from None
        return number, None
    return entry.pw_uid, entry


def _group(name: str) -> int:
    number = _number(name)
    if number is not None:
        return number
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingError(f"group {name!r}: this machine has no such group.") from None


def _number(name: str) -> int | None:
    """The user's or group's number that is meant; None if it is a name. The highest number means "no
    change" to the kernel, and so would keep root's."""
    if not (name.isascii() and name.isdigit()) or int(name) >= _NO_CHANGE:
        return None
    return int(name)


_NO_CHANGE = 2**32 - 1
