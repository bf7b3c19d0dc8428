"""Leases: responses that the pump may repeat without a worker.

Theory of operation
-------------------
A worker's response may carry a lease: for so many seconds the same response may be given to the same
request. The same request means the same listener (and so the same scheme), site, method and target, and the
same values of the header fields that the handler named. So what is costly about a file (path walk, symlink
check, open, stat) is done by a worker, once in a lease, and the pump stays a byte shuffler. What a lease
may not be granted for, whatever the handler says, stands in rules.py.

Two look-ups, the short one first:

 1. `known`, by listener: the very bytes of a head that a lease was used for before. Same
    bytes, same request: no parsing at all (0.1 µs instead of 4). A browser's heads to one URL are alike
    except for the cookie, and a lease that does not name the cookie does not care for it; so such heads are
    kept, and looked up in `known_uncookied`, with their Cookie line cut out, after a check that the
    line is a proper one (`cut_cookie`). Only heads that passed every check of `wire.http1` get in.
 2. `find`: by the parsed head.

`Leased.wire` is the complete response, head, Date and body, made at most once a second. A lease is renewed
early: the first request in its last fifth goes to a worker while the others are still served
here, so a hot file's expiry is not a stampede. Once that one has its response nobody gets the old one: the
lease that is renewed is over, in whatever table it is found, and also if there is no new one.

A lease ends with the worker that granted it, when that is told to retire: after a reload nothing of the
old code is repeated.

Bounded in bytes, least recently found out first; what `known` holds counts too.
"""

from __future__ import annotations

from collections import OrderedDict

from halfsync.logs.error import log
from halfsync.pump.leases.known_heads import KnownHeads, cut_cookie
from halfsync.pump.leases.leased import Leased
from halfsync.pump.leases.rules import may_use, objection
from halfsync.scoreboard.counts import LEASE_MISSES
from halfsync.wire.http1 import CONDITIONAL, RequestHead
from halfsync.wire.http1_responses import BODILESS
from halfsync.wire.messages import Reply

Key = tuple[int, bytes, bytes, bytes]
"""Listener, method, host, target."""

MAX_KNOWN_HEAD = 4096
"""Bytes. A longer head is parsed each time."""
MAX_KNOWN = 4096
"""Heads."""
MAX_REFUSED = 64
"""Kinds of leases that were refused, of which the log is told."""
MAX_VARIANTS = 64
"""Of one method and target: ranges and validators are the client's to choose."""
EARLY = 0.8
"""Of a lease's time, after which one request goes to a worker to renew it."""


class _Variants:
    """The leases of one method and target: by the values of the fields that the handler named."""

    __slots__ = ("by_values", "names", "public")

    def __init__(self, names: tuple[bytes, ...], public: bool) -> None:
        self.names = names
        self.public = public
        self.by_values: dict[tuple[bytes | None, ...], Leased] = {}

    @property
    def bytes_held(self) -> int:
        return sum(leased.cost for leased in self.by_values.values())

    def end(self) -> None:
        for leased in self.by_values.values():
            leased.end()


class Leases:
    def __init__(self, memory: int, listeners: int, words: memoryview, *, cut_cookies: bool = True) -> None:
        """`words`: Scoreboard.counts. `cut_cookies` is for limits on heads that a cookie in MAX_CUT_HEAD
        bytes can't break."""
        self.memory = memory
        self.words = words
        self.cut_cookies = cut_cookies
        self.held = 0  # bytes
        self.table: OrderedDict[Key, _Variants] = OrderedDict()
        # By listener: the same bytes at another address or scheme may be another site's request.
        self.known = [KnownHeads() for _ in range(listeners)]
        self._refused: set[tuple[str, str]] = set()  # what the log was told

    def known_of(self, listener: int) -> KnownHeads:
        """The table of that listener, which may be a new one."""
        while len(self.known) <= listener:
            self.known.append(KnownHeads())
        return self.known[listener]

    def remember(self, raw: bytes, listener: int, leased: Leased) -> None:
        """`raw` is a checked head, of a 1.1 request without a body whose connection is kept."""
        if len(raw) > MAX_KNOWN_HEAD:
            return
        if sum(map(len, self.known)) >= MAX_KNOWN:
            self.forget_heads()
        uncookied = cut_cookie(raw) if leased.ignores_cookie and self.cut_cookies else b""
        known = self.known_of(listener)  # of a transport that is never on the hot path it may be the first
        if uncookied:
            known.uncookied[uncookied] = leased
        else:
            known.whole[raw] = leased

    def remember_last(self, raw: bytes, listener: int, leased: Leased) -> None:
        """`raw` is a checked head without a body, of a client that asks for the connection's end. (One with
        a cookie is somebody's own, and is not remembered.)"""
        if len(raw) > MAX_KNOWN_HEAD or cut_cookie(raw):
            return
        if sum(map(len, self.known)) >= MAX_KNOWN:
            self.forget_heads()
        self.known_of(listener).last[raw] = leased

    def remember_http2(self, head: RequestHead, listener: int, leased: Leased, logged: bytes) -> None:
        """The same for a head of HTTP/2, which is looked up by itself. `logged`: as the access log has it."""
        if len(head.raw) > MAX_KNOWN_HEAD:
            return
        if sum(map(len, self.known)) >= MAX_KNOWN:
            self.forget_heads()
        self.known[listener].http2[head] = (leased, logged)

    def forget_heads(self) -> None:
        for known in self.known:
            known.clear()

    def find(self, head: RequestHead, listener: int, *, has_certificate: bool = False) -> Leased | None:
        """The lease for this request, whether or not it has expired. `has_certificate`: its client has shown
        one, as good as an Authorization that is not named."""
        key = (listener, head.method, head.host, head.target)
        variants = self.table.get(key)
        if variants is None or not may_use(head, variants.names, variants.public):
            return None
        if has_certificate and not variants.public:
            return None
        leased = variants.by_values.get(_values(head, variants.names))
        if leased is not None:
            self.table.move_to_end(key)
        return leased

    def grant(
        self,
        head: RequestHead,
        listener: int,
        reply: Reply,
        leased: Leased,
        now: float,
        application: str,
        *,
        has_certificate: bool = False,
    ) -> None:
        """From now on `leased`, made of `reply`, is the response to this request, if the rules allow it."""
        lease = reply.lease
        assert lease is not None
        names = tuple(name.encode("latin-1") for name in lease.names)
        if why := objection(head, reply, names, lease.public, has_certificate=has_certificate):
            self._refuse(application, why)
            return
        key = (listener, head.method, head.host, head.target)
        values = _values(head, names)
        variants = self.table.get(key)
        is_alike = variants is not None and variants.names == names and variants.public == lease.public
        old = variants.by_values.get(values) if variants is not None and is_alike else None
        if old is not None and now < old.expires and 0 < leased.begun_ns < old.begun_ns:
            return  # its handler was slow, and a later one has seen what is newer
        self.words[LEASE_MISSES] += 1
        leased.expires = now + lease.seconds
        leased.renew_at = now + lease.seconds * EARLY
        if head.method == b"HEAD" or reply.status in BODILESS:
            leased.head_only = True
            leased.length = reply.length
            leased.file = leased.stamp = None  # nothing of it will be sent
        leased.ignores_cookie = b"cookie" not in names
        if variants is not None:
            del self.table[key]  # for its place
            self.held -= variants.bytes_held
            if not is_alike or (old is None and len(variants.by_values) >= MAX_VARIANTS):
                variants.end()
                variants = None
        if variants is None:
            variants = _Variants(names, lease.public)
        if old is not None:
            leased.take_copy(old)
            old.end()
        variants.by_values[values] = leased
        self.table[key] = variants
        known = self.known_of(listener).http2
        if head in known and leased.file is None and may_use(head, names, lease.public):
            known[head] = (leased, known[head][1])  # it is renewed, and need not be looked for again
        self.held += variants.bytes_held
        while self.held > self.memory and self.table:
            _, oldest = self.table.popitem(last=False)
            self.held -= oldest.bytes_held
            self.forget_heads()  # they may hold what has just been let go

    def _refuse(self, application: str, why: str) -> None:
        """Say it, once of each kind."""
        said = (application, why)
        if said not in self._refused and len(self._refused) < MAX_REFUSED:
            self._refused.add(said)
            log(
                "warning",
                f"{application} asked for a lease of a response that can't have one, because {why}. "
                "(Said once; see 'What a lease is' in the documentation.)",
            )

    def end_of_target(self, head: RequestHead, listener: int) -> None:
        """What this request asks for is no longer what it was, whatever the method, range or validator."""
        for method in (b"GET", b"HEAD"):
            variants = self.table.get((listener, method, head.host, head.target))
            if variants is not None:
                variants.end()

    def end_of(self, worker: int) -> None:
        """This worker is to retire: other code may be next."""
        for variants in self.table.values():
            for leased in variants.by_values.values():
                if leased.granted_by == worker:
                    leased.end()

    def sweep(self, now: float) -> None:
        """Let go of all that has expired: a descriptor held for nobody is a disk that stays full."""
        stale = [key for key, v in self.table.items() if all(x.expires <= now for x in v.by_values.values())]
        for key in stale:
            self.held -= self.table.pop(key).bytes_held
        for known in self.known:
            known.drop_expired(now)


def _values(head: RequestHead, names: tuple[bytes, ...]) -> tuple[bytes | None, ...]:
    if CONDITIONAL.issuperset(names):
        conditions = head.conditions
        return tuple(map(conditions.get, names)) if conditions else (None,) * len(names)
    return tuple(_field(head.raw, name) for name in names)


def _field(raw: bytes, name: bytes) -> bytes | None:
    """All values of a field that the pump does not pick by itself. Only leases that name such a
    field pay for this."""
    values = [
        value.strip(b" \t")
        for key, _, value in (line.partition(b":") for line in raw.split(b"\r\n")[1:-2])
        if key.lower() == name
    ]
    return b", ".join(values) if values else None
