"""Where a connection comes from: what a handler is told of it, made once for each connection."""

from __future__ import annotations


class Origin:
    """Facts of a connection that are the same for all its requests."""

    __slots__ = ("client", "client_port", "counted_as", "has_certificate", "listener", "logged", "tls")

    def __init__(self, client: str, client_port: int, listener: int) -> None:
        self.client = client  # address; "" on a unix socket
        self.logged = client  # as a log record has it
        self.client_port = client_port
        self.counted_as: bytes | None = None  # while it counts for `client_connections`
        self.listener = listener  # index into Plan.listeners, which say address and scheme
        self.tls = b""  # over TLS: what is known of that (see tls/facts.py)
        self.has_certificate = False  # the client has shown one

    def __str__(self) -> str:
        """For the error log."""
        return self.client or "a unix socket"

    def log_site(self, wanted: bool) -> None:
        """Whether the access log has the names of sites: then its records say which listener it was."""
        self.logged = f"{self.client} {self.listener}" if wanted else self.client
