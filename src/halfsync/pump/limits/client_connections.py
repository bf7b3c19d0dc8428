"""How many connections one client may have at once: `client_connections`.

What a client is, client_rates.py says. Trusted proxies (`forwarded_allow_ips`) are none, since their
connections are many clients'; nor is whoever has no address. At addresses with `proxy_protocol`, and for
health checks, nobody is counted.

With a `limit_store` those at other machines count too: see shared_connections.py.
"""

from __future__ import annotations

from halfsync.http.forwarded import Trust
from halfsync.pump.limits.client_rates import USUAL, Prefixes, key_of
from halfsync.pump.limits.limit_store import LimitStore
from halfsync.pump.limits.shared_connections import SharedConnections
from halfsync.pump.origin import Origin
from halfsync.pump.quiet_log import QuietLog
from halfsync.settings.table import Settings


class ClientConnections:
    """`most` is 0 if there is no limit; then nothing is counted."""

    def __init__(self) -> None:
        self.most = 0
        self._counts: dict[bytes, int] = {}
        self._trust = Trust((), ())
        self._prefixes = USUAL
        self._log = QuietLog("were refused ")
        self.store: LimitStore | None = None
        self._shared: SharedConnections | None = None

    def configure(self, settings: Settings) -> None:
        """The store, if there is one, has been configured before."""
        self.most = settings.client_connections
        self._shared = None
        if self.store is not None and self.most:
            self._shared = self.store.connections(self._counts)
        self._prefixes = Prefixes(settings.client_prefix_ipv4, settings.client_prefix_ipv6)
        self._trust = Trust(settings.forwarded_allow_ips, settings.forwarded_headers)

    def has_room(self, client: str, now: float) -> bool:
        """Whether this client may have one more. If not, the log is told; `now` is monotonic."""
        key = self._key_of(client)
        if key is None:
            return True
        here = self._counts.get(key, 0)
        elsewhere = 0 if self._shared is None else self._shared.others(key, now)
        if here + elsewhere < self.most:
            return True
        if self._shared is not None:
            self._shared.has_changed(key)
        where = f", {elsewhere} of them at other machines" if elsewhere else ""
        self._log.say(
            "info",
            f"429 to {client}: it has {here + elsewhere} connections already{where} (client_connections).",
            now,
        )
        return False

    def came(self, origin: Origin) -> None:
        """A connection is there, and counts until `left`."""
        key = self._key_of(origin.client)
        if key is not None:
            origin.counted_as = key
            self._counts[key] = self._counts.get(key, 0) + 1
            if self._shared is not None:
                self._shared.has_changed(key)

    def left(self, origin: Origin) -> None:
        """That connection is closed."""
        key, origin.counted_as = origin.counted_as, None
        if key is None:
            return
        if (count := self._counts.pop(key, 0)) > 1:
            self._counts[key] = count - 1
        if self._shared is not None:
            self._shared.has_changed(key)

    def _key_of(self, client: str) -> bytes | None:
        return None if self._trust.trusts(client) else key_of(client, self._prefixes)
