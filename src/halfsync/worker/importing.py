"""Importing an application by its target, and saying well what is wrong when that fails."""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

from halfsync.system.folders import here, here_in_words
from halfsync.system.primitives import os
from halfsync.worker.callables import NAMES, names_in, objection
from halfsync.worker.forks import end_if_child

MAX_TRACEBACK = 32 * 1024
"""Characters, the last ones. It crosses to the parent in one packet."""

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class CannotImport(Exception):
    """`sentence` names the target and says what is wrong; `traceback` is the application's own, ""
    if its code is not to blame."""

    def __init__(self, sentence: str, trace: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.traceback = trace


def load(target: str, interface: str = "auto") -> Callable[..., Any]:
    """The callable that `target` names: `module:name`, `module:name.attribute`,
    `module:factory(arguments)`, which is called once, with literal arguments, or `module` alone: then
    its `application` or `app`.

    The current folder is importable. Raises CannotImport, whatever the application raised.
    """
    folder = here()
    if folder is not None and folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    module_name, _, expression = target.partition(":")
    if not expression:
        module = _module(target, module_name)
        expression = name = _usual_name(target, module)
        found = getattr(module, name)
    else:
        name, call = _parse(target, expression)
        found = _attribute(target, _module(target, module_name), name)
        if call is not None:
            found = _call(target, name, found, call)
    if wrong := _objection(found, expression, module_name, interface):
        raise CannotImport(f"Target {target!r}: {expression!r} in module {module_name!r} {wrong}")
    return found  # type: ignore[no-any-return]


def _objection(found: Any, name: str, module: str, interface: str) -> str:
    try:
        return objection(found, name, module, interface)
    except Exception:  # noqa: BLE001 - an object that does not like to be looked at may still be right
        return ""


def _usual_name(target: str, module: ModuleType) -> str:
    """Of a module that is named alone, as Django's wsgi.py is."""
    for name in NAMES:
        if hasattr(module, name):
            return name
    raise CannotImport(
        f"Target {target!r}: {_where(module)} has neither 'application' nor 'app'; {names_in(module)}. "
        f"Name the application in it, such as {module.__name__}:name."
    )


_Arguments = tuple[list[Any], dict[str, Any]]


def _parse(target: str, expression: str) -> tuple[str, _Arguments | None]:
    name, paren, _ = expression.partition("(")
    if not paren:
        return name, None
    try:
        call = ast.parse(expression.strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        positional = [ast.literal_eval(node) for node in call.args]
        named = {node.arg: ast.literal_eval(node.value) for node in call.keywords if node.arg}
        assert len(named) == len(call.keywords)
    except (SyntaxError, ValueError, AssertionError):
        raise CannotImport(
            f"Target {target!r}: {expression!r} is not a call with literal arguments, such as create_app()."
        ) from None
    return name.strip(), (positional, named)


def _module(target: str, name: str) -> ModuleType:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            what = "module" if ":" in target else "folder and no module"
            raise CannotImport(
                f"Target {target!r}: there is no {what} {error.name!r} in {here_in_words()}{_unreadable()} "
                "or on Python's path."
            ) from None
        raise _blame(f"Target {target!r}: its import failed", error) from None
    except BaseException as error:  # noqa: BLE001
        raise _blame(f"Target {target!r}: its import failed", error) from None
    return sys.modules[name]


def _unreadable() -> str:
    """For what was not found in the current folder: whether that can be known."""
    folder = here()
    if folder is None or os.access(folder, os.R_OK | os.X_OK):
        return ""
    return f" (which the user {os.getuid()} may not read)"


def _attribute(target: str, module: ModuleType, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise CannotImport(
                f"Target {target!r}: {_where(module)} has no {path!r}; {names_in(module)}."
            ) from None
    return found


def _where(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    folders = list(getattr(module, "__path__", ()))
    if file is None and folders:
        file = f"{folders[0]}, a folder without __init__.py"
    return f"module {module.__name__!r} ({file or 'no file'})"


def _call(target: str, name: str, factory: Any, arguments: _Arguments) -> Any:
    if not callable(factory):
        raise CannotImport(f"Target {target!r}: {name!r} is {_a(factory)}, which can't be called.")
    positional, named = arguments
    try:
        return factory(*positional, **named)
    except BaseException as error:  # noqa: BLE001
        raise _blame(f"Target {target!r}: the call of {name} failed", error) from None


def _blame(what: str, error: BaseException) -> CannotImport:
    end_if_child()  # one that the application forked while it was imported
    try:
        said = str(error).partition("\n")[0][:500]
    except Exception:  # noqa: BLE001 (it is the application's own)
        said = ""
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    trace = traceback.format_exception(type(error), error, _without_ours(error.__traceback__))
    return CannotImport(f"{what} with {reason}", "".join(trace)[-MAX_TRACEBACK:])


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """The application's frames: from the first that is neither ours nor the import machinery's."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_OURS + os.sep, "<frozen importlib")):
            break
        trace = trace.tb_next
    return trace


def _a(thing: object) -> str:
    return f"of type {type(thing).__name__}"
