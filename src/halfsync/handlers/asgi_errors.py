"""What goes wrong between an ASGI application and the server."""

from __future__ import annotations

from halfsync.http.response import ClientDisconnectedError


class BrokenRule(RuntimeError):
    """The application broke a rule of ASGI; `str()` names it. It is logged where it is found."""


class ClientLeftError(ClientDisconnectedError, ConnectionResetError):
    """`send` after the client has disconnected. (An OSError, as the specification says.)"""

    def __init__(self) -> None:
        super().__init__("the client has disconnected")


def stems_from_leaving(error: BaseException) -> bool:
    """Whether an application raised because its client had left."""
    seen: set[int] = set()
    due: list[BaseException | None] = [error]
    while due:
        one = due.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, ClientLeftError):
            return True
        seen.add(id(one))
        due += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            due += one.exceptions
    return False
