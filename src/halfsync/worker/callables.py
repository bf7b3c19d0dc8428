"""Is this an application, and of which interface? If it is none, what was probably meant?

A server that only finds out at the first request sends a 500 to everybody. What can be told without a call
is told when the worker starts. The rule is to refuse what can't work, and to let pass what might: a
callable whose signature is unknown, or takes anything, is an application.
"""

from __future__ import annotations

import functools
import inspect
import re
from types import ModuleType
from typing import Any

NAMES = ("application", "app")
"""Attributes looked for in a module that is named alone."""

MOST_NAMED = 8
"""Attributes that are listed where one is missing."""

_WSGI = "a WSGI application is called with (environ, start_response)"
_ASGI = "an ASGI application is called with (scope, receive, send)"
_FACTORY = re.compile(r"(?:^|_)(?:create|make|build|get|factory)(?:_|$)")


def is_asgi(found: Any, interface: str) -> bool:
    """Whether an application is called as an ASGI application. `interface` is the setting."""
    if interface != "auto":
        return interface != "wsgi"
    try:
        return _looks_like_asgi(found)
    except Exception:  # noqa: BLE001 - an object that does not like to be looked at
        return False


def objection(found: Any, name: str, module: str, interface: str = "auto") -> str:
    """Why `found`, which is `name` in `module`, is no application, and what to do: the rest of a sentence
    that begins with the name. "" if it may be one."""
    if found is None:
        return _of_none(name)
    if isinstance(found, ModuleType):
        return f"is a module; name the application in it, such as {found.__name__}:app."
    if not callable(found):
        return f"is of type {type(found).__name__}, which can't be called; {_WSGI}."
    if is_asgi(found, interface):
        return _of_asgi(found, name, module)
    if inspect.isclass(found):
        return _of_class(found, name, module)
    return _of_signature(found, name, module)


def _of_asgi(found: Any, name: str, module: str) -> str:
    if inspect.isclass(found):
        if _parameters(found) == ["scope"]:
            return _ASGI2
        if _takes(found, 3) is False:
            return f"is a class; an instance of it is meant: {module}:{name}()."
        return ""
    if _takes(found, 3) is False:
        if _parameters(found) == ["scope"]:
            return _ASGI2
        if _takes(found, 0):
            return f"is a factory; to have it called, write {module}:{name}()."
        return f"takes {_shown(found)}; {_ASGI}."
    return ""


_ASGI2 = (
    "is an application of ASGI 2, which is called in two steps; wrap it in "
    "asgiref.compatibility.guarantee_single_callable."
)


def _of_none(name: str) -> str:
    if name.endswith(")"):
        return "gave None: perhaps the function does not return what it made."
    return "is None: perhaps it is set only later, or under another name."


def _of_class(found: type, name: str, module: str) -> str:
    """A class is an application if its instances are responses: PEP 3333's own example."""
    if hasattr(found, "__iter__") and _takes(found, 2) is not False:
        return ""
    if _takes(found, 0) is False:
        return f"is a class; make an instance of it in {module}, and name that."
    return f"is a class; an instance of it is meant: {module}:{name}()."


def _of_signature(found: Any, name: str, module: str) -> str:
    takes_two, takes_none = _takes(found, 2), _takes(found, 0)
    if takes_none and (takes_two is False or _is_called_like_a_factory(found, name)):
        if name.endswith(")"):
            return f"gave a function that takes no arguments; {_WSGI}."
        return f"is a factory; to have it called, write {module}:{name}()."
    if takes_two is False:
        return f"takes {_shown(found)}; {_WSGI}."
    return ""


def _is_called_like_a_factory(found: Any, name: str) -> bool:
    """`create_app(config=None, debug=False)` could be called with two, too."""
    return inspect.isfunction(found) and bool(_FACTORY.search(name.rpartition(".")[2]))


def _looks_like_asgi(found: Any) -> bool:
    """ASGI 3: a coroutine function of three. ASGI 2: called with the scope alone."""
    if inspect.isclass(found):
        return _parameters(found)[:1] == ["scope"]
    unwrapped = found
    while isinstance(unwrapped, functools.partial):
        unwrapped = unwrapped.func
    if inspect.iscoroutinefunction(unwrapped) or inspect.iscoroutinefunction(_call_of(unwrapped)):
        return True
    return _parameters(found) in (["scope", "receive", "send"], ["scope"])


def _call_of(found: Any) -> Any:
    return getattr(type(found), "__call__", None)  # noqa: B004 - the method is wanted, not whether there is one


def _parameters(found: Any) -> list[str]:
    """Names of the positional ones."""
    signature = _signature(found)
    if signature is None:
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in signature.parameters.values() if one.kind in positional]


def _takes(found: Any, count: int) -> bool | None:
    """Whether it can be called with so many positional arguments; None if nobody knows."""
    signature = _signature(found)
    if signature is None:
        return None
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _signature(found: Any) -> inspect.Signature | None:
    try:
        # Not of what it wraps: a decorator may well turn a view into an application.
        return inspect.signature(found, follow_wrapped=False)
    except (ValueError, TypeError):
        return None


def _shown(found: Any) -> str:
    names = _parameters(found)
    return f"({', '.join(names)})" if names else "other arguments"


# --- a name that is not there ---------------------------------------------------------------------


def names_in(owner: Any) -> str:
    """What could have been meant, for a sentence: "it has app, create_app"; callables first."""
    public = [name for name in dir(owner) if not name.startswith("_")]
    ranked = sorted(public, key=lambda name: (_rank(owner, name), name.lower()))
    ranked = [name for name in ranked if _rank(owner, name) < _MODULE]
    if not ranked:
        return "it has no public names"
    more = len(ranked) - MOST_NAMED
    shown = ", ".join(ranked[:MOST_NAMED])
    return f"it has {shown} and {more} more" if more > 0 else f"it has {shown}"


_MODULE = 5


def _rank(owner: Any, name: str) -> int:
    """Applications first, then what makes one, then other callables made there, then the rest."""
    try:
        value = getattr(owner, name)
    except Exception:  # noqa: BLE001 - a property of the application's; it is only being listed
        return _MODULE
    if isinstance(value, ModuleType):
        return _MODULE
    if not callable(value):
        return 4
    made_here = getattr(value, "__module__", None) == getattr(owner, "__name__", None)
    if inspect.isclass(value) or not (made_here or name in NAMES or not inspect.isfunction(value)):
        return 3
    if not objection(value, name, ""):
        return 0 if name in NAMES else 1
    return 2
