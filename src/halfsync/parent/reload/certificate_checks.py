"""What is wrong with a certificate or its key, in one sentence.

OpenSSL looks at them in a child that lives for a moment: so the parent has neither a key in its memory nor
`ssl` among its modules, both of which all workers would inherit. (The child reads copies in memory, so
nothing keeps it waiting.)"""

from __future__ import annotations

import mmap
import os
import re
import select
import signal
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import msgspec

from halfsync.logs.error import log
from halfsync.parent.forking import forked
from halfsync.settings.errors import SettingError
from halfsync.settings.site_tls import SiteTLS
from halfsync.tls import ticket_keys
from halfsync.tls.certificates import SiteCertificates, context_of, covers
from halfsync.tls.http2_ciphers import prohibited_in

SECONDS = 30.0
"""For the child; it takes 0.05."""


NAMED = 3
"""Cipher suites in a sentence."""
MISFITS = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""Why OpenSSL refuses a key that is another certificate's; the last, if it is of another kind."""


class CertificateVerdict(msgspec.Struct):
    errors: list[str] = []  # sentences
    notes: list[str] = []  # sentences about what will not do for clients
    digest: str = ""  # of all that is there
    expire: list[float] = []  # when each of them does, in seconds since 1970
    shown: list[str] = []  # each without its key and chain, in PEM; "" if that is not known
    names: list[str] = []  # that any of them is for, in lower case


def check(site: SiteTLS, wanted: SiteCertificates, copies: Sequence[int]) -> CertificateVerdict:
    """`copies`: for each of `site.certfile` a file with the key, and behind it the chain. Raises SettingError
    if there is no room for a process."""
    try:
        reading, writing = os.pipe()
        try:
            pid = forked(lambda _mask: _child(writing, site, wanted, copies))
        finally:
            os.close(writing)
    except OSError as error:
        raise SettingError(f"{site.at('certfile')}: it can't be checked now: {error.strerror}.") from None
    try:
        said = _all(reading)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if not said:
        raise SettingError(f"{site.at('certfile')}: the process that checks it ended without a word.")
    return msgspec.msgpack.decode(said, type=CertificateVerdict)


def write_secret(store: int, offset: int) -> bool:
    """Put a secret for session tickets there, if it can be used (see ticket_keys.py)."""
    try:
        pid = forked(lambda _mask: _write_secret(store, offset))
    except OSError:
        return False
    _, status = os.waitpid(pid, 0)
    if status:
        log("debug", "TLS sessions end with a reload: their tickets' keys can't be set here.")
    return status == 0


def _write_secret(store: int, offset: int) -> NoReturn:
    signal.alarm(int(SECONDS))
    status = 1
    try:
        import time

        if ticket_keys.is_usable():
            os.pwrite(store, ticket_keys.new_secret(time.time()), offset)
            status = 0
    finally:
        os._exit(status)


def _all(reading: int) -> bytes:
    said = b""
    while select.select([reading], [], [], SECONDS)[0] and (data := os.read(reading, 65536)):
        said += data
    return said


def _child(writing: int, site: SiteTLS, wanted: SiteCertificates, copies: Sequence[int]) -> NoReturn:
    try:
        try:
            verdict = _verdict(site, wanted, copies)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is about this certificate)
            verdict = CertificateVerdict([f"{site.at('certfile')}: {error}."])
        os.write(writing, msgspec.msgpack.encode(verdict))
    finally:
        os._exit(0)


def _verdict(site: SiteTLS, wanted: SiteCertificates, copies: Sequence[int]) -> CertificateVerdict:
    import hashlib

    verdict = CertificateVerdict()
    digest = hashlib.sha256()
    for place, copy in enumerate(copies):
        with mmap.mmap(copy, 0, prot=mmap.PROT_READ) as data:
            digest.update(data)
            if error := _look(site, wanted, place, copy, data, verdict):
                verdict.errors.append(error)
    if verdict.errors:
        return verdict
    verdict.digest = digest.hexdigest()
    if error := _try_together(site, wanted, copies):
        verdict.errors.append(error)
    _note_ciphers(site, wanted, verdict.notes)
    return verdict


def _look(
    site: SiteTLS,
    wanted: SiteCertificates,
    place: int,
    copy: int,
    data: mmap.mmap,
    verdict: CertificateVerdict,
) -> str:
    """At one certificate with its key. Gives a sentence about what is wrong."""
    import ssl

    certfile = site.certfile[place]
    keyfile = site.keyfile[place] if site.keyfile else certfile
    path = f"/proc/self/fd/{copy}"
    if data.find(b"-----BEGIN CERTIFICATE-----") < 0:
        return f"{site.at('certfile')}: there is no certificate in {certfile} (PEM)."
    if not re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", data):
        if site.keyfile:
            return f"{site.at('keyfile')}: there is no private key in {keyfile} (PEM)."
        return f"{site.at('certfile')}: there is no private key in {certfile}: name its file with keyfile."
    try:
        facts = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
    except ssl.SSLError:
        return f"{site.at('certfile')}: the certificate in {certfile} is malformed."
    names = {name.lower() for kind, name in facts.get("subjectAltName", ()) if kind in _OF_HOSTS}
    _add_notes(site, certfile, facts, names, verdict.notes)
    try:
        context_of(replace(wanted, ca_certs=None, cert_reqs="none"), [])
    except ssl.SSLError:
        return f"{site.at('ciphers')}: OpenSSL knows none of {wanted.ciphers!r}."
    try:
        context_of(wanted, [path])
    except ssl.SSLError as error:
        if error.reason in MISFITS:
            misfit = f"{site.at('keyfile')}: the key in {keyfile} does not fit the"
            if _fits_another(wanted, data):
                return (
                    f"{misfit} first certificate in {certfile}, but another one in it: the server's own has "
                    "to come first, and each has to begin on a line of its own."
                )
            return f"{misfit} certificate in {certfile}."
        if data.find(b"ENCRYPTED") >= 0:
            what = "is wrong" if wanted.password else "is missing: the key is encrypted"
            return f"{site.at('keyfile_password')} for {keyfile} {what}."
        why = (error.reason or str(error)).lower().replace("_", " ")
        return f"{site.at('certfile')}: OpenSSL refuses {certfile} with {keyfile}: {why}."
    verdict.expire.append(float(ssl.cert_time_to_seconds(facts["notAfter"])))
    verdict.shown.append(_first_in(data))
    verdict.names += sorted(names.difference(verdict.names))
    return ""


def _fits_another(wanted: SiteCertificates, data: mmap.mmap) -> bool:
    """Whether the key is that of a certificate which is not the first: an authority's stands before it, or
    what is before its "-----BEGIN" (a byte order mark) hides it from OpenSSL."""
    import ssl

    keys = b"\n".join(found[0] for found in _ANY_KEY.finditer(data))
    for found in _ANY_CERTIFICATE.finditer(data):
        copy = os.memfd_create("certificate", os.MFD_CLOEXEC)
        os.write(copy, found[0] + b"\n" + keys + b"\n")
        try:
            context_of(replace(wanted, ca_certs=None, cert_reqs="none"), [f"/proc/self/fd/{copy}"])
        except ssl.SSLError:
            continue
        finally:
            os.close(copy)
        return True
    return False


def _first_in(data: mmap.mmap) -> str:
    """The certificate that OpenSSL takes for the server's own, in PEM. "": it is in a form of OpenSSL's."""
    import ssl

    found = _ANY_CERTIFICATE.search(data)
    if found is None or found[1]:
        return ""
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(found[0].decode("latin-1")))


_OF_HOSTS = ("DNS", "IP Address")
_ANY_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_ANY_CERTIFICATE = re.compile(
    rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----.*?-----END (?:X509 |TRUSTED )?CERTIFICATE-----", re.DOTALL
)


def _try_together(site: SiteTLS, wanted: SiteCertificates, copies: Sequence[int]) -> str:
    import ssl

    try:
        context_of(wanted, [f"/proc/self/fd/{copy}" for copy in copies])
    except ssl.SSLError as error:
        return f"{site.at('certfile')}: OpenSSL refuses them together: {error}."
    return ""


def _note_ciphers(site: SiteTLS, wanted: SiteCertificates, notes: list[str]) -> None:
    if not site.http2:
        return
    found = prohibited_in(context_of(replace(wanted, ca_certs=None, cert_reqs="none"), []))
    if found:
        named = ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
        notes.append(
            f"{site.at('ciphers')}: HTTP/2 must not be spoken with {named} (RFC 9113, appendix A), so "
            "clients that speak no TLS 1.3 get HTTP/1.1."
        )


def _add_notes(
    site: SiteTLS, certfile: str, facts: dict[str, Any], names: Collection[str], notes: list[str]
) -> None:
    import ssl
    import time

    now = time.time()
    if ssl.cert_time_to_seconds(facts["notAfter"]) < now:
        notes.append(
            f"{site.at('certfile')}: the certificate in {certfile} expired on {facts['notAfter']}: renew it."
        )
    if ssl.cert_time_to_seconds(facts["notBefore"]) > now:
        notes.append(
            f"{site.at('certfile')}: the certificate in {certfile} is not valid before "
            f"{facts['notBefore']}: is the clock right?"
        )
    missing = [host for host in site.hosts if not covers(names, host)]
    if missing:
        notes.append(
            f"{site.at('certfile')}: the certificate in {certfile} is not for {', '.join(missing)}: "
            "clients will refuse it."
        )
    for where, hosts in site.others:
        missing = [host for host in hosts if not covers(names, host)]
        if missing:
            notes.append(
                f"{where}the certificate in {certfile}, which is shown for all sites without one, is not for "
                f"{', '.join(missing)}: clients will refuse it."
            )
