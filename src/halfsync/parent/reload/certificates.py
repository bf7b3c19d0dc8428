"""Certificates and keys: read as whoever started the server, checked, and handed to the pump.

Their bytes are copied by the kernel, from file to file, and what looks at them is a child of a moment (see
certificate_checks.py). So no key is in the parent's memory, which all workers inherit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace

from halfsync import channel
from halfsync.parent import trust
from halfsync.parent.privileges import Identity
from halfsync.parent.reload import acme_files, certificate_checks
from halfsync.plan.plan import Listener
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.site_tls import SiteTLS
from halfsync.system.copying import copy_part
from halfsync.tls.certificates import Certificates, SiteCertificates, Span
from halfsync.tls.ticket_keys import SECRET

MAX_FILE = 1024 * 1024
"""Bytes. A chain has some 10 KiB, a system's whole list of authorities 250."""


def read(sites: Sequence[SiteTLS], notes: list[str], identity: Identity | None = None) -> Certificates | None:
    """What all sites' files hold. Raises SettingError, once for all that is wrong. Sentences about what is
    doubtful in them are put into `notes`, then too. `identity`: whom the service runs as, if not as this
    process. Where he may have put something in the place of a certificate that came by ACME, it is read with
    his rights (see trust.py)."""
    mistakes = Mistakes()
    found: list[SiteCertificates] = []
    if not any(site.certfile for site in sites):
        return None
    store = os.memfd_create("certificates", os.MFD_CLOEXEC)
    try:
        for site in sites:
            if site.certfile:
                with mistakes.noted():
                    found.append(_read_site(store, site, notes, identity if site.acme else None))
        mistakes.raise_all()
    except BaseException:
        os.close(store)
        raise
    offset = os.fstat(store).st_size
    tickets = (offset, SECRET.size) if certificate_checks.write_secret(store, offset) else None
    return Certificates(tuple(found), store, tickets)


def keep_sessions(before: Certificates | None, after: Certificates) -> None:
    """Clients that had a session with the certificates before can resume it with those that come now."""
    if before is None or before.tickets is None or after.tickets is None:
        return
    os.lseek(after.fd, after.tickets[0], os.SEEK_SET)
    copy_part(after.fd, before.fd, *before.tickets)


def read_for(
    listeners: Sequence[Listener], sites: Sequence[SiteTLS], identity: Identity | None
) -> tuple[Certificates | None, list[str]]:
    """The same, and the notes; None if nobody listens for https, else there must be some. Raises
    SettingError."""
    secure = [one for one in listeners if one.scheme == "https" and not one.is_removed]
    if not secure:
        return None, []
    acme_files.prepare(sites, identity)
    notes: list[str] = []
    found = read(sites, notes, identity)
    if found is None:
        raise SettingError(
            f"bind {secure[0].bound_as or secure[0].url!r}: there is no certificate: name one with certfile."
        )
    return found, notes


def close(certificates: Certificates | None) -> None:
    if certificates is not None:
        os.close(certificates.fd)


def _read_site(store: int, site: SiteTLS, notes: list[str], identity: Identity | None) -> SiteCertificates:
    copies: list[int] = []
    mistakes = Mistakes()
    ca_certs: str | None = None
    try:
        for place, certfile in enumerate(site.certfile):
            copy = os.memfd_create("certificate", os.MFD_CLOEXEC)
            copies.append(copy)
            if site.keyfile:
                with mistakes.noted():
                    _append_file(copy, site.keyfile[place], f"{site.at('keyfile')}", identity)
                os.write(copy, b"\n")
            with mistakes.noted():
                _append_file(copy, certfile, f"{site.at('certfile')}", identity)
        if site.ca_certs:
            with mistakes.noted():
                ca_certs = _text_of(site)
        mistakes.raise_all()
        wanted = SiteCertificates(
            site.name,
            site.hosts,
            (),
            "",
            site.keyfile_password,
            ca_certs,
            site.cert_reqs,
            site.minimum_version,
            site.ciphers,
        )
        verdict = certificate_checks.check(site, wanted, copies)
        notes += verdict.notes
        for error in verdict.errors:
            mistakes.note(error)
        mistakes.raise_all()
        spans = tuple(_append_copy(store, copy) for copy in copies)
    finally:
        channel.close_all(copies)
    return replace(
        wanted,
        pems=spans,
        digest=verdict.digest,
        expire=tuple(verdict.expire),
        shown=tuple(verdict.shown),
        names=tuple(verdict.names),
    )


def _open(path: str, setting: str, note: str = "") -> int:
    """Raises SettingError. (A pipe would keep us waiting.) `note`: see trust.py."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SettingError(f"{setting}: the file {path} can't be read: {error.strerror}{note}.") from None
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_FILE:
        return fd
    os.close(fd)
    what = "is no regular file" if not stat.S_ISREG(found.st_mode) else "is too large for certificates"
    raise SettingError(f"{setting}: {path} {what}.")


def _append_file(copy: int, path: str, setting: str, identity: Identity | None) -> None:
    note = trust.note(path, identity)
    with trust.rights_for(path, identity):
        fd = _open(path, setting, note)
    try:
        copy_part(copy, fd, 0, os.fstat(fd).st_size)
    except OSError as error:
        raise SettingError(f"{setting}: the file {path} can't be read: {error.strerror}.") from None
    finally:
        os.close(fd)


def _append_copy(store: int, copy: int) -> Span:
    offset = os.fstat(store).st_size
    size = os.fstat(copy).st_size
    copy_part(store, copy, 0, size)
    return offset, size


def _text_of(site: SiteTLS) -> str:
    """(Certificates alone: nothing of this is secret.)"""
    assert site.ca_certs is not None
    setting = f"{site.at('ca_certs')}"
    fd = _open(site.ca_certs, setting)
    try:
        text = os.pread(fd, MAX_FILE, 0).decode("latin-1")
    finally:
        os.close(fd)
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise SettingError(f"{setting}: there is no certificate in {site.ca_certs} (PEM).")
    # Python takes plain ASCII only, and lists of authorities have names above each certificate.
    return "".join(character if character.isascii() else "?" for character in text)
