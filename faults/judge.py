"""The one judge: what became of each request."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from faults.http2_wire import Http2Connection, NotBegun
from faults.requests import Request
from faults.wire import Aborted, Connection, Hung, Malformed, Refused, Response

HONEST = frozenset({500, 502, 503, 504, 507})
"""Statuses that say: not your fault, and it failed."""
BETWEEN_WRITES = 0.002
"""Seconds; so that the second write comes now before, now after the pump has taken the first."""


class Judge:
    """Counts. Its methods may be called by any thread.

    `honest`: further statuses that a fault explains. `may_refuse`: connections may be refused from now on.
    """

    def __init__(self, honest: frozenset[int] = frozenset(), *, may_refuse: bool = False) -> None:
        self._lock = threading.Lock()
        self._honest = HONEST | honest
        self.may_refuse = may_refuse
        self.requests = self.right = self.aborted = 0
        self.errors: Counter[str] = Counter()  # by status
        self.wrong: list[str] = []
        self.hung: list[str] = []
        self._answered: set[int] = set()  # numbers of POSTs with a right response
        self._right: Counter[str] = Counter()  # by log line

    def exchange(self, connection: Connection, batch: Sequence[Request], cut: float = 0.0) -> bool:
        """Send the requests, in one write or in two (`cut`: where, as a part of the whole), and judge each
        response; whether the connection is kept."""
        if extra := connection.unexpected():
            self.is_wrong(f"bytes that belong to no request: {extra[:60]!r}", batch[0])
            return False
        with self._lock:
            self.requests += len(batch)
        sent = False
        for place, request in enumerate(batch):
            try:
                if not sent:
                    sent = True
                    _send(connection, b"".join(one.wire for one in batch), cut)
                response = connection.response(request.method)
            except Aborted:
                self._are_aborted(len(batch) - place)
                return False
            except Hung as hung:
                self.is_hung(f"{hung}, {place + 1} of {len(batch)} pipelined", request)
                self._are_aborted(len(batch) - place - 1)
                return False
            except Malformed as malformed:
                self.is_wrong(f"no response: {malformed}, {place + 1} of {len(batch)} pipelined", request)
                self._are_aborted(len(batch) - place - 1)
                return False
            self._judge(request, response, f"{place + 1} of {len(batch)} pipelined")
            if response.closes:
                self._are_aborted(len(batch) - place - 1)
                return False
        return not request.closes

    def exchange_at_once(self, connection: Http2Connection, batch: Sequence[Request]) -> bool:
        """The same with HTTP/2, each request on a stream of its own. What the server says that it has not
        begun is no request: it would be sent again."""
        for request, outcome in zip(batch, connection.exchange(batch), strict=True):
            if isinstance(outcome, NotBegun):
                continue
            with self._lock:
                self.requests += 1
            if isinstance(outcome, Aborted):
                self._are_aborted(1)
            elif isinstance(outcome, Hung):
                self.is_hung(f"{outcome}, one of {len(batch)} streams", request)
            elif isinstance(outcome, Malformed):
                self.is_wrong(f"no response: {outcome}, one of {len(batch)} streams", request)
            else:
                self._judge(request, outcome, f"one of {len(batch)} streams")
        return not connection.is_over

    def _judge(self, request: Request, response: Response, where: str) -> None:
        trouble = request.trouble(response)
        if not trouble:
            with self._lock:
                self.right += 1
                self._right[f"{response.status} {request.method} {request.target}"] += 1
                if request.number:
                    self._answered.add(request.number)
        elif response.status in self._honest:
            with self._lock:
                self.errors[str(response.status)] += 1
        else:
            self.is_wrong(f"{trouble}, {where}", request)

    def refused(self) -> None:
        with self._lock:
            self.requests += 1
            if self.may_refuse:
                self.errors["refused"] += 1
            else:
                self.wrong.append("a connection was refused")

    def _are_aborted(self, count: int) -> None:
        with self._lock:
            self.aborted += count

    def is_wrong(self, what: str, request: Request | None = None) -> None:
        with self._lock:
            self.wrong.append(f"{request.method} {request.target}: {what}" if request else what)

    def is_hung(self, what: str, request: Request | None = None) -> None:
        with self._lock:
            self.hung.append(f"{request.method} {request.target}: {what}" if request else what)

    # --- afterwards

    def check_effects(self, effects: Path) -> None:
        """A POST ran once if it was answered, and never twice."""
        ran = Counter(map(int, effects.read_text("ascii").split())) if effects.exists() else Counter()
        for number, times in ran.items():
            if times > 1:
                self.is_wrong(f"POST {number} ran {times} times")
        for number in self._answered - set(ran):
            self.is_wrong(f"POST {number} was answered and never ran")

    def check_log(self, folder: Path) -> None:
        """Each right response has its line in the access log, by `%s %r`, or in one that was rotated away."""
        logged: Counter[str] = Counter()
        for path in folder.glob("access.log*"):
            for line in path.read_text("latin-1").splitlines():
                logged[line.rpartition(" ")[0]] += 1
        for line, times in self._right.items():
            if logged[line] < times:
                self.is_wrong(f"{times} right responses, {logged[line]} in the access log: {line}")


def _send(connection: Connection, data: bytes, cut: float) -> None:
    at = int(len(data) * cut)
    if at:
        connection.send(data[:at])
        time.sleep(BETWEEN_WRITES)
    connection.send(data[at:])


def is_right(port: int, request: Request, seconds: float) -> bool:
    """Whether a request on a connection of its own gets its response now."""
    try:
        connection = Connection(port, seconds)
    except (Refused, Aborted, Hung):
        return False
    try:
        connection.send(request.wire)
        return not request.trouble(connection.response(request.method))
    except (Aborted, Hung, Malformed):
        return False
    finally:
        connection.close()
