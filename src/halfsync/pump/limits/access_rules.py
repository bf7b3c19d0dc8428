"""Routes that are not for everybody, or not as often as they like: `allow` and `deny`, and `client_rate`.

Whose request it is, is what a handler is told: the peer, or whom a trusted proxy names (see forwarded.py). A
peer without an address, on a unix socket, is in no network.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from halfsync.http.forwarded import Trust, named_clients
from halfsync.plan.plan import RoutePlan
from halfsync.pump.connection import Exchange
from halfsync.pump.limits.client_rates import ClientRate, Prefixes, Share
from halfsync.pump.quiet_log import QuietLog
from halfsync.wire.refusals import Refusal

_FORWARDED = re.compile(rb"\r\n(x-forwarded-for|forwarded):[ \t]*([^\r]*)", re.IGNORECASE)


class Allowed:
    """`allow` and `deny` of one route."""

    def __init__(self, planned: RoutePlan) -> None:
        self._allow = [ipaddress.ip_network(text, strict=False) for text in planned.allow]
        self._deny = [ipaddress.ip_network(text, strict=False) for text in planned.deny]
        self._objection = lru_cache(4096)(self._look)
        self._log = QuietLog("were refused ")

    def check(self, exchange: Exchange, client: str, now: float) -> None:
        """Raises Refusal. `now` is monotonic."""
        setting = self._objection(client)
        if not setting:
            return
        self._log.say("info", f"403 to {client or 'a unix socket'} for {exchange.named}: {setting}.", now)
        raise Refusal(403, "This is not for you.", close=exchange.head.body_size != 0)

    def _look(self, client: str) -> str:
        """Why it is refused; "" if it is not."""
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return "it has no address that `allow` could have" if self._allow else ""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._deny):
            return "`deny` has it"
        if self._allow and not any(address in network for network in self._allow):
            return "`allow` does not have it"
        return ""


class Access:
    """All that a route asks of its clients. See AccessCheck."""

    def __init__(self, trust: Trust, checks: list[Allowed | ClientRate]) -> None:
        self._trust = trust
        self._checks = checks

    def check(self, exchange: Exchange, now: float) -> None:
        client = self._client_of(exchange)
        for one in self._checks:
            one.check(exchange, client, now)

    def _client_of(self, exchange: Exchange) -> str:
        """Its address, or that of the client that a trusted proxy names."""
        assert exchange.conn is not None
        client = exchange.conn.origin.client
        if found := _FORWARDED.findall(exchange.raw):
            fields: dict[str, str] = {}
            for name, value in found:
                key, text = name.decode().lower(), value.decode("latin-1")
                fields[key] = f"{fields[key]}, {text}" if key in fields else text
            client = self._trust.client(client, named_clients(fields))
        return client


def access_of(planned: RoutePlan, trust: Trust, prefixes: Prefixes, share: Share | None) -> Access | None:
    """None: the route is for everybody. `prefixes`, `share`: see ClientRate."""
    checks: list[Allowed | ClientRate] = []
    if planned.allow or planned.deny:
        checks.append(Allowed(planned))
    if planned.client_rate:
        checks.append(ClientRate(planned.client_rate, planned.client_burst, prefixes, share))
    return Access(trust, checks) if checks else None
