"""Says at a stop what it waits for: every few seconds, which requests are in flight and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterable

from halfsync.logs.error import log
from halfsync.pump.connection import Connection, Exchange
from halfsync.pump.states import RECEIVING, SENDING, ExchangeState

FIRST = 2.0
"""Seconds after which a stop is worth a word; most are over by then."""
EVERY = 5.0
"""Seconds between two words."""
SHOWN = 5
"""Requests that are named, the oldest ones."""

_TURNS = {
    ExchangeState.RECEIVING: "its body is still coming",
    ExchangeState.QUEUED: "waits for a thread",
    ExchangeState.WORKING: "in its handler",
    ExchangeState.SENDING: "being sent",
    ExchangeState.PRODUCING: "its handler has more to give",
}


def _turn(exchange: Exchange) -> str:
    if exchange.stream is not None and exchange.stream.is_awaited and exchange.state is not SENDING:
        return _TURNS[RECEIVING]
    return _TURNS.get(exchange.state, "ending")


class StopReport:
    """`look` is called in each turn while the pump drains."""

    def __init__(self) -> None:
        self._due = 0.0  # monotonic; 0: not yet begun

    def look(self, connections: Iterable[Connection], now: float, until: float) -> None:
        """`until`: when what is in flight is cut off."""
        if not self._due:
            self._due = now + FIRST
        if now < self._due:
            return
        self._due = now + EVERY
        waiting = [(conn, conn.exchange) for conn in connections if conn.exchange is not None]
        if waiting:
            log("info", _sentence(waiting, now, until))


def _sentence(waiting: list[tuple[Connection, Exchange]], now: float, until: float) -> str:
    waiting.sort(key=lambda one: one[0].first_byte)
    named = [
        f"{exchange.named} for {now - conn.first_byte:.0f} s ({_turn(exchange)})"
        for conn, exchange in waiting[:SHOWN]
    ]
    if len(waiting) > SHOWN:
        named.append(f"and {len(waiting) - SHOWN} more")
    count = "1 request is" if len(waiting) == 1 else f"{len(waiting)} requests are"
    left = f"; what is left in {until - now:.0f} s is cut off" if until - now < 1e6 else ""
    return f"stopping: {count} in flight: {', '.join(named)}{left}."


def cut_off_sentence(count: int, seconds: float) -> str:
    """`count` requests are cut off, which had so many seconds; 0: it is a stop at once."""
    requests, are = ("1 request", "is") if count == 1 else (f"{count} requests", "are")
    if not seconds:
        return f"{requests} in flight {are} cut off."
    were = "was" if count == 1 else "were"
    return f"{requests} {were} still in flight after {seconds:g} s and {are} cut off."
