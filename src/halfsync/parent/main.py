"""From checked settings to a serving tree of processes, and back to an exit status."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import ParamSpec

from halfsync import __version__
from halfsync.logs import error
from halfsync.logs.target import target_of
from halfsync.parent import listeners, machine, privileges
from halfsync.parent.kept_code import keep_code
from halfsync.parent.logfiles import ErrorLog, access_log_of
from halfsync.parent.privileges import Identity
from halfsync.parent.reload import certificates
from halfsync.parent.reload.reconfigure import ReadConfiguration, Reconfiguration
from halfsync.parent.service import systemd
from halfsync.parent.service.control_socket import ControlSocket
from halfsync.parent.service.pidfile import PidFile
from halfsync.parent.service.watchdog import Watchdog
from halfsync.parent.signals import Signals
from halfsync.parent.supervisor import Supervisor
from halfsync.parent.upgrade import predecessor
from halfsync.parent.upgrade.keeper import keep
from halfsync.parent.upgrade.predecessor import Predecessor
from halfsync.parent.upgrade.upgrades import Holdings, Upgrades
from halfsync.parent.workers import processes
from halfsync.parent.workers.spawn import EntryPoints
from halfsync.plan.layout import Layout
from halfsync.plan.plan import Listener, Plan
from halfsync.plan.routes_table import table_of
from halfsync.scoreboard.scoreboard import Scoreboard
from halfsync.settings.site_tls import SiteTLS, acme_of
from halfsync.settings.table import Settings
from halfsync.settings.values import octal
from halfsync.system import prctl
from halfsync.system.command_line import CommandLine
from halfsync.system.folders import current_folder
from halfsync.system.seen_files import SeenFile

Arguments = ParamSpec("Arguments")


def serve(
    settings: Settings,
    layout: Layout,
    read_again: Callable[[], ReadConfiguration] | None = None,
    configuration: tuple[SeenFile, ...] = (),
    tls: Sequence[SiteTLS] = (),
    command: CommandLine | None = None,
) -> int:
    """Bind, fork, and serve until told to stop. Gives the exit status, or START_AGAIN.

    `read_again`: see Reconfiguration. `configuration`: the files that the settings were read from. `command`:
    by which an upgrade starts another version.

    Raises SettingError if an address, a user or a file of the settings can't be had; then nothing
    was started and nothing is left behind.
    """
    machine.check_descriptors(settings, layout.pools)
    error.keep_descriptor()
    error.be("parent", settings.log_level, settings.log_format)
    prctl.be_called(settings.name)
    # There will be something to remove again, so no signal may just end the process.
    signals = Signals()
    try:
        configured = settings, layout, read_again, configuration, tls
        status, upgrades = _serve(signals, command, *configured)
        if upgrades.stays:
            prctl.be_called(processes.title(settings.name, "keeper"))
            status = keep(signals, *upgrades.keep())
    finally:
        signals.close()
    return status


def _serve(
    signals: Signals,
    command: CommandLine | None,
    settings: Settings,
    layout: Layout,
    read_again: Callable[[], ReadConfiguration] | None,
    configuration: tuple[SeenFile, ...],
    tls: Sequence[SiteTLS],
) -> tuple[int, Upgrades]:
    before = predecessor.current()
    with ExitStack() as undo:
        identity = privileges.identity(settings)
        notifier = systemd.Notifier(os.environ)
        if before is not None:
            notifier.hold()
            before.begun(settings)
        watchdog = Watchdog(os.environ, notifier)
        settings = machine.prepared(settings, layout.routes, identity)
        pid_file = _pid_file(settings, identity, before)
        if pid_file is not None:
            undo.callback(pid_file.remove)
        addresses = layout.addresses(settings)
        listeners.check(settings, addresses, layout.only_with_tls, layout.demanding)
        bound = _listeners(settings, identity, addresses, before)
        undo.callback(listeners.close, bound)
        error_log = None
        if (target := target_of(settings.error_logfile)) is not None:
            error.begin_target(target)
        elif settings.error_logfile not in (None, "-"):
            error_log = ErrorLog(settings.error_logfile, identity)
            error_log.begin()
        access_log = access_log_of(settings, identity)
        bound = listeners.at_sites(bound, settings, layout.sites)
        shown, notes = certificates.read_for(bound, tls, identity)
        if before is not None:
            before.keep_sessions(shown)
        for note in notes:
            error.log("warning", note)
        plan = Plan(
            settings,
            layout.routes,
            layout.pools,
            bound,
            sites=layout.sites,
            configuration=configuration,
            certificates=shown,
            acme=acme_of(settings, tls),
        )
        control_socket = _control_socket(settings, identity, before)
        if control_socket is not None:
            undo.callback(control_socket.close)
        scoreboard = machine.scoreboard()
        children = entry_points(scoreboard)
        # What exists now is never collected: so the collector touches no page that children share.
        gc.collect()
        gc.freeze()
        supervisor = Supervisor(
            plan,
            children,
            reconfiguration=Reconfiguration(read_again, identity, access_log, tls),
            error_log=error_log,
            identity=identity,
            folder=current_folder(),
            announce=lambda: announce(plan, notifier),
            stop_listening=listeners.close,
            signals=signals,
            control_socket=control_socket,
            notifier=notifier,
            watchdog=watchdog,
            scoreboard=scoreboard,
            command=command,
            holdings=Holdings(pid_file, control_socket, before),
        )
        status = supervisor.run()
        if before is not None:
            if (failure := supervisor.failure) is not None:
                before.failed([failure[0]], failure[1])
            before.leave_to_the_exit()
        if status == 0:
            error.log("info", supervisor.last_word)
    return status, supervisor.upgrades


def _pid_file(settings: Settings, identity: Identity | None, before: Predecessor | None) -> PidFile | None:
    if not settings.pid:
        return None
    if before is not None:
        return before.pid_file(settings.pid, identity)
    return PidFile(settings.pid, identity)


def _listeners(
    settings: Settings, identity: Identity | None, addresses: Sequence[str], before: Predecessor | None
) -> tuple[Listener, ...]:
    if before is not None:
        return before.listeners(settings, identity, addresses)
    return systemd.inherited(os.environ, settings) or listeners.bind(settings, identity, addresses)


def _control_socket(
    settings: Settings, identity: Identity | None, before: Predecessor | None
) -> ControlSocket | None:
    if settings.control_socket is None:
        return None
    mode = octal("control_socket_mode", settings.control_socket_mode)
    if before is not None:
        return before.control_socket(settings.control_socket, mode, identity)
    return ControlSocket(settings.control_socket, mode, identity)


def entry_points(scoreboard: Scoreboard) -> EntryPoints:
    """The children's code, imported before the first fork, or at least read: it is in memory once, and no
    child can fail to find it or get another version, whatever happens to the files. The pump alone keeps the
    scoreboard."""
    from halfsync.issuing import main as issuing
    from halfsync.pump import main as pump
    from halfsync.watcher import main as watcher
    from halfsync.worker import main as worker
    from halfsync.worker import template

    keep_code()

    def without(run: Callable[Arguments, int]) -> Callable[Arguments, int]:
        def run_without(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
            scoreboard.close()
            return run(*arguments, **named)

        return run_without

    return EntryPoints(
        partial(pump.run, scoreboard=scoreboard),
        without(worker.run),
        without(template.run),
        without(watcher.run),
        without(issuing.run),
    )


def announce(plan: Plan, notifier: systemd.Notifier) -> None:
    """Say what is served and where: to the service manager, and for a person if one is watching, else as a
    line of the log."""
    notifier.ready(plan.addresses)
    if sys.stderr is not None and sys.stderr.isatty():
        error.tell(_readable(plan))
        return
    error.log("info", plan.in_words)


def _readable(plan: Plan) -> str:
    """For a person."""
    first = f"halfsync {__version__} (process {os.getpid()}) serves"
    return "\n".join((first, *table_of(plan), "Ctrl-C stops it."))
