"""What has to be there before certificates come by ACME: the packages, and, until there is a first
certificate, one that stands in for it, so that TLS can be spoken at all.

Keys are made in a child that lives for a moment: the parent's memory is what all workers inherit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from halfsync.parent.forking import forked
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


def prepare(sites: Sequence[SiteTLS]) -> None:
    """Raises SettingError."""
    check_packages(sites)
    for site in sites:
        if site.acme and not os.path.exists(site.certfile[0]):
            _write_placeholder(site)


def _write_placeholder(site: SiteTLS) -> None:
    try:
        reading, writing = os.pipe()
        pid = forked(lambda _mask: _child(writing, site.certfile[0], site.acme_hosts))
    except OSError as error:
        raise SettingError(f"{site.at('acme')}: no key can be made now: {error.strerror}.") from None
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as file:
        why = file.read()
    os.waitpid(pid, 0)
    if why:
        raise SettingError(f"{site.at('acme_folder')}: {site.certfile[0]} can't be written: {why}.")


def _child(writing: int, path: str, hosts: Sequence[str]) -> NoReturn:
    try:
        from halfsync.issuing import files

        files.write(path, files.self_signed(hosts))
    except OSError as error:
        os.write(writing, str(error.strerror).encode())
    except BaseException as error:  # noqa: BLE001 (it is the child's last word)
        os.write(writing, str(error).encode())
    finally:
        os._exit(0)
