"""Heads that were read before: what they mean, and where they go, is found by their very bytes.

Programs that call an interface again and again send the same head again and again, and a look-up costs
0.1 µs where parsing costs 4. The heads of browsers differ in their cookies, so from these the cookie is
cut out first, as for leases (see leases/known_heads.py).
"""

from __future__ import annotations

from typing import Any

from halfsync.pump.connection import Connection, Route
from halfsync.pump.leases.known_heads import KnownHeads, cut_cookie
from halfsync.pump.leases.leases import Key
from halfsync.wire.http1 import HeadLimits, RequestHead, parse_head

MAX_SEEN = 1024
MAX_SEEN_HEAD = 1024
"""Heads, and bytes of each, that are kept with what they mean: 2 MiB at most, twice."""

MAX_CLOSING = 64
"""The same, of clients that make a connection for each request: programs that ask for few things."""


class SeenHead:
    """A plain head, and where a request with it went before."""

    __slots__ = ("head", "known", "lease_key", "pool", "route", "uncookied")

    def __init__(self, head: RequestHead, uncookied: bytes) -> None:
        self.head = head
        self.uncookied = uncookied  # as it stands in the access log
        self.route: Route | None = None  # not admitted yet
        self.pool: Any = None  # of the route
        self.known: KnownHeads | None = None  # of the listener where it was; it may go elsewhere from others
        self.lease_key: Key = (-1, b"", b"", b"")

    def admitted(self, conn: Connection, route: Route) -> None:
        """A request with it came on `conn`, and went to `route`."""
        if self.known is not conn.known and conn.known.read_at_once and route.pool is not None:
            self.known = conn.known
            self.route = route
            self.pool = route.pool
            self.lease_key = (conn.origin.listener, self.head.method, self.head.host, self.head.target)


class SeenHeads:
    """`whole` and `uncookied` hold plain heads; by all their bytes, and (apart, for such a head has
    somebody's cookie in it) by their bytes without the cookie. What could break a limit by its cookie,
    because it is longer than `harmless`, is not to be looked up there. `closing` holds other heads without a
    cookie and a body, which only this file looks up."""

    def __init__(self, limits: HeadLimits) -> None:
        self.whole: dict[bytes, SeenHead] = {}
        self.uncookied: dict[bytes, SeenHead] = {}
        self.closing: dict[bytes, RequestHead] = {}
        self.forget(limits)

    def forget(self, limits: HeadLimits) -> None:
        """All of them; `limits` are those of heads from now on."""
        self._limits = limits
        self.harmless = limits.harmless
        self.whole.clear()
        self.uncookied.clear()
        self.closing.clear()

    def parse(self, raw: bytes) -> tuple[RequestHead, SeenHead | None]:
        """What a whole head means; and what will be found by it from now on. Raises Refusal."""
        uncookied = cut_cookie(raw) if len(raw) <= self.harmless else b""
        if not uncookied:
            closing = self.closing.get(raw)
            if closing is not None:
                return closing, None
            head = parse_head(raw, self._limits)
            if not head.plain:
                self._keep_closing(raw, head)
            return head, _keep(self.whole, raw, head)
        seen = self.uncookied.get(uncookied)
        if seen is not None:
            return seen.head.with_cookie(raw), seen
        head = parse_head(raw, self._limits)
        return head, _keep(self.uncookied, uncookied, head)

    def _keep_closing(self, raw: bytes, head: RequestHead) -> None:
        if head.body_size or head.upgrades or head.expects or len(raw) > MAX_SEEN_HEAD:
            return
        if len(self.closing) >= MAX_CLOSING:
            self.closing.clear()
        self.closing[raw] = head


def _keep(table: dict[bytes, SeenHead], key: bytes, head: RequestHead) -> SeenHead | None:
    if not head.plain or len(key) > MAX_SEEN_HEAD:
        return None
    if len(table) >= MAX_SEEN:
        table.clear()
    table[key] = seen = SeenHead(head, key)
    return seen
