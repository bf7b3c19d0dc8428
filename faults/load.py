"""The steady load: clients in threads, each with its own connections, kept and new. Every third one speaks
HTTP/2, with several requests at once."""

from __future__ import annotations

import itertools
import random
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

from faults import wire
from faults.http2_wire import Http2Connection
from faults.judge import Judge
from faults.requests import Maker
from faults.wire import Aborted, Connection, Hung, Refused

PAUSE = 0.02
"""Seconds between two batches of a client at most. The load is to be steady, not heavy: what is looked for
are wrong responses, and these need a server that still has time to do something wrong."""
MOST_BATCHES = 30
"""On one connection."""
TWO_WRITES = 0.2
"""Of so many batches the bytes come in two writes."""
HTTP2 = 3
"""Each client whose number this divides speaks HTTP/2."""
MOST_STREAMS = 6
"""That such a client opens at once."""


T = TypeVar("T")


class Load:
    """Sends requests from its beginning to `stop`."""

    def __init__(self, port: int, judge: Judge, clients: int, seed: int) -> None:
        self._port = port
        self._judge = judge
        self._over = threading.Event()
        self._numbers = itertools.count(1_000_000 * (seed % 1000) + 1000)
        self._seed = seed
        self._threads = [threading.Thread(target=self._live, args=(one,)) for one in range(clients)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * wire.DEADLINE)
            if thread.is_alive():
                self._judge.is_hung("a client of the load did not end")

    def maker(self) -> Maker:
        return Maker(random.Random(), lambda: next(self._numbers))

    def _live(self, client: int) -> None:
        chance = random.Random(self._seed * 1000 + client)
        maker = Maker(chance, lambda: next(self._numbers))
        while not self._over.is_set():
            try:
                if client % HTTP2:
                    self._converse(maker, chance)
                else:
                    self._converse_at_once(maker, chance)
            except Exception:  # noqa: BLE001 (the harness's own bug must show, and not end a client silently)
                self._judge.is_wrong(f"the harness: {traceback.format_exc()}")
                return

    def _converse(self, maker: Maker, chance: random.Random) -> None:
        """One connection, from its beginning to its end."""
        connection = self._connected(Connection)
        if connection is None:
            return
        try:
            for _ in range(chance.randrange(1, MOST_BATCHES)):
                cut = chance.random() if chance.random() < TWO_WRITES else 0.0
                if self._over.is_set() or not self._judge.exchange(connection, maker.batch(), cut):
                    return
                self._over.wait(chance.random() * PAUSE)
        finally:
            connection.close()

    def _converse_at_once(self, maker: Maker, chance: random.Random) -> None:
        """The same with HTTP/2."""
        connection = self._connected(Http2Connection)
        if connection is None:
            return
        try:
            for _ in range(chance.randrange(1, MOST_BATCHES)):
                batch = [maker.one() for _ in range(chance.randrange(1, MOST_STREAMS))]
                if self._over.is_set() or not self._judge.exchange_at_once(connection, batch):
                    return
                self._over.wait(chance.random() * PAUSE)
        finally:
            connection.close()

    def _connected(self, kind: Callable[[int], T]) -> T | None:
        try:
            return kind(self._port)
        except Refused:
            self._judge.refused()
            self._over.wait(0.1)
        except Hung:
            self._judge.is_hung("connecting")
        except Aborted:
            self._over.wait(0.01)
        return None
