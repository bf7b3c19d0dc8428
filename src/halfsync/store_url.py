"""Where a Redis or Valkey server is: what `limit_store` says."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True)
class StoreUrl:
    host: str  # "" with a `path`
    port: int
    path: str  # of a unix socket
    user: str
    password: str
    database: int

    @property
    def named(self) -> str:
        """For the log: without the password."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis://{host}:{self.port}"


def parse_store_url(text: str) -> StoreUrl:
    """Raises ValueError, with a sentence that goes on from the setting's name."""
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise ValueError(f"{SHOULD_BE}, not an address with such a port or host.") from None
    if parts.scheme == "rediss":
        raise ValueError("speaks no TLS: use redis:// to a tunnel or proxy (stunnel, spiped) that does.")
    if parts.scheme not in ("redis", "unix") or parts.query or parts.fragment:
        raise ValueError(f"{SHOULD_BE}.")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.strip("/"):
            raise ValueError(f"{SHOULD_BE}; of a socket it is the whole path.")
        return StoreUrl("", 0, unquote(parts.path), user, password, 0)
    database = parts.path.strip("/") or "0"
    if not parts.hostname or not (database.isascii() and database.isdigit()):
        raise ValueError(f"{SHOULD_BE}.")
    return StoreUrl(parts.hostname, port, "", user, password, int(database))


SHOULD_BE = "must be of the form redis://[[user]:password@]host[:port][/database] or unix:///path"
