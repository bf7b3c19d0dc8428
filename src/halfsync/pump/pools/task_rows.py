"""The task rows of the scoreboard: what workers run.

Written from the sweep, twice a second, and when somebody looks (halfsyncctl scoreboard), so that a request
which is over by then costs nothing. The pump has all of it at hand, and is the one that writes it: a worker
may be unable to. A row is free again the first time that it is done after the task's end.
"""

from __future__ import annotations

from itertools import islice

from halfsync.pump.connection import Exchange
from halfsync.pump.pools.workers import Worker
from halfsync.scoreboard.scoreboard import NO_TASK, Scoreboard, TaskRow, cut


def describe_tasks(scoreboard: Scoreboard, worker: Worker) -> None:
    """Also what the worker has served."""
    if worker.served[0] != worker.request_count:
        worker.served[0], worker.served[1] = worker.request_count, worker.response_bytes
    described, owners = worker.described, worker.owners
    for number in [number for number in described if number not in owners]:
        scoreboard.write_task(described.pop(number), NO_TASK)
    if not owners or len(described) >= len(worker.rows):
        return
    taken = set(described.values())
    free = (row for row in worker.rows if row not in taken)
    for number, owner in islice(owners.items(), 2 * len(worker.rows)):
        if number in described or not isinstance(owner, Exchange) or not (began := worker.begun(number)):
            continue
        row = next(free, None)
        if row is None:
            return
        scoreboard.write_task(row, _row(number, began, owner))
        described[number] = row


def forget_tasks(scoreboard: Scoreboard, worker: Worker) -> None:
    """A new pump knows nothing of what the worker ran for the one before."""
    for row in worker.rows:
        scoreboard.write_task(row, NO_TASK)


def _row(number: int, began: int, exchange: Exchange) -> TaskRow:
    conn = exchange.conn
    return TaskRow(
        number,
        began,
        cut(exchange.request_line, 130),
        cut(exchange.head.host.decode("latin-1"), 45),
        "" if conn is None else cut(conn.origin.client or "unix", 40),
    )
