"""How much something may hold."""

from typing import Annotated

from halfsync.settings.table.about import GIB, KIB, MIB, about
from halfsync.settings.table.time_limits import TimeLimits


class SizeLimits(TimeLimits, frozen=True, kw_only=True):
    limit_request_line: Annotated[
        int,
        about(
            "Size limits",
            "Longest request line; longer ones get a 414.",
            unit="bytes",
            least=64,
            most=65536,
        ),
    ] = 8190
    limit_request_fields: Annotated[
        int,
        about("Size limits", "Most header fields in a request; more get a 431.", least=1, most=10000),
    ] = 100
    limit_request_field_size: Annotated[
        int,
        about(
            "Size limits",
            "Longest header field; longer ones get a 431.",
            unit="bytes",
            least=64,
            most=65536,
        ),
    ] = 8190
    limit_request_head: Annotated[
        int,
        about(
            "Size limits",
            "Largest header section of a request; larger ones get a 431.",
            unit="bytes",
            least=256,
            most=65536,
        ),
    ] = 64 * KIB
    limit_request_body: Annotated[
        int,
        about(
            "Size limits",
            "Largest request body; larger ones get a 413.",
            unit="bytes",
            least=0,
            of_routes="all",
        ),
    ] = GIB
    queue_limit: Annotated[
        int,
        about(
            "Size limits",
            "Most requests that may wait for an application's threads; more get a 503.",
            unit="requests",
            least=1,
            of_routes="applications",
        ),
    ] = 2000
    body_memory: Annotated[
        int,
        about(
            "Size limits",
            "Request bodies up to this size stay in memory; larger ones go to an anonymous temporary file.",
            unit="bytes",
            least=0,
            most=64 * KIB,
        ),
    ] = 32 * KIB
    spool_limit: Annotated[
        int,
        about(
            "Size limits",
            "Request bodies that are kept aside, all together; a body that would exceed it gets a 503.",
            unit="bytes",
            least=0,
        ),
    ] = 4 * GIB
    reply_memory: Annotated[
        int,
        about(
            "Size limits",
            "Response bytes buffered in memory per request; the rest goes to an anonymous temporary file.",
            unit="bytes",
            least=0,
        ),
    ] = 256 * KIB
    reply_spool: Annotated[
        int,
        about(
            "Size limits",
            "Response bytes buffered in a temporary file per request. Beyond that, the handler's thread "
            "waits for the client.",
            unit="bytes",
            least=0,
        ),
    ] = 64 * MIB
    spool_dir: Annotated[
        str | None,
        about("Size limits", "Folder of the temporary files. The default is the system's.", metavar="FOLDER"),
    ] = None
