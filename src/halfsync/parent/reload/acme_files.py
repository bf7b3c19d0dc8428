"""What has to be there before certificates come by ACME: the packages, and, until there is a first
certificate, one that stands in for it, so that TLS can be spoken at all.

Keys are made in a child that lives for a moment: the parent's memory is what all workers inherit. It writes
as root, unless the service's user may change names on the way (see trust.py)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from halfsync.parent import privileges, trust
from halfsync.parent.forking import forked
from halfsync.parent.privileges import Identity
from halfsync.settings.errors import SettingError
from halfsync.settings.site_tls import SiteTLS

PACKAGES = ("acme", "josepy", "cryptography")


def check_packages(sites: Sequence[SiteTLS]) -> None:
    """Raises SettingError."""
    for site in sites:
        if site.acme and not all(map(_is_there, PACKAGES)):
            raise SettingError(f"{site.at('acme')} needs further packages: pip install 'halfsync[acme]'.")


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # someone has put another thing in its place
        return False


def prepare(sites: Sequence[SiteTLS], identity: Identity | None) -> None:
    """Raises SettingError. `identity`: whom the service runs as, if not as this process."""
    check_packages(sites)
    for site in sites:
        if site.acme and not os.path.exists(site.certfile[0]):
            _write_placeholder(site, identity)


def _write_placeholder(site: SiteTLS, identity: Identity | None) -> None:
    path = site.certfile[0]
    to_be = identity if trust.is_users(path, identity) else None
    try:
        reading, writing = os.pipe()
        pid = forked(lambda _mask: _child(writing, path, site.acme_hosts, to_be))
    except OSError as error:
        raise SettingError(f"{site.at('acme')}: no key can be made now: {error.strerror}.") from None
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as file:
        why = file.read()
    os.waitpid(pid, 0)
    if why:
        note = trust.note(path, identity)
        raise SettingError(f"{site.at('acme_folder')}: {path} can't be written: {why}{note}.")


def _child(writing: int, path: str, hosts: Sequence[str], to_be: Identity | None) -> NoReturn:
    try:
        from halfsync.issuing import files

        made = files.self_signed(hosts)
        if to_be is not None:
            privileges.drop(to_be)
        files.write(path, made)
    except OSError as error:
        os.write(writing, str(error.strerror).encode())
    except BaseException as error:  # noqa: BLE001 (it is the child's last word)
        os.write(writing, str(error).encode())
    finally:
        os._exit(0)
