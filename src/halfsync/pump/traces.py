"""Traces (`traces`): each request is a span, whose place in its trace stands in the request's traceparent.

Here is decided which trace a request belongs to (W3C Trace Context, level 1) and whether it is recorded, and
the header is written that the application finds. What came of the request is known when its log record is
made; so the record carries what the span has to know besides, and the worker that writes the log makes the
span (logs/traces.py). Nothing is sent from here.

As with request ids, a request with a header of its own takes the general road.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from halfsync.plan.plan import Plan
from halfsync.pump.connection import Exchange

_PARENT = re.compile(
    rb"\r\n(?i:traceparent):[ \t]*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
    rb"(-[^\r\n]*)?[ \t]*(?=\r\n)"
)
_PARENT_LINES = re.compile(rb"\r\ntraceparent:[^\r\n]*", re.IGNORECASE)
_STATE_LINES = re.compile(rb"\r\ntracestate:[^\r\n]*", re.IGNORECASE)
_SAMPLED = 1


class Traces:
    def __init__(self, plan: Plan, environ: Mapping[str, str]) -> None:
        """`environ`: the variables of OpenTelemetry count where no setting says otherwise."""
        places = range(len(plan.listeners))
        self._schemes = [plan.listeners[place].scheme.encode() for place in places]
        self._left_out = {place for place in places if plan.is_for_health(place)}
        ratio, self._follows_parent = _sampler(plan.settings.traces_ratio, environ)
        self._bound = round(ratio * (1 << 64))
        propagators = environ.get("OTEL_PROPAGATORS", "tracecontext")
        self._believes = "tracecontext" in [one.strip() for one in propagators.split(",")]
        self._bits = random.Random().getrandbits  # seeded by the kernel; trace ids are no secrets

    def begin(self, exchange: Exchange) -> None:
        """The request's span, of the trace that it says, or of a new one."""
        assert exchange.conn is not None
        listener = exchange.conn.origin.listener
        if exchange.notes or listener in self._left_out:
            return
        raw = exchange.raw
        trace, parent, flags = b"", b"", 0
        if b"\r\ntrace" in raw.lower():
            if self._believes:
                trace, parent, flags = _parent_in(raw)
            raw = _PARENT_LINES.sub(b"", raw)
            if not trace:
                raw = _STATE_LINES.sub(b"", raw)
        if not trace:
            trace = b"%032x" % (self._bits(128) or 1)
        if not parent or not self._follows_parent:
            flags = flags & ~_SAMPLED | (int(trace[16:], 16) < self._bound)
        span = b"%016x" % (self._bits(64) or 1)
        line = b"traceparent: 00-%b-%b-%02x\r\n" % (trace, span, flags & _SAMPLED)
        exchange.raw = raw = b"%b%b\r\n" % (raw[:-2], line)
        exchange.head = exchange.head.with_raw(raw)
        exchange.logged = b""
        exchange.notes = b":parent: %b\r\n:scheme: %b\r\n" % (parent, self._schemes[listener])


def without_notes(raw: bytes) -> bytes:
    """What a malformed request has sent, as far as a record may show it: nobody but us says `:scheme`."""
    return raw.partition(b"\r\n:scheme: ")[0]


def _parent_in(raw: bytes) -> tuple[bytes, bytes, int]:
    """Trace, span and flags of the caller's; b"" if there is none, or not one alone."""
    found = _PARENT.search(raw)
    if found is None or len(_PARENT_LINES.findall(raw)) != 1:
        return b"", b"", 0
    version, trace, parent, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more):
        return b"", b"", 0
    if not trace.strip(b"0") or not parent.strip(b"0"):
        return b"", b"", 0
    return trace, parent, int(flags, 16)


def _sampler(ratio: float, environ: Mapping[str, str]) -> tuple[float, bool]:
    """Which share of the traces that begin here is recorded; and whether a caller's decision counts."""
    name = environ.get("OTEL_TRACES_SAMPLER", "")
    if ratio == 1.0:
        if name.endswith("always_off"):
            ratio = 0.0
        elif name.endswith("traceidratio"):
            try:
                ratio = min(1.0, max(0.0, float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))))
            except ValueError:
                ratio = 1.0
    return ratio, not name or name.startswith("parentbased")


def traces_of(plan: Plan, environ: Mapping[str, str]) -> Traces | None:
    """None: there are none."""
    return Traces(plan, environ) if plan.settings.traces else None
