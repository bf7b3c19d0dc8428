"""A process that keeps the certificates of `acme` sites valid: orders them, renews them, and tells the parent
of each new one, which then reloads.

One thread talks to the authority, which may take minutes; the main thread reads orders meanwhile. It runs as
whoever started the server, since it writes keys; and it sees nothing that clients send. What the authority
has to find at the site (challenges) goes through the parent to the pump.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Mapping

from halfsync import channel
from halfsync.logs.error import log, reopen
from halfsync.plan.plan import Plan
from halfsync.tls.acme_plan import AcmePlan, AcmeSite
from halfsync.wire.orders import (
    Challenges,
    ChallengesShown,
    Changed,
    ErrorLogFile,
    Ready,
    TryAgain,
    decode_order,
    encode,
)

FIRST_PAUSE, LAST_PAUSE = 60.0, 6 * 3600.0
"""Seconds between two tries of what has failed; each is twice the one before. (Let's Encrypt allows five
failed validations an hour.)"""
LONGEST_WAIT = 3600.0
"""Seconds; then the clock is looked at again, which may have been set."""
SHOWN_WITHIN = 20.0
"""Seconds for the pump to show a challenge."""


def run(plan: Plan, orders: socket.socket) -> int:
    """The process's whole life; its exit status."""
    assert plan.acme is not None
    issuer = Issuer(plan.acme, orders)
    channel.send(orders, encode(Ready(os.getpid())))
    threading.Thread(target=issuer.run, daemon=True).start()
    while (packet := channel.receive(orders)) is not None:
        issuer.take(packet)
    return 0


class Issuer:
    def __init__(self, plan: AcmePlan, orders: socket.socket) -> None:
        self._plan = plan
        self._orders = orders
        self._wake = threading.Event()
        self._shown = threading.Condition()
        self._number = 0  # of the challenges that were published last
        self._known = 0  # the last that the pump shows
        self._new: list[str] = []  # hosts with a certificate of which the parent knows nothing yet
        self._pauses: dict[AcmeSite, float] = {}
        self._try_at: dict[AcmeSite, float] = {}  # monotonic: of those that have failed
        self._wanted: dict[AcmeSite, float] = {}  # wall clock: when the authority wants it to be renewed
        self._ask_at: dict[AcmeSite, float] = {}  # wall clock: when it is asked that again

    def take(self, packet: tuple[bytes, list[int]]) -> None:
        """An order."""
        data, descriptors = packet
        order = decode_order(data)
        if isinstance(order, ErrorLogFile) and descriptors:
            reopen(descriptors[0])
        elif isinstance(order, ChallengesShown):
            with self._shown:
                self._known = order.number
                self._shown.notify_all()
        elif isinstance(order, TryAgain):
            self._try_at.clear()
            self._wake.set()
        channel.close_all(descriptors)

    def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                wait = min(self._serve(site) for site in self._plan.sites)
            except Exception:  # noqa: BLE001 (it is the only thread, and there will be another time)
                log("error", f"acme: an internal error:\n{traceback.format_exc()}")
                wait = FIRST_PAUSE
            if self._new:  # when all have had their turn: a reload may replace this process
                names = ", ".join(self._new)
                self._new = []
                channel.send(self._orders, encode(Changed(f"the certificate for {names}")))
            self._wake.wait(max(1.0, min(wait, LONGEST_WAIT)))

    def _serve(self, site: AcmeSite) -> float:
        """Order its certificate if that is due. Gives the seconds until it has to be looked at again."""
        now = time.time()
        renew_at = self._renew_at(site, now)
        if renew_at > now:
            return min(renew_at, self._ask_at[site]) - now
        left = self._try_at.get(site, 0.0) - time.monotonic()
        return left if left > 0 else self._order(site)

    def _renew_at(self, site: AcmeSite, now: float) -> float:
        """By the certificate's time, or earlier if the authority wants that, such as before it revokes it."""
        from halfsync.issuing import files

        by_its_time = files.renew_at(site.path, site.hosts)
        if by_its_time <= now:
            return by_its_time
        if self._ask_at.get(site, 0.0) <= now:
            self._ask(site, by_its_time)
        return min(by_its_time, self._wanted.get(site, by_its_time))

    def _ask(self, site: AcmeSite, by_its_time: float) -> None:
        from halfsync.issuing.authority import renewal_time

        try:
            with open(site.path, "rb") as file:
                pem = file.read()
        except FileNotFoundError:  # somebody has just taken it away
            self._wanted[site] = 0.0
            return
        wanted, self._ask_at[site] = renewal_time(self._plan, pem)
        if wanted is None:
            self._wanted.pop(site, None)
            return
        self._wanted[site] = wanted
        if wanted < by_its_time:
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(wanted))
            log("info", f"acme: the authority wants {', '.join(site.hosts)} to be renewed early, at {when}.")

    def _order(self, site: AcmeSite) -> float:
        from halfsync.issuing import files
        from halfsync.issuing.authority import OrderError, order

        names = ", ".join(site.hosts)
        log("info", f"acme: ordering a certificate for {names} at {self._plan.directory}.")
        try:
            replaces = files.identifier(site.path, site.hosts)
            pem = order(self._plan, site.hosts, self._publish, replaces)
            files.write(site.path, pem)
        except (OrderError, OSError) as error:
            return self._failed(site, str(error).rstrip("."))
        self._pauses.pop(site, None)
        for kept in (self._try_at, self._wanted, self._ask_at):
            kept.pop(site, None)
        log("info", f"acme: there is a new certificate for {names}: {site.path}.")
        self._new += site.hosts
        return 1.0

    def _failed(self, site: AcmeSite, why: str) -> float:
        pause = self._pauses.get(site, FIRST_PAUSE)
        self._pauses[site] = min(2 * pause, LAST_PAUSE)
        self._try_at[site] = time.monotonic() + pause
        names = ", ".join(site.hosts)
        log(
            "error",
            f"acme: no new certificate for {names}: {why}. The one that is in use stays; the next try is in "
            f"{pause / 60:g} min, or at a reload.",
        )
        return pause

    def _publish(self, tokens: Mapping[str, str], shown: Mapping[str, bytes]) -> None:
        """Raises OSError if the pump does not show them."""
        self._number += 1
        channel.send(self._orders, encode(Challenges(self._number, dict(tokens), dict(shown))))
        with self._shown:
            if not self._shown.wait_for(lambda: self._known >= self._number, SHOWN_WITHIN):
                raise OSError("the pump does not show the challenge")
