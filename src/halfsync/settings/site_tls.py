"""TLS of the sites: which certificates are shown to clients that ask for their hosts.

Settings of TLS that stand in a site count for it alone; those that it does not have are those at the top.
What stands at the top is the default site's, for clients that ask for no name, or for one that no other site
has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halfsync.settings.acme_checks import check_acme, check_authority
from halfsync.settings.errors import Mistakes, SettingError
from halfsync.settings.keys import OWN_TLS
from halfsync.settings.sites import SiteEntry
from halfsync.settings.table import Settings
from halfsync.tls.acme_plan import AcmePlan, AcmeSite, path_of


@dataclass(frozen=True)
class SiteTLS:
    """What is said of one."""

    name: str  # "" for the default site
    where: str = field(compare=False)  # for sentences: "", "halfsync.toml:7: sites.'blog.example': "
    places: Mapping[str, str] = field(compare=False)  # the same of single settings, where that is known
    hosts: tuple[str, ...]  # in lower case; () for the default
    certfile: tuple[str, ...]  # one for each kind of key
    keyfile: tuple[str, ...]  # as many, or () if the keys are in the same files
    keyfile_password: str | None
    ca_certs: str | None
    cert_reqs: str
    minimum_version: str
    ciphers: str
    http2: bool = field(compare=False)  # it is spoken
    acme_hosts: tuple[
        str, ...
    ] = ()  # for which certfile comes by ACME (there may be none yet); (): it does not
    others: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), compare=False)
    """Sites that have nothing of TLS of their own, so that this is shown for them: as a sentence about their
    hosts begins, and these."""

    def at(self, setting: str) -> str:
        """A setting's name as a sentence about it begins, with where it stands. (Where a certificate comes by
        ACME, no setting names its file.)"""
        if self.acme and setting == "certfile":
            setting = "acme"
        return self.places.get(setting, self.where) + setting

    @property
    def acme(self) -> bool:
        return bool(self.acme_hosts)


def tls_of(
    settings: Settings,
    sites: Sequence[SiteEntry],
    places: Mapping[str, str] | None = None,
    mistakes: Mistakes | None = None,
) -> tuple[SiteTLS, ...]:
    """Of the default site, and of those that have a certificate of their own. What does not agree is noted in
    `mistakes`; without them, it raises SettingError. `places`: of the settings at the top."""
    found = Mistakes() if mistakes is None else mistakes
    made: list[SiteTLS] = []
    with found.noted():
        default = _site("", "", places or {}, (), settings, {})
        made.append(replace(default, others=tuple(_without_tls(settings, sites))))
    for one in sites:
        if one.tls:
            with found.noted():
                made.append(_site(one.name, f"{one.where}: ", one.places, one.hosts, settings, one.tls))
    if settings.acme or any(one.tls.get("acme", False) for one in sites):
        check_authority(settings, found)
    _check_own_files(made, found)
    if mistakes is None:
        found.raise_all()
    return tuple(made)


def _check_own_files(sites: Sequence[SiteTLS], mistakes: Mistakes) -> None:
    """Note each site whose certificate would take the place of another one's."""
    there: dict[str, SiteTLS] = {}
    for site in sites:
        if not site.acme:
            continue
        other = there.setdefault(site.certfile[0], site)
        if other.acme_hosts != site.acme_hosts:
            ours, theirs = ", ".join(site.acme_hosts), ", ".join(other.acme_hosts)
            mistakes.note(
                f"{site.at('acme')}: the certificate for {ours} would be in the same file as that for "
                f"{theirs}, {site.certfile[0]}: let the first host be another."
            )


def _without_tls(settings: Settings, sites: Sequence[SiteEntry]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The others of the default site, if they are served at an address for https."""
    for one in sites:
        if not one.tls and any(
            not address.lower().startswith(_CLEAR) for address in one.bind or settings.bind
        ):
            yield one.places.get("hosts", f"{one.where}: "), one.hosts


_CLEAR = ("http://", "unix:")


def _site(
    name: str,
    where: str,
    places: Mapping[str, str],
    hosts: tuple[str, ...],
    settings: Settings,
    own: Mapping[str, Any],
) -> SiteTLS:
    value = {key: own.get(key, getattr(settings, key)) for key in OWN_TLS}
    if "certfile" in own and "keyfile" not in own:
        value["keyfile"] = []  # the default site's key is not this one's
    named: tuple[str, ...] = ()
    if own.get("acme", False) if name else settings.acme:
        named = hosts if name else tuple(host.lower() for host in settings.acme_hosts)
        setting = ("hosts" if "hosts" in places else "acme") if name else "acme_hosts"
        check_acme(
            places.get("acme", where),
            places.get(setting, where) + setting,
            named,
            own if name else {"certfile"} if settings.certfile else {},
        )
        value["certfile"], value["keyfile"] = [path_of(settings.acme_folder, named)], []
    elif name and settings.acme and "certfile" not in own:  # the default site's
        value["certfile"] = [path_of(settings.acme_folder, tuple(settings.acme_hosts))]
        value["keyfile"] = []
    site = SiteTLS(
        name,
        where,
        places,
        hosts,
        tuple(value["certfile"]),
        tuple(value["keyfile"]),
        value["keyfile_password"],
        value["ca_certs"],
        value["cert_reqs"],
        value["minimum_version"],
        value["ciphers"],
        settings.http2,
        named,
    )
    _check(site)
    return site


def acme_of(settings: Settings, sites: Sequence[SiteTLS]) -> AcmePlan | None:
    """What is to be had by ACME; None: nothing."""
    wanted = [AcmeSite(site.acme_hosts, site.certfile[0]) for site in sites if site.acme]
    if not wanted:
        return None
    return AcmePlan(
        tuple(wanted),
        settings.acme_folder,
        settings.acme_directory,
        settings.acme_email or "",
        settings.acme_challenge,
        settings.acme_eab_kid,
        settings.acme_eab_hmac_key,
    )


def _check(site: SiteTLS) -> None:
    if site.keyfile and not site.certfile:
        raise SettingError(f"{site.at('keyfile')} is given, but no certfile.")
    if site.keyfile and len(site.keyfile) != len(site.certfile):
        raise SettingError(
            f"{site.at('keyfile')}: there must be a keyfile for each certfile, but there are "
            f"{len(site.keyfile)} for {len(site.certfile)}."
        )
    if site.cert_reqs != "none" and not site.ca_certs:
        raise SettingError(
            f"{site.at('cert_reqs')} is {site.cert_reqs!r}, but ca_certs names no authorities whose client "
            "certificates are accepted."
        )
