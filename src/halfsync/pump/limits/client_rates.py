"""How many requests a client may send: `client_rate` and `client_burst`, for each route.

A token bucket for each client, kept as one number: the moment at which the bucket will be full again (the
generic cell rate algorithm). A request moves it by 1 / rate; if it is further away than a whole bucket takes,
the request is refused, and moves nothing.

A client is an address; of IPv6 a network of 64 bits, which is what one subscriber gets (other lengths are
settings). Peers on a unix socket that name nobody are no clients: they are proxies.

With a `limit_store` the bucket is common to several machines: see limit_store.py.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from halfsync.logs.error import log
from halfsync.pump.connection import Exchange
from halfsync.pump.limits.limit_store import SharedLimit
from halfsync.pump.quiet_log import QuietLog
from halfsync.wire.refusals import Refusal

MOST = 65_536
"""Clients of a route that are known at once, at 150 bytes each. Those whose buckets are full are forgotten
first; if there are too many others, all are."""
ROUNDING = 1e-6
"""Seconds by which sums of fractions may be off."""
TOO_MANY = 429


class Prefixes(NamedTuple):
    """Bits of an address that make a client."""

    ipv4: int = 32
    ipv6: int = 64


USUAL = Prefixes()
Share = Callable[[float, Callable[[bytes, float], None]], SharedLimit | None]


class ClientRate:
    """Of one route. Times are monotonic seconds."""

    def __init__(
        self, rate: float, burst: int, prefixes: Prefixes = USUAL, share: Share | None = None
    ) -> None:
        """`rate` in requests a second; `burst` is how many may come at once, 0: those of a second. `share`:
        LimitStore.limit, for one name."""
        self._prefixes = prefixes
        self._rate = rate
        self._step = 1 / rate
        self._tolerance = (max(1, burst or math.ceil(rate)) - 1) / rate
        self._full_at: dict[bytes, float] = {}
        self._log = QuietLog("were refused ")
        self._shared = share(self._step, self._heard) if share is not None else None

    def check(self, exchange: Exchange, client: str, now: float) -> None:
        """Raises Refusal."""
        key = key_of(client, self._prefixes)
        if key is None:
            return
        full_at = max(self._full_at.get(key, 0.0), now)
        wait = full_at - self._tolerance - now
        if wait <= ROUNDING:
            if len(self._full_at) >= MOST and key not in self._full_at:
                self._forget(now)
            self._full_at[key] = full_at + self._step
            if self._shared is not None:
                self._shared.count(key)
            return
        sentence = (
            f"429 to {client} for {exchange.named}: more than {self._rate:g} requests a second (client_rate)."
        )
        self._log.say("info", sentence, now)
        seconds = math.ceil(wait)
        raise Refusal(
            TOO_MANY,
            f"These are too many requests. Please try again in {seconds} s.",
            close=exchange.head.body_size != 0,
            retry_after=seconds,
        )

    def _heard(self, key: bytes, full_at: float) -> None:
        """What other machines have let through is in it."""
        if full_at > self._full_at.get(key, full_at):
            self._full_at[key] = full_at

    def _forget(self, now: float) -> None:
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        if len(self._full_at) >= MOST * 3 // 4:
            log(
                "warning", f"client_rate: more than {MOST} clients at once; what they have sent is forgotten."
            )
            self._full_at.clear()


@lru_cache(4096)
def key_of(client: str, prefixes: Prefixes = USUAL) -> bytes | None:
    """What stands for a client: its address, or the network of that length; None if it has none."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    length = prefixes.ipv4 if isinstance(address, ipaddress.IPv4Address) else prefixes.ipv6
    surplus = address.max_prefixlen - length
    return (int(address) >> surplus << surplus).to_bytes(len(address.packed), "big")
