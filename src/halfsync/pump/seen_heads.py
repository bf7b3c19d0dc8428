"""Heads that were parsed before: what they mean is found by their very bytes.

Programs that call an interface again and again send the same head again and again, and a look-up costs
0.1 µs where parsing costs 4. The heads of browsers differ in their cookies, so from these the cookie is
cut out first, as for leases (see known_heads.py).
"""

from __future__ import annotations

from halfsync.pump.known_heads import cut_cookie
from halfsync.wire.http1 import Limits, RequestHead, parse_head

MAX_SEEN = 1024
MAX_SEEN_HEAD = 1024
"""Heads, and bytes of each, that are kept with what they mean: 2 MiB at most, twice."""


class SeenHeads:
    def __init__(self, limits: Limits, *, log_cookies: bool) -> None:
        self._limits = limits
        self._log_cookies = log_cookies
        # Plain heads; by all their bytes, and (apart, for such a head has somebody's cookie in it) by
        # their bytes without the cookie. What could break a limit by its cookie is not looked up.
        self._whole: dict[bytes, RequestHead] = {}
        self._uncookied: dict[bytes, RequestHead] = {}
        self.find = self._whole.get

    def parse(self, raw: bytes) -> RequestHead:
        """What a whole head means. Raises Refusal."""
        uncookied = cut_cookie(raw) if len(raw) <= self._limits.harmless else b""
        if not uncookied:
            head = parse_head(raw, self._limits)
            _keep(self._whole, raw, head)
            return head
        like = self._uncookied.get(uncookied)
        if like is not None:
            head = like.with_cookie(raw)
        else:
            head = parse_head(raw, self._limits)
            _keep(self._uncookied, uncookied, head)
        if not self._log_cookies:
            head.logged = uncookied
        return head


def _keep(seen: dict[bytes, RequestHead], key: bytes, head: RequestHead) -> None:
    if head.plain and len(key) <= MAX_SEEN_HEAD:
        if len(seen) >= MAX_SEEN:
            seen.clear()
        seen[key] = head
