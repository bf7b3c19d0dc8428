"""Where a Redis or Valkey server is: what `limit_store` says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote, urlsplit

DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True)
class StoreUrl:
    host: str  # "" with a `path`
    port: int
    path: str  # of a unix socket
    user: str
    password: str
    database: int
    tls: bool = False
    verifies: bool = True  # its certificate
    ca_certs: str = ""  # files; "": those of the system
    certfile: str = ""  # "": no certificate of our own
    keyfile: str = ""

    @property
    def named(self) -> str:
        """For the log: without the password."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}"


def parse_store_url(text: str) -> StoreUrl:
    """Raises ValueError, with a sentence that goes on from the setting's name."""
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise ValueError(f"{SHOULD_BE}, not an address with such a port or host.") from None
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment:
        raise ValueError(f"{SHOULD_BE}.")
    if parts.query and parts.scheme != "rediss":
        raise ValueError(f"{SHOULD_BE}; only rediss:// has options behind '?'.")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.strip("/"):
            raise ValueError(f"{SHOULD_BE}; of a socket it is the whole path.")
        return StoreUrl("", 0, unquote(parts.path), user, password, 0)
    database = parts.path.strip("/") or "0"
    if not parts.hostname or not (database.isascii() and database.isdigit()):
        raise ValueError(f"{SHOULD_BE}.")
    found = StoreUrl(parts.hostname, port, "", user, password, int(database), parts.scheme == "rediss")
    return _with_options(found, parts.query) if parts.query else found


def _with_options(url: StoreUrl, query: str) -> StoreUrl:
    """Of TLS, by the names that they have in the URLs of other clients (redis-py)."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "ssl_cert_reqs" and value in ("none", "required"):
            url = replace(url, verifies=value == "required")
        elif name == "ssl_ca_certs" and value:
            url = replace(url, ca_certs=value)
        elif name == "ssl_certfile" and value:
            url = replace(url, certfile=value)
        elif name == "ssl_keyfile" and value:
            url = replace(url, keyfile=value)
        else:
            raise ValueError(f"has an option {name}={value!r} behind '?'; there are {OPTIONS}.")
    if url.keyfile and not url.certfile:
        raise ValueError("has ssl_keyfile, and no ssl_certfile.")
    return url


OPTIONS = "ssl_ca_certs=FILE, ssl_certfile=FILE, ssl_keyfile=FILE and ssl_cert_reqs=none"

SHOULD_BE = (
    "must be of the form redis://[[user]:password@]host[:port][/database], the same with rediss:// (TLS), or "
    "unix:///path"
)
