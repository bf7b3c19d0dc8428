"""A real Redis or Valkey server, at a unix socket of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.harness import LONG, until

SMALL = ("--save", "", "--appendonly", "no", "--port", "0", "--daemonize", "no", "--databases", "4")


class RedisServer:
    """In a folder whose path is short: a socket's may have 107 bytes."""

    def __init__(self, folder: Path, *options: str) -> None:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        if found is None:
            pytest.skip("there is neither redis-server nor valkey-server")
        self.path = folder / "redis.sock"
        self._command = [found, "--unixsocket", str(self.path), "--dir", str(folder), *SMALL, *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        until(self._listens)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.path)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(LONG)
            self._process = None

    def ask(self, *words: str) -> bytes:
        """The first line of the reply to a command."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LONG)
            client.connect(str(self.path))
            client.sendall(" ".join(words).encode() + b"\r\n")
            return client.makefile("rb").readline().rstrip()
