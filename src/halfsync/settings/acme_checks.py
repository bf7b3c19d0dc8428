"""What is wrong with the settings by which certificates come from an authority (ACME)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence

from halfsync.settings.errors import Mistakes
from halfsync.settings.table import Settings

_HOST = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
)


def check_acme(where: str, named: str, hosts: Sequence[str], own: Collection[str]) -> None:
    """`hosts` are those for which `acme` is on, `own` is what of TLS is set there; sentences begin with
    `where`, or with `named` if they are about the hosts. Raises SettingError, once for all that is wrong."""
    mistakes = Mistakes()
    if "certfile" in own:
        mistakes.note(f"{where}acme gets a certificate, and certfile names one: only one of them counts.")
    if not hosts:
        mistakes.note(f"{where}acme: name the hosts that the certificate is for with acme_hosts.")
    for host in hosts:
        if host.startswith("*."):
            why = "can't be had by tls-alpn-01 or http-01: name each host by itself"
            mistakes.note(f"{named}: {host!r} {why}.")
        elif _is_ip_address(host):
            why = "is an IP address: certificates come by ACME for names of hosts alone"
            mistakes.note(f"{named}: {host!r} {why}.")
        elif not _HOST.fullmatch(host):
            mistakes.note(f"{named}: there is no certificate for {host!r}: it is no host's name.")
    mistakes.raise_all()


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def check_authority(settings: Settings, mistakes: Mistakes) -> None:
    """Note what is wrong with the settings that say which one it is, and who we are."""
    if not re.fullmatch(r"https?://[^\s/?#]+(?:/\S*)?", settings.acme_directory):
        mistakes.note(
            "acme_directory must be the address of an authority's directory, such as "
            f"https://acme.authority.example/directory, not {settings.acme_directory!r}."
        )
    email = settings.acme_email
    if email and not re.fullmatch(r"[^@\s:,]+@[^@\s:,]+", email):
        mistakes.note(f"acme_email must be an address such as admin@shop.example, not {email!r}.")
    names = ("acme_eab_kid", "acme_eab_hmac_key")
    given = [name for name in names if getattr(settings, name)]
    if len(given) == 1:
        mistakes.note(f"{given[0]} is of no use alone: an authority gives both of {' and '.join(names)}.")
    if not re.fullmatch("[A-Za-z0-9_-]*=*", settings.acme_eab_hmac_key):
        mistakes.note("acme_eab_hmac_key must be base64url: letters, digits, - and _.")
