"""The faults that matter most, with the application in ASGI: event loops, uploads and streams."""

from __future__ import annotations

from faults import processes
from faults.run import Scene
from faults.server import ASGI_TARGET
from faults.table import fault


@fault(quick=True, target=ASGI_TARGET)
def asgi_worker_killed(scene: Scene) -> None:
    """kill -9 of a random worker of an ASGI application, every half second."""
    processes.worker_killed(scene)


@fault(loses_log=True, target=ASGI_TARGET)
def asgi_pump_killed(scene: Scene) -> None:
    """kill -9 of the pump, every 0.7 seconds, with an ASGI application."""
    processes.pump_killed(scene)


@fault(harmless=True, target=ASGI_TARGET)
def asgi_worker_stopped(scene: Scene) -> None:
    """SIGSTOP of a worker of an ASGI application for a second, SIGCONT, another one."""
    processes.worker_stopped(scene)


@fault(quick=True, harmless=True, target=ASGI_TARGET)
def asgi_reload(scene: Scene) -> None:
    """HUP every second, with an ASGI application."""
    processes.reload(scene)


@fault(harmless=True, target=ASGI_TARGET)
def asgi_loop_blocked(scene: Scene) -> None:
    """An ASGI application blocks its event loop for a second."""
    processes._poison(scene, "block")


@fault(target=ASGI_TARGET)
def asgi_segfault(scene: Scene) -> None:
    """An ASGI application reads at address 0."""
    processes._poison(scene, "segfault")
