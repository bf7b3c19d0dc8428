"""How long something may take."""

from typing import Annotated, Literal

from msgspec import Meta

from halfsync.settings.table.about import about
from halfsync.settings.table.logging import Logging


class TimeLimits(Logging, frozen=True, kw_only=True):
    handshake_timeout: Annotated[
        float,
        about("Time limits", "A TLS handshake must be complete within this time.", unit="seconds", least=0.1),
    ] = 10.0
    head_timeout: Annotated[
        float,
        about(
            "Time limits", "A request's head must be complete within this time.", unit="seconds", least=0.1
        ),
    ] = 20.0
    body_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A request's body may pause no longer than this.",
            unit="seconds",
            least=0.1,
            of_routes="all",
        ),
    ] = 60.0
    send_timeout: Annotated[
        float,
        about(
            "Time limits",
            "Close the connection if the client reads nothing for this long.",
            unit="seconds",
            least=0.1,
            of_routes="all",
        ),
    ] = 60.0
    min_rate: Annotated[
        int,
        about(
            "Time limits",
            "Minimum average upload and download rate. 0 disables it.",
            unit="bytes per second",
            least=0,
            of_routes="all",
        ),
    ] = 500
    rate_grace: Annotated[
        float,
        about(
            "Time limits", "Grace period before `min_rate` applies.", unit="seconds", least=0, of_routes="all"
        ),
    ] = 30.0
    keep_alive: Annotated[
        float,
        about(
            "Time limits",
            "How long a connection may be idle between two requests. 0: close after each response.",
            unit="seconds",
            least=0,
        ),
    ] = 75.0
    linger_timeout: Annotated[
        float,
        about(
            "Time limits",
            "After a response that closes the connection early, what the client still sends is read and "
            "dropped for this long, so that it can read the response.",
            unit="seconds",
            least=0,
        ),
    ] = 5.0
    queue_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A request may wait for a free thread no longer than this; then it gets a 503.",
            unit="seconds",
            least=0.1,
            of_routes="applications",
        ),
    ] = 30.0
    queue_target: Annotated[
        Annotated[float, Meta(ge=0)] | Literal["auto"],
        about(
            "Time limits",
            "While more requests come than an application can handle, the newest are handled first, and "
            "those that would wait longer than this for a thread get a 503. auto: half of the time that its "
            "handlers take, and 5 ms at least. A burst of a second is let pass. Meanwhile, of handlers that "
            "compute no more run at once than there are processors and interpreters for them. 0: neither.",
            unit="seconds",
            of_routes="applications",
        ),
    ] = "auto"
    handler_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A handler may take no longer than this to start its response; then the request gets a 504, "
            "the stack is logged, and the handler is ended (see `handler_grace`). A stream that has begun "
            "may go on. 0: no limit.",
            unit="seconds",
            least=0,
            of_routes="all",
        ),
    ] = 0.0
    handler_grace: Annotated[
        float,
        about(
            "Time limits",
            "When a handler passes its `handler_timeout`, halfsync.HandlerTimeout is raised in its thread; "
            "an ASGI task is cancelled. If it has not ended after this time, its worker gets no more "
            "requests, finishes its others, and is replaced. 0: at once, and nothing is raised.",
            unit="seconds",
            least=0,
            of_routes="all",
        ),
    ] = 5.0
    tunnel_timeout: Annotated[
        float,
        about(
            "Time limits",
            "After an upgrade, reset the connection if nothing goes through it for this long, in either "
            "direction. 0: no limit.",
            unit="seconds",
            least=0,
        ),
    ] = 3600.0
    stream_timeout: Annotated[
        float,
        about(
            "Time limits",
            "A handler that has begun its response may pause no longer than this before it gives more; then "
            "the connection is reset, and if it pauses as long again, the handler is ended (see "
            "`handler_timeout`, which is that second limit if it is set). 0: no limit.",
            unit="seconds",
            least=0,
            of_routes="all",
        ),
    ] = 0.0
