"""What halfsync raises in an application's code, for it to catch."""

from __future__ import annotations


class HandlerTimeout(BaseException):
    """The request passed its `handler_timeout`: its client has got a 504, and whatever the handler still
    responds is dropped. Raised once, anywhere in the handler's own code; catch it to clean up, and raise it
    again.

    It derives from BaseException, as asyncio.CancelledError, KeyboardInterrupt and SystemExit do, for the
    same reason: frameworks catch every Exception and go on (to render an error page, to try again), which is
    not wanted of it.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args or ("the request passed its handler_timeout",))
