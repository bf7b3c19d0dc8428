"""Certificates that come from an authority by ACME: what is wanted, and where it lies. No I/O."""

from __future__ import annotations

import os

import msgspec


class AcmeSite(msgspec.Struct, frozen=True):
    """A certificate with its key, in one file: PEM, the key first."""

    hosts: tuple[str, ...]
    path: str


class AcmePlan(msgspec.Struct, frozen=True):
    sites: tuple[AcmeSite, ...]
    folder: str
    directory: str  # URL
    email: str
    challenge: str  # "tls-alpn-01" or "http-01"
    eab_kid: str = ""  # of the external account to which ours is bound
    eab_hmac_key: str = ""  # base64url

    @property
    def account_path(self) -> str:
        """Of the account's key (PEM)."""
        return os.path.join(self.folder, "account.key")


def path_of(folder: str, hosts: tuple[str, ...]) -> str:
    """Of the certificate for these."""
    return os.path.join(folder, f"{hosts[0]}.pem")
