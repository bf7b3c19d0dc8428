"""A new configuration, made beside the one that is in effect.

Whatever is wrong with it shows while it is made: then what was opened for it is closed again, and nothing has
happened. Until the switch, both have their listening sockets and log files open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from halfsync import channel
from halfsync.logs import error
from halfsync.logs.error import log
from halfsync.parent import listeners, machine
from halfsync.parent.logfiles import AccessLogFile, access_log_of
from halfsync.parent.privileges import Identity
from halfsync.parent.reload import certificates
from halfsync.parent.workers.children import Child
from halfsync.plan import codec as plan_codec
from halfsync.plan.layout import Layout
from halfsync.plan.plan import NO_POOL, Listener, Plan, PoolPlan, RoutePlan
from halfsync.plan.schemes import scheme_of
from halfsync.settings.errors import SettingError
from halfsync.settings.site_tls import SiteTLS, acme_of
from halfsync.settings.table import Settings
from halfsync.system.seen_files import SeenFile
from halfsync.tls.certificates import Certificates
from halfsync.wire import messages, orders

MOST_NEW = messages.MAX_DESCRIPTORS - 2
"""Listening sockets that one reload can add."""


class ReadConfiguration(Protocol):
    """What was read (see rereading.py)."""

    @property
    def settings(self) -> Settings: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def configuration(self) -> tuple[SeenFile, ...]: ...
    @property
    def tls(self) -> Sequence[SiteTLS]: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def with_places(self) -> Callable[[SettingError], SettingError]: ...


class Reconfiguration:
    """Makes plans, and knows what is open for each."""

    def __init__(
        self,
        read: Callable[[], ReadConfiguration] | None,
        identity: Identity | None,
        access_log: AccessLogFile | None,
        tls: Sequence[SiteTLS] = (),
    ) -> None:
        """`read` raises SettingError; None: nothing is read again. `access_log`, `tls`: of the first
        plan."""
        self._read = read
        self._identity = identity
        # Of what was read last:
        self._with_places: Callable[[SettingError], SettingError] = lambda wrong: wrong
        self._newest = 0
        self._access_logs = {0: access_log}
        self._tls = {0: tuple(tls)}

    def access_log(self, plan: Plan) -> AccessLogFile | None:
        return self._access_logs[plan.number]

    # --- making one

    def next_plan(self, running: Plan) -> Plan:
        """The plan that the configuration asks for now; `running` itself if that is the same. Raises
        SettingError."""
        if self._read is None:
            return running
        found = self._read()
        self._with_places = found.with_places
        for note in found.notes:
            log("warning", note)
        try:
            return self._plan_of(found, running)
        except SettingError as wrong:
            raise self._with_places(wrong)  # noqa: B904 (behind it may be a shortage: see shortages.py)

    def _plan_of(self, found: ReadConfiguration, running: Plan) -> Plan:
        layout = found.layout
        machine.check_proc(layout.routes)
        machine.tell_of_unreadable(layout.routes, self._identity)
        machine.check_descriptors(found.settings, layout.pools)
        settings = msgspec.structs.replace(found.settings, spool_dir=running.settings.spool_dir)
        listeners.check(settings, layout.addresses(settings), layout.only_with_tls, layout.demanding)
        pools, routes = aligned(running.pools, layout.pools, layout.routes)
        sockets = self._next_listeners(running, settings, layout)
        plan = Plan(settings, routes, pools, sockets, running.number, layout.sites, found.configuration)
        try:
            plan = replace(
                plan,
                certificates=self._next_certificates(running, sockets, found.tls),
                acme=acme_of(settings, found.tls),
            )
            if plan == running:
                return running
            access_log = self._next_access_log(running, settings)
        except BaseException:
            listeners.close(_opened(running, plan))
            _close_certificates(plan, running)
            raise
        self._newest += 1
        self._access_logs[self._newest] = access_log
        self._tls[self._newest] = tuple(found.tls)
        return replace(plan, number=self._newest)

    def _next_listeners(self, running: Plan, settings: Settings, layout: Layout) -> tuple[Listener, ...]:
        """Those of `running` at their places, which may be removed or be there again; then the new ones."""
        found = self._next_sockets(running, settings, layout.addresses(settings))
        return listeners.at_sites(found, settings, layout.sites)

    def _next_sockets(
        self, running: Plan, settings: Settings, addresses: Sequence[str]
    ) -> tuple[Listener, ...]:
        if not any(one.bound_as for one in running.listeners):
            if settings.bind != running.settings.bind:
                log("warning", "bind has changed, without effect: the sockets are the service manager's.")
            return running.listeners
        wanted = {(scheme_of(address, settings), listeners.parse(address)): address for address in addresses}
        found = [
            one
            if (one.scheme, listeners.parse(one.bound_as)) in wanted
            else msgspec.structs.replace(one, is_removed=True)
            for one in running.listeners
        ]
        there = {(one.scheme, listeners.parse(one.bound_as)) for one in found if not one.is_removed}
        missing = [address for where, address in wanted.items() if where not in there]
        present = _open(running)
        bound = listeners.bind_beside(settings, self._identity, addresses, missing, present)
        if len(bound) > MOST_NEW:
            listeners.close(bound)
            raise SettingError(f"bind: a reload can add {MOST_NEW} addresses at most, not {len(bound)}.")
        for new in bound:
            places = (i for i, old in enumerate(found) if old.is_removed and old.address == new.address)
            place = next(places, None)
            if place is None:
                found.append(new)
            else:
                found[place] = new
        return tuple(found)

    def _next_certificates(
        self, running: Plan, sockets: Sequence[Listener], tls: Sequence[SiteTLS]
    ) -> Certificates | None:
        """Those of `running` if they are the same, or if there is something wrong with the files, and they
        are still the ones that are wanted. Raises SettingError."""
        try:
            found, notes = certificates.read_for(sockets, tls, self._identity)
        except SettingError as wrong:
            if running.certificates is None or self._tls[running.number] != tuple(tls):
                raise
            log("error", f"{wrong} The certificates that are in use stay.")
            return running.certificates
        if found == running.certificates:
            certificates.close(found)
            return running.certificates
        for note in notes:
            log("warning", note)
        if found is None:
            return None
        certificates.keep_sessions(running.certificates, found)
        return found.following(running.certificates)

    def _next_access_log(self, running: Plan, settings: Settings) -> AccessLogFile | None:
        if settings.access_logfile == running.settings.access_logfile:
            return self.access_log(running)
        return access_log_of(settings, self._identity)

    # --- what becomes of it

    def send(self, pump: Child, running: Plan, plan: Plan) -> None:
        """Let the pump have it, with the sockets that are new. Raises OSError."""
        added = _opened(running, plan)
        descriptors = [os.memfd_create("plan", os.MFD_CLOEXEC)]
        try:
            with open(descriptors[0], "wb", closefd=False) as file:
                file.write(plan_codec.encode(plan))
            if plan.certificates is not None:
                descriptors.append(os.dup(plan.certificates.fd))
            descriptors += _copies(added)
        except OSError:
            channel.close_all(descriptors)
            raise
        places = [plan.listeners.index(one) for one in added]
        pump.order(orders.Configure(plan.number, plan.certificates is not None, places), tuple(descriptors))
        pump.sent_plan = plan.number

    def listen(self, running: Plan, plan: Plan) -> None:
        """At the addresses that `plan` adds: all else of it is ready. Raises SettingError."""
        try:
            listeners.listen(_opened(running, plan), _open(running), plan.settings.backlog)
        except SettingError as wrong:
            raise self._with_places(wrong) from None

    def switched(self, before: Plan, plan: Plan) -> None:
        """`plan` is in effect."""
        listeners.note_lost_ipv4(before.listeners, plan.listeners)
        self._close_what_is_missing(before, plan)
        error.be("parent", plan.settings.log_level, plan.settings.log_format)

    def dropped(self, running: Plan, plan: Plan) -> None:
        """`plan` will never be in effect."""
        self._close_what_is_missing(plan, running)

    def _close_what_is_missing(self, gone: Plan, present: Plan) -> None:
        listeners.close(_opened(present, gone))
        _close_certificates(gone, present)
        del self._tls[gone.number]
        access_log = self._access_logs.pop(gone.number)
        if access_log is not None and access_log is not self.access_log(present):
            access_log.close()


def _open(plan: Plan) -> list[Listener]:
    return [one for one in plan.listeners if not one.is_removed]


def _opened(before: Plan, after: Plan) -> list[Listener]:
    """Sockets that `after` listens at, and `before` does not."""
    present = [one.socket for one in _open(before)]
    return [one for one in _open(after) if one.socket not in present]


def _close_certificates(gone: Plan, present: Plan) -> None:
    if gone.certificates is not None and gone.certificates is not present.certificates:
        certificates.close(gone.certificates)


def _copies(added: Sequence[Listener]) -> list[int]:
    """Of their descriptors. Raises OSError; then there is none."""
    made: list[int] = []
    try:
        for listener in added:
            made.append(os.dup(listener.socket.fileno()))  # noqa: PERF401 (to be closed if one can't be made)
    except OSError:
        channel.close_all(made)
        raise
    return made


def aligned(
    before: Sequence[PoolPlan], pools: Sequence[PoolPlan], routes: Sequence[RoutePlan]
) -> tuple[tuple[PoolPlan, ...], tuple[RoutePlan, ...]]:
    """`pools`, each application at the index that it has in `before`; those that are there no more have
    no processes. The routes with them."""
    found = [msgspec.structs.replace(pool, processes=0, scale=None) for pool in before]
    places: list[int] = []
    for pool in pools:
        same = [i for i, old in enumerate(before) if old.target == pool.target and i not in places]
        same.sort(key=lambda i: (before[i] != pool, before[i].processes == 0))
        if same:
            place = same[0]
            found[place] = pool
        else:
            place = len(found)
            found.append(pool)
        places.append(place)
    return tuple(found), tuple(
        route if route.pool == NO_POOL else msgspec.structs.replace(route, pool=places[route.pool])
        for route in routes
    )
