"""Logs to systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram for each
entry, which has fields beside its text.

    PRIORITY=6
    SYSLOG_IDENTIFIER=halfsync
    MESSAGE=text

A value with line ends in it is written with its length before it. An entry that is too large for a datagram
is put into a sealed memory file, whose descriptor is sent in its place.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping

from halfsync.logs.datagrams import Datagrams
from halfsync.system.primitives import os

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "halfsync"


class Journal:
    """`severity` is that of the access log's entries."""

    severity = 6

    def __init__(self, path: str = SOCKET) -> None:
        self.name = f"the journal at {path}"
        self._datagrams = Datagrams(path)

    @property
    def why(self) -> str:
        """Why the last one was not sent."""
        return self._datagrams.why

    def send(
        self, text: str, severity: int, wait: float = 0.0, fields: Mapping[str, str] | None = None
    ) -> bool:
        """One entry. `fields`: further ones, by names of capital letters, digits and underscores."""
        every = {
            "PRIORITY": str(severity),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            **(fields or {}),
            "MESSAGE": text,
        }
        data = b"".join(_field(name, value) for name, value in every.items())
        try:
            return self._datagrams.send(data, wait)
        except OSError:
            return self._send_in_file(data, wait)

    def _send_in_file(self, data: bytes, wait: float) -> bool:
        try:
            file = os.memfd_create("halfsync-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            self._datagrams.why = os.strerror(error.errno or 0)
            return False
        try:
            with open(file, "wb", closefd=False) as written:
                written.write(data)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            return self._datagrams.send(b"", wait, (file,))
        except OSError as error:
            self._datagrams.why = os.strerror(error.errno or 0)
            return False
        finally:
            os.close(file)


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
