"""Frames are masked in C where the package `websockets` is installed: 4 KiB take 0.5 µs in place of 18."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import PathFinder

_PACKAGE = "websockets"
_MODULE = "websockets.speedups"


def masking_in_c() -> Callable[[bytes, bytes], bytes] | None:
    """A function of data and mask (RFC 6455 5.3); None if there is none.

    The one module is loaded, and not the package around it: that imports all that finds out a package's
    version, which takes 8 % of the time of a start."""
    package = PathFinder.find_spec(_PACKAGE)
    if package is None or package.submodule_search_locations is None:
        return None
    spec = PathFinder.find_spec(_MODULE, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        return None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:
        return None
    found: Callable[[bytes, bytes], bytes] | None = getattr(module, "apply_mask", None)
    return found
