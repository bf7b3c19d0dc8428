"""docs/how-to/status.png: the status page of a server that has had something to do (`make screenshot`).

It needs a Chromium. Not among the scripts of `make docs`, since it takes minutes and no two pictures are
alike.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from pathlib import Path

from tests.browser import Browser
from tests.e2e.harness import Server, serving

PICTURE = Path(__file__).parent / "how-to/status.png"
APPLICATION = """
import random
import time
def app(environ, start):
    time.sleep(30 if "report" in environ["PATH_INFO"] else random.lognormvariate(-6, 1))
    start("200 OK", [])
    return [b"x" * random.randrange(20_000)]
"""
SETTINGS = """
[routes]
"/" = { app = "shop:app", workers = 3, threads = 8 }
"/static" = "."
"/status" = { status_page = true }
"""

TARGETS = ("/", "/cart", "/static/shop.py", "/static/shop.py", "/static/none.png")


def visit(server: Server, until: float, phase: float) -> None:
    """As a visitor who comes and goes."""
    chance = random.Random(phase)
    while time.monotonic() < until:
        with server.client() as client:
            for _ in range(20):
                client.ask(
                    chance.choice(("/", "/cart", "/static/shop.py", "/static/shop.py", "/missing?page=2"))
                )
                busy = 1 + ((time.monotonic() / 50 + phase) % 2)
                time.sleep(chance.expovariate(6 * busy))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=420.0, help="of requests, before it is taken")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shop.py").write_text(APPLICATION)
        (folder / "halfsync.toml").write_text(SETTINGS)
        with serving(folder) as server, Browser() as browser:
            until = time.monotonic() + seconds
            visitors = [
                threading.Thread(target=visit, args=(server, until, number / 8)) for number in range(8)
            ]
            reports = [
                threading.Thread(target=server.get, args=(f"/report/{number}?year=2026",))
                for number in range(3)
            ]
            for visitor in visitors:
                visitor.start()
            while time.monotonic() < until - 10:
                time.sleep(1)
            for report in reports:
                report.start()
            while time.monotonic() < until - 2:
                time.sleep(0.1)
            page = browser.page(width=1000, height=700)
            page.go(f"{server.url}/status")
            page.screenshot(PICTURE)
            for thread in (*visitors, *reports):
                thread.join()


if __name__ == "__main__":
    main()
