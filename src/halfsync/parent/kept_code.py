"""Our modules that are imported late: their code is in memory from the start.

`pip install -U` replaces files while the server runs. Most of our modules are imported before the first fork,
so what the files hold later does not matter. The others are costly (asyncio, ctypes, cryptography) and few
servers need them, so they are imported by the children that do, such as each worker of an ASGI application.
Children that are forked after the files were replaced would get them in another version than all the rest. So
their code is read at the start, and every later import of them runs that.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from importlib.abc import InspectLoader, Loader

LATE = (
    "handlers.asgi",
    "handlers.asgi_bodies",
    "handlers.asgi_errors",
    "handlers.asgi_files",
    "handlers.asgi_heads",
    "handlers.asgi_http",
    "handlers.asgi_intercepting",
    "handlers.asgi_response",
    "handlers.asgi_scope",
    "handlers.asgi_websocket",
    "issuing.authority",
    "issuing.files",
    "logs.trace_failures",
    "pump.blocks",
    "pump.limits.store_tls",
    "worker.event_loop",
    "worker.lifespan",
    "worker.loop_orders",
    "worker.loop_tasks",
    "worker.resuming",
)
"""Within the package. To read them takes 6 ms."""

PACKAGE = __name__.partition(".")[0]


class KeptModule:
    """One module: a loader whose code is there already."""

    def __init__(self, spec: ModuleSpec) -> None:
        code = cast("InspectLoader", spec.loader).get_code(spec.name)
        if code is None:
            raise ImportError(f"{spec.name} has no code", name=spec.name)
        self._code = code

    def create_module(self, _spec: ModuleSpec) -> None:
        """As any other."""

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


class KeptCode:
    """Finds modules, as a member of sys.meta_path."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec] = {}

    def keep(self, name: str) -> None:
        """Read its code. The packages above it are imported."""
        above = sys.modules[name.rpartition(".")[0]]
        spec = PathFinder.find_spec(name, above.__path__)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        spec.loader = cast("Loader", KeptModule(spec))
        self._specs[name] = spec

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        return self._specs.get(name)


def keep_code() -> None:
    """Of all modules in LATE that are not imported yet. A second call does nothing."""
    if any(isinstance(finder, KeptCode) for finder in sys.meta_path):
        return
    kept = KeptCode()
    for name in LATE:
        if (whole := f"{PACKAGE}.{name}") not in sys.modules:
            kept.keep(whole)
    sys.meta_path.insert(0, kept)
