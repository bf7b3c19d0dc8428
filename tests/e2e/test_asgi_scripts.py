"""Applications and clients that do things in a random order (see scripts.py): each response is right, and
nothing is left. HALFSYNC_TEST_SCRIPTS=10000 tries as many connections, HALFSYNC_TEST_FIRST names the first
seed."""

from __future__ import annotations

import json
import os
import random
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import issued, write
from tests.e2e.harness import Server, serving
from tests.e2e.script_clients import some_connection

BY_BYTES = os.environ.get("HALFSYNC_TEST_TRANSPORT") == "bytes"  # megabytes take their time
SEEDS = int(os.environ.get("HALFSYNC_TEST_SCRIPTS", "4" if BY_BYTES else "40"))
AT_A_TIME = 4
FIRST = int(os.environ.get("HALFSYNC_TEST_FIRST", "0"))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("scripts")
    write(folder, issued("localhost"))
    limits = ("--limit-concurrency", "16", "--workers", "1", "--handler-timeout", "120")
    binds = ("-b", "http://127.0.0.1:0", "-b", "https://127.0.0.1:0")
    tls = ("--certfile", "server.pem", "--keyfile", "server.key")
    with serving(folder, "scripted:app", *binds, *tls, *limits, bind=False) as server:
        server.tracebacks = -1
        yield server


def ports(server: Server) -> tuple[int, int]:
    found = {one.startswith("https"): int(one.rpartition(":")[2]) for one in server.addresses}
    return found[False], found[True]


def state(server: Server) -> dict[str, int]:
    """Tasks and descriptors of the worker, and descriptors of the pump; another request has one of each."""
    seen: dict[str, int] = json.loads(server.get("/").body)
    return {**seen, "of the pump": len(os.listdir(f"/proc/{server.pump}/fd"))}


def is_as_before(server: Server, before: dict[str, int]) -> bool:
    return all(count <= before[name] for name, count in state(server).items())


def done(server: Server, seeds: Iterator[int]) -> list[str]:
    """Do what these seeds say, some at a time. What went wrong."""
    wrong: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        while not wrong:
            with lock:
                seed = next(seeds, None)
            if seed is None:
                return
            try:
                some_connection(ports(server), random.Random(seed))
            except Exception:
                wrong.append(f"seed {seed}:\n{traceback.format_exc()}")

    threads = [threading.Thread(target=work) for _ in range(AT_A_TIME)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def test_each_response_is_what_the_rules_make_of_it_and_nothing_is_left(server: Server):
    assert (
        done(server, iter(range(-AT_A_TIME if BY_BYTES else -3 * AT_A_TIME, 0))) == []
    )  # what is opened once is open
    before = server.until(lambda: found if (found := state(server)) == state(server) else None)
    assert before is not None
    assert done(server, iter(range(FIRST, FIRST + SEEDS))) == []
    server.until(lambda: is_as_before(server, before))
    log = server.log()
    for words in ("pump ERROR", "AssertionError", "Error in the event loop", "can't be read"):
        assert words not in log
