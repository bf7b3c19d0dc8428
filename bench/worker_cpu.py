"""What a request costs a worker: its processor time, measured over a real seam.

    PYTHONPATH=src python bench/worker_cpu.py [--batch 16] [--threads 8] [--profile]

A forked worker answers a trivial WSGI application; this process plays the pump and hands it packets of
`batch` tasks. Printed are microseconds of the worker's processor time (user, system) for a request, with a
load generator's heads and with a browser's. The pump's share is not in it.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from halfsync.plan.plan import Kind, Listener, Plan, PoolPlan, RoutePlan
from halfsync.settings.table import Settings
from halfsync.wire.messages import MAX_PACKET, Reply, Task, decode_replies, encode, one_by_one
from halfsync.wire.task_slots import SCOREBOARD_BYTES, SCOREBOARD_SLOTS
from halfsync.worker.bodies import ResponseLimits
from halfsync.worker.main import handlers_of
from halfsync.worker.threads import Threads

PLAIN = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"

BROWSER = (
    b"GET /path/to?x=%d HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua: "Chromium";v="130", "Not?A_Brand";v="99"\r\nsec-ch-ua-mobile: ?0\r\n'
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/130.0 Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    b"Referer: http://127.0.0.1:8000/index.html\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nCookie: session=0123456789abcdef%d; theme=dark\r\n\r\n"
)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world\n"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--profile", action="store_true", help="one thread, under cProfile")
    options = parser.parse_args()
    browser = [BROWSER % (n, n) for n in range(997)]
    for name, heads in (("a load generator's heads", [PLAIN]), ("a browser's heads", browser)):
        user, system = measure(heads, options)
        print(f"{name:26} {user + system:5.1f} us a request ({user:.1f} user, {system:.1f} system)")


def measure(heads: list[bytes], options: argparse.Namespace) -> tuple[float, float]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = os.fork()
    if not worker:
        ours.close()
        os._exit(live(theirs, options))
    theirs.close()
    packets = [
        encode([task(slot + 1, heads[(n + slot) % len(heads)]) for slot in range(options.batch)])
        for n in range(97)
    ]
    rounds = options.requests // options.batch
    for number in range(rounds):
        ours.send(packets[number % len(packets)])
        owed = options.batch
        while owed:
            replies = one_by_one(decode_replies(ours.recv(MAX_PACKET)))
            assert all(isinstance(reply, Reply) and reply.status == 200 for reply in replies)
            owed -= len(replies)
    ours.close()
    _, _, usage = os.wait4(worker, 0)
    each = 1e6 / (rounds * options.batch)
    return usage.ru_utime * each, usage.ru_stime * each


def task(slot: int, head: bytes) -> Task:
    return Task(slot, 0, head, b"", 0, "127.0.0.1", 40000 + slot, 0, time.monotonic_ns())


def live(tasks: socket.socket, options: argparse.Namespace) -> int:
    threads = Threads(
        tasks,
        memoryview(bytearray(SCOREBOARD_BYTES)).cast("Q"),
        handlers(options.threads),
        None,
        ResponseLimits.of(Settings()),
    )
    if options.profile:
        threading.setprofile(None)
        profile = cProfile.Profile()
        profile.runcall(threads._live, 2 * SCOREBOARD_SLOTS + 1)
        profile.print_stats("tottime")
    else:
        threads.start(options.threads)
        threads.join()
    return 0 if resource.getrusage(resource.RUSAGE_SELF).ru_utime else 1


def handlers(threads: int) -> Any:
    pools = (PoolPlan("built-in", None, 1, 1), PoolPlan("app:app", "app:app", 1, threads))
    route = RoutePlan("", "app:app", Kind.WSGI, 1)
    listener = Listener("127.0.0.1:8000", "127.0.0.1", 8000, socket.socket())
    return handlers_of(Plan(Settings(), (route,), pools, (listener,)), 1, application, bool)


if __name__ == "__main__":
    main()
