"""Makes what the demo needs in `var/`: a secret, the database, and a large file to download.

Run before the server; what is there already stays.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from guestbook import VAR, store

MIB = 1024 * 1024
DOWNLOAD = "hundred-mebibytes.bin"
DOWNLOAD_SIZE = 100 * MIB


def prepare(var: Path = VAR, size: int = DOWNLOAD_SIZE) -> None:
    (var / "download").mkdir(parents=True, exist_ok=True)
    _make_secret(var / "secret")
    store.prepare(var / "guestbook.sqlite")
    _make_download(var / "download" / DOWNLOAD, size)


def _make_secret(path: Path) -> None:
    if path.exists():
        return
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))


def _make_download(path: Path, size: int) -> None:
    """Random bytes, with their SHA-256 beside them. Complete, or not there at all."""
    if path.exists() and path.stat().st_size == size:
        return
    print(f"making {path.name} ({size // MIB} MiB), once ...")
    digest = hashlib.sha256()
    unfinished = path.with_name("." + path.name)
    with open(unfinished, "wb") as file:
        for _ in range(0, size, MIB):
            block = os.urandom(MIB)
            digest.update(block)
            file.write(block)
    path.with_suffix(".sha256").write_text(f"{digest.hexdigest()}  {path.name}\n")
    unfinished.rename(path)


if __name__ == "__main__":
    prepare()
