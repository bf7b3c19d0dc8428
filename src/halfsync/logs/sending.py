"""The access log's records as messages to syslog or to the journal: one for each, in order."""

from __future__ import annotations

from collections.abc import Iterator

from halfsync.http.request_ids import id_in
from halfsync.logs.journal import Journal
from halfsync.logs.letters import RequestLine, ending
from halfsync.logs.target import Target
from halfsync.system.primitives import time
from halfsync.wire.messages import LogRecord

LONGEST = 1.0
"""Seconds for which a batch waits in all, if the receiver reads too slowly."""


def send_all(target: Target, records: list[LogRecord], lines: bytes) -> int:
    """`lines`: one for each record. How many could not be sent."""
    until = time.monotonic() + LONGEST
    lost = 0
    for record, line in zip(records, _texts(lines), strict=True):
        wait = max(0.0, until - time.monotonic())
        if isinstance(target, Journal):
            is_sent = target.send(line, target.severity, wait, fields_of_record(record))
        else:
            is_sent = target.send(line, target.severity, wait)
        lost += not is_sent
    return lost


def _texts(lines: bytes) -> Iterator[str]:
    return iter(lines.decode("utf-8", "backslashreplace").removesuffix("\n").split("\n"))


def fields_of_record(record: LogRecord) -> dict[str, str]:
    """What can be searched for in the journal, beside the line itself."""
    line = RequestLine(record.head.partition(b"\r\n")[0])
    found = {
        "HALFSYNC_LOG": "access",
        "HALFSYNC_CLIENT": record.client.partition(" ")[0],
        "HALFSYNC_METHOD": line.method,
        "HALFSYNC_TARGET": line.target,
        "HALFSYNC_STATUS": str(record.status),
        "HALFSYNC_TOTAL_USEC": str(record.total_us),
        "HALFSYNC_ENDING": ending(record.ending),
    }
    if request_id := id_in(record.head):
        found["HALFSYNC_REQUEST_ID"] = request_id
    return found
