"""Faults of processes and of their machine: they are killed, stopped, replaced, and short of something."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from faults.run import NORMAL_WITHIN, Aside, Scene
from faults.slow_clients import drip_heads
from faults.table import fault
from faults.wire import Aborted, Connection, Hung, Malformed, Refused


@fault(harmless=True)
def calm(scene: Scene) -> None:
    """Nothing happens."""
    scene.lasts(scene.seconds)


# --- processes that die ----------------------------------------------------------------------------


@fault(quick=True)
def worker_killed(scene: Scene) -> None:
    """kill -9 of a random worker of the application, every half second."""
    while scene.lasts(0.5):
        _kill(scene, scene.pick(scene.server.workers))


@fault(options=("--preload",))
def preloaded_worker_killed(scene: Scene) -> None:
    """The same with --preload."""
    worker_killed(scene)


@fault(quick=True, loses_log=True)
def builtin_worker_killed(scene: Scene) -> None:
    """kill -9 of the worker that opens files and writes the log, every half second."""
    while scene.lasts(0.5):
        _kill(scene, scene.pick(scene.server.built_in))


@fault(quick=True, loses_log=True)
def pump_killed(scene: Scene) -> None:
    """kill -9 of the pump, every 0.7 seconds."""
    while scene.lasts(0.7):
        _kill(scene, scene.server.pump)


@fault(loses_log=True)
def any_killed(scene: Scene) -> None:
    """kill -9 of any process except the parent, five times a second."""
    while scene.lasts(0.2):
        parent = scene.server.process.pid
        _kill(scene, scene.pick([pid for pid in scene.server.processes() if pid != parent]))


def _kill(scene: Scene, pid: int | None) -> None:
    if pid is not None:
        scene.server.signal(signal.SIGKILL, pid)


# --- processes that stand still --------------------------------------------------------------------


@fault(quick=True, harmless=True)
def worker_stopped(scene: Scene) -> None:
    """SIGSTOP of a worker for a second, SIGCONT, another one."""
    while _stop_and_go(scene, scene.pick(scene.server.workers)):
        pass


@fault(harmless=True)
def builtin_worker_stopped(scene: Scene) -> None:
    """SIGSTOP of the built-in worker for a second, SIGCONT, again."""
    while _stop_and_go(scene, scene.pick(scene.server.built_in)):
        pass


@fault(quick=True, harmless=True)
def pump_stopped(scene: Scene) -> None:
    """SIGSTOP of the pump for a second, SIGCONT, again."""
    while _stop_and_go(scene, scene.server.pump):
        pass


@fault()
def parent_stopped(scene: Scene) -> None:
    """SIGSTOP of the parent for a second, while its workers are killed."""
    while True:
        _kill(scene, scene.pick(scene.server.workers))
        if not _stop_and_go(scene, scene.server.process.pid):
            return


def _stop_and_go(scene: Scene, pid: int | None) -> bool:
    if pid is not None:
        scene.server.signal(signal.SIGSTOP, pid)
    try:
        scene.lasts(1.0)
    finally:
        if pid is not None:
            scene.server.signal(signal.SIGCONT, pid)
    return scene.lasts(0.2)


# --- signals to the parent -------------------------------------------------------------------------


@fault(quick=True, harmless=True)
def reload(scene: Scene) -> None:
    """HUP every second."""
    while scene.lasts(min(1.0, scene.seconds / 3)):
        scene.server.signal(signal.SIGHUP)


@fault(options=("--preload",), harmless=True)
def preloaded_reload(scene: Scene) -> None:
    """HUP every second, with --preload."""
    reload(scene)


@fault(harmless=True)
def reload_storm(scene: Scene) -> None:
    """HUP twenty times a second."""
    while scene.lasts(0.05):
        scene.server.signal(signal.SIGHUP)


@fault(quick=True, harmless=True)
def log_rotated(scene: Scene) -> None:
    """The access log is renamed, and USR1 sent, every 0.3 seconds."""
    count = 0
    while scene.lasts(0.3):
        count += 1
        scene.server.access_log.rename(f"{scene.server.access_log}.{count}")
        scene.server.signal(signal.SIGUSR1)
        scene.server.until(scene.server.access_log.exists, NORMAL_WITHIN)


@fault(harmless=True)
def resized(scene: Scene) -> None:
    """TTIN, TTIN, TTOU, TTOU, ten a second."""
    for number in itertools.cycle((signal.SIGTTIN, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTTOU)):
        scene.server.signal(number)
        if not scene.lasts(0.1):
            return


@fault(quick=True, harmless=True)
def upgrade(scene: Scene) -> None:
    """USR2: another server takes the place of this one. And again, as soon as it serves."""
    for times in itertools.count(1):
        scene.server.signal(signal.SIGUSR2)
        _until_upgraded(scene, times)
        if not scene.lasts(0.1):
            return


def _until_upgraded(scene: Scene, times: int) -> None:
    words = " is the server from now on; this one finishes what it has"
    scene.server.until(lambda: scene.server.log().count(words) >= times, NORMAL_WITHIN)


@fault(harmless=True)
def upgrade_storm(scene: Scene) -> None:
    """USR2 five times a second: most of them come while an upgrade is under way."""
    while scene.lasts(0.2):
        scene.server.signal(signal.SIGUSR2)


@fault(quick=True, ends=True)
def stop(scene: Scene) -> None:
    """TERM during the load: who was answered is logged, who comes late is refused, nobody hangs."""
    scene.lasts(scene.seconds / 2)
    scene.judge.may_refuse = True
    scene.server.signal(signal.SIGTERM)
    if trouble := scene.server.ended():
        scene.judge.is_hung(trouble)


# --- shortages -------------------------------------------------------------------------------------


@fault(loses_log=True, options=("--access-logfile", "/dev/full"), harmless=True)
def log_disk_full(scene: Scene) -> None:
    """Every write of the access log fails with ENOSPC."""
    scene.lasts(scene.seconds)


def _cannot_mount() -> str:
    if os.geteuid():
        return "needs root, to mount a small disk"
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(_mount(folder), capture_output=True, check=False).returncode:
            return "no disk can be mounted here"
        subprocess.run(["umount", folder], check=False)
    return ""


def _mount(folder: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """256 KiB there: two spooled requests, and no more."""
    subprocess.run(_mount(str(folder)), check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@fault(unless=_cannot_mount)
def spool_disk_full(scene: Scene) -> None:
    """The folder of temporary files is a disk of 256 KiB, now full, now not."""
    with _small_disk(scene.server.temporary):
        while scene.lasts(0.3):
            full = scene.server.temporary / "full"
            with contextlib.suppress(OSError):
                full.write_bytes(b"x" * 1_000_000)
            scene.lasts(0.3)
            full.unlink()


@fault(quick=True, loses_log=True)
def large_files_forbidden(scene: Scene) -> None:
    """RLIMIT_FSIZE of pump and workers is 64 KiB: no request body fits its temporary file, and the access
    log soon ends."""
    processes = [pid for pid in scene.server.processes() if pid != scene.server.process.pid]
    for pid in processes:
        _limit(pid, resource.RLIMIT_FSIZE, 65536)
    scene.lasts(scene.seconds)
    for pid in processes:
        _limit(pid, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)


def _limit(pid: int, which: int, value: int) -> None:
    """The soft limit, so that it can be lifted again."""
    try:
        _, hard = resource.prlimit(pid, which)
        resource.prlimit(pid, which, (value, hard))
    except ProcessLookupError:
        pass


@fault(limits={resource.RLIMIT_NOFILE: 64})
def descriptors_64(scene: Scene) -> None:
    """RLIMIT_NOFILE is 64, and 500 clients connect and stay."""
    _crowd_of_idlers(scene, 500)


@fault(limits={resource.RLIMIT_NOFILE: 128})
def descriptors_128(scene: Scene) -> None:
    """RLIMIT_NOFILE is 128, and 500 clients connect and stay."""
    _crowd_of_idlers(scene, 500)


@fault(quick=True, limits={resource.RLIMIT_NOFILE: 256})
def descriptors_256(scene: Scene) -> None:
    """RLIMIT_NOFILE is 256, and 500 clients connect and stay."""
    _crowd_of_idlers(scene, 500)


def _crowd_of_idlers(scene: Scene, count: int) -> None:
    """Half of them ask for something first."""
    idlers: list[Connection] = []
    try:
        for number in range(count):
            with contextlib.suppress(Refused, Aborted, Hung):
                idlers.append(connection := Connection(scene.server.port))
                if number % 2:
                    connection.send(scene.load.maker().leased().wire)
        scene.lasts(scene.seconds)
    finally:
        for connection in idlers:
            connection.close()


@fault(quick=True)
def temporary_folder_removed(scene: Scene) -> None:
    """The folder of temporary files is removed, and made again at the end."""
    shutil.rmtree(scene.server.temporary)
    scene.lasts(scene.seconds)
    scene.server.temporary.mkdir()


@fault(quick=True)
def start_folder_removed(scene: Scene) -> None:
    """The folder where the server was started is removed, and workers die: others start all the same."""
    shutil.rmtree(scene.server.start_folder)
    while scene.lasts(0.5):
        _kill(scene, scene.pick(scene.server.workers + scene.server.built_in))


# --- what an application does to its process -------------------------------------------------------


def _poison(scene: Scene, path: str, pause: float = 0.3) -> None:
    """Requests for something that harms the worker. Nobody promises a response to them; but no client
    hangs, and the others' responses are right."""
    count = 0
    while scene.lasts(pause):
        count += 1
        try:
            connection = Connection(scene.server.port)
        except (Refused, Aborted):
            continue
        except Hung:
            scene.judge.is_hung("connecting")
            continue
        try:
            connection.send(f"GET /{path}?n={count} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            connection.response("GET")
        except (Aborted, Malformed):
            pass
        except Hung:
            scene.judge.is_hung(f"/{path} itself")
        finally:
            connection.close()


@fault(quick=True)
def segfault(scene: Scene) -> None:
    """A handler reads at address 0."""
    _poison(scene, "segfault")


@fault()
def abort(scene: Scene) -> None:
    """A handler calls abort(3)."""
    _poison(scene, "abort")


@fault()
def exit_in_handler(scene: Scene) -> None:
    """A handler calls os._exit."""
    _poison(scene, "exit")


@fault(harmless=True)
def exit_in_thread(scene: Scene) -> None:
    """A handler calls sys.exit, in a thread of its own and in the server's."""
    _poison(scene, "thread-exits", 0.05)


@fault(quick=True, harmless=True)
def lock_held(scene: Scene) -> None:
    """A handler holds the interpreter lock for a second."""
    _poison(scene, "hold-lock")


ENDED = ("--handler-timeout", "1", "--handler-grace", "1", "--graceful-timeout", "2")


@fault(options=ENDED)
def handler_loops(scene: Scene) -> None:
    """A handler computes for ever, in Python; handler_timeout interrupts it."""
    _poison(scene, "loops", 1)


@fault(options=ENDED)
def handler_sleeps(scene: Scene) -> None:
    """A handler waits for ever, in C; its worker is replaced."""
    _poison(scene, "sleeps", 1)


@fault(options=ENDED)
def handler_keeps_the_lock(scene: Scene) -> None:
    """A handler computes for ever in C, with the interpreter lock; its worker is killed."""
    _poison(scene, "never-lets-go", 1)


@fault()
def memory_leaked(scene: Scene) -> None:
    """A handler leaks 16 MiB a request; the worker has 256 MiB more than at the first one (RLIMIT_AS)."""
    _poison(scene, "leak", 0.05)


@fault(quick=True)
def fork_returns(scene: Scene) -> None:
    """A handler forks, and both processes return a response."""
    _poison(scene, "fork-returns")


@fault(quick=True)
def fork_exits(scene: Scene) -> None:
    """A handler forks, and the child calls sys.exit."""
    _poison(scene, "fork-exits")


@fault(harmless=True)
def descriptors_closed(scene: Scene) -> None:
    """A handler closes descriptors 0, 1 and 2."""
    _poison(scene, "closes-descriptors")


@fault()
def two_at_once(scene: Scene) -> None:
    """Workers are killed and stopped while HUP comes every second and clients are slow."""
    with Aside([drip_heads(scene.server.port)] * 10):
        while scene.lasts(0.3):
            _kill(scene, scene.pick(scene.server.workers))
            scene.server.signal(signal.SIGHUP)
            _stop_and_go(scene, scene.pick(scene.server.workers))
