"""All faults by name, one function each: what happens while the load runs.

`fault(...)` puts a function into TABLE under its name; its docstring is what the table and `--help` say. See
run.Fault for what can be given. A function returns when its fault is over: mostly when `scene.lasts` says
that its seconds are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faults.run import Fault, Scene

TABLE: dict[str, Fault] = {}

Happen = Callable[[Scene], None]


def fault(**what: Any) -> Callable[[Happen], Happen]:
    def add(function: Happen) -> Happen:
        name = function.__name__.replace("_", "-")
        TABLE[name] = Fault(name, function, **what)
        return function

    return add
