"""Which leases are not granted, though a handler asked: those that know less than the response says.

A lease repeats a response to whoever sends "the same request", and which header fields make it the same
is the handler's word. Where request or response show that this word can't be true, the lease is refused:
the response is sent once, and the log names the rule, once for each.

Numbered, as they stand in `objection`:

 1. A request with a body: the body is not part of what makes two requests the same.
 2. A response that sets a cookie, which is for one client.
 3. A server error (5xx): nobody means to repeat it, but a lease may have been asked for before it happened.
 4. 206, 304, 412, 416: they respond to a range or a condition, so there has to be one, and it has to be
    named, with what could make another request of it. If-None-Match and If-Match alone decide where they
    stand (RFC 9110 13.2.2), so then the dates beside them need no name.
 5. `Vary` with a field that is not named; `Vary: *` says that nobody can name them.
 6. `Cache-Control: private` or `no-store`. (`no-cache` and `max-age` are for the caches of others.)
 7. A request with `Authorization`, unless it is named or the handler said `public` (RFC 9111 3.5).
 8. A request of a client that has shown a certificate, unless the handler said `public`.

A 200 is right also for a request with a range or a condition that was not named, as from any server that
knows neither. Not so for If-Match and If-Unmodified-Since, which forbid it: see `may_use`.
"""

from __future__ import annotations

import re

from halfsync.wire.http1 import RequestHead
from halfsync.wire.messages import Reply

Names = tuple[bytes, ...]

_DEPENDS_ON = {
    206: (b"range", b"if-range"),
    304: (b"if-none-match", b"if-modified-since"),
    412: (b"if-match", b"if-unmodified-since"),
    416: (b"range", b"if-range"),
}
_DECIDES_ALONE = frozenset({b"if-none-match", b"if-match"})
_FORBIDDING = (b"if-match", b"if-unmodified-since")
_AUTHORIZATION = re.compile(rb"\r\nauthorization:", re.IGNORECASE)
_UNSHARED = frozenset({b"private", b"no-store"})


def objection(
    head: RequestHead, reply: Reply, names: Names, public: bool, *, has_certificate: bool = False
) -> str:
    """Why `reply`, the response to `head`, can't have the lease that it asks for: the end of a sentence that
    begins with "because"; "" if it can."""
    if head.body_size:
        return "the request has a body"
    if reply.status >= 500:
        return f"its status is {reply.status}"
    if reply.status in _DEPENDS_ON and (why := _unconditioned(head, reply.status, names)):
        return why
    for name, values in _fields(reply.fields):
        if name == b"set-cookie":
            return "it sets a cookie"
        if name == b"vary" and (missing := _not_named(values, names)):
            return f"it has 'Vary: {missing}' and the lease does not name that"
        if name == b"cache-control" and not _UNSHARED.isdisjoint(_directives(values)):
            return "its Cache-Control says private or no-store"
    if not (public or b"authorization" in names) and has_authorization(head):
        return "the request has Authorization, which the lease does not name, and is not said to be public"
    if has_certificate and not public:
        return "the client has shown a certificate, and it is not said to be public"
    return ""


def may_use(head: RequestHead, names: Names, public: bool) -> bool:
    """Whether a lease that was granted with `names` may be used for this request, the same by them."""
    conditions = head.conditions
    if conditions and any(name in conditions and name not in names for name in _FORBIDDING):
        return False
    return public or b"authorization" in names or not has_authorization(head)


def has_authorization(head: RequestHead) -> bool:
    return _AUTHORIZATION.search(head.raw) is not None


def _unconditioned(head: RequestHead, status: int, names: Names) -> str:
    conditions = head.conditions or {}
    first, second = _DEPENDS_ON[status]
    if first not in conditions and (second not in conditions or status in (206, 416)):
        return f"its status is {status} and the request has no {first.decode()}"
    alone = first in conditions and first in _DECIDES_ALONE
    for name in (first,) if alone else (first, second):
        if name not in names:
            return f"its status is {status} and the lease does not name {name.decode()}"
    return ""


def _fields(lines: bytes) -> list[tuple[bytes, list[bytes]]]:
    """Names in lower case, and what stands between the commas of their values."""
    pairs = (line.partition(b":") for line in lines.split(b"\r\n") if line)
    return [(name.lower(), [one.strip() for one in value.split(b",")]) for name, _, value in pairs]


def _not_named(varies: list[bytes], names: Names) -> str:
    """The first of the fields in a Vary that is not named."""
    missing = (name for name in varies if name and name.lower() not in names)
    return next(missing, b"").decode("latin-1")


def _directives(values: list[bytes]) -> list[bytes]:
    return [value.partition(b"=")[0].lower() for value in values]
