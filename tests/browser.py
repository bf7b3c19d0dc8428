"""A headless Chromium for tests, driven over its DevTools protocol.

`Browser` is one process, for as many pages as a module of tests needs; each page has a context of its own, so
no cookie or cache is shared. A page remembers what the browser complained of (`complaints`: exceptions,
messages of the console's levels warning and error, what a Content-Security-Policy stopped, requests that
failed), and what it asked for (`requested`).

Nothing here sleeps to let something happen; `Page.until` polls a condition, with a deadline.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.sync.client import connect

from tests.e2e.harness import LONG

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ROOM = 64 << 20
"""Bytes of a message: a screenshot is one."""


def found_browser() -> str:
    """Where there is none, the test is skipped."""
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    pytest.skip("there is no Chromium")


def fingerprint(certificate: bytes) -> str:
    """Of a certificate's public key, as --ignore-certificate-errors-spki-list has it."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


class Browser:
    """Use it as a context manager."""

    def __init__(self, *trusted: bytes) -> None:
        """`trusted`: certificates in PEM; chains that have one of them are accepted."""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        keys = ",".join(map(fingerprint, trusted))
        self._undo = contextlib.ExitStack()
        self._said = Path(self._folder.name, "said")
        # Into a file: a pipe that nobody reads would be full at some time.
        said = self._undo.enter_context(self._said.open("wb"))
        self._process = subprocess.Popen(
            [
                found_browser(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-extensions",
                "--no-first-run",
                "--no-proxy-server",
                "--hide-scrollbars",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._folder.name}",
                *([f"--ignore-certificate-errors-spki-list={keys}"] if keys else []),
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # the command may be a script that starts the browser
        )
        try:
            self._socket = self._undo.enter_context(
                connect(
                    self._address(),
                    max_size=ROOM,
                    open_timeout=LONG,
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                )
            )
        except BaseException:
            self._end()
            raise
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}

    def _address(self) -> str:
        """It says on standard error where it listens."""
        give_up = time.monotonic() + LONG
        while True:
            said = self._said.read_text("utf-8", "replace")
            if found := re.search(r"DevTools listening on (ws://\S+)\n", said):
                return found[1]
            assert self._process.poll() is None, f"the browser ended before it listened: {said}"
            assert time.monotonic() < give_up, f"the browser does not listen: {said}"
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._undo.close()
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()

    def page(self, *, width: int = 1000, height: int = 800, dark: bool = False, scripts: bool = True) -> Page:
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        page.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.ask("Emulation.setEmulatedMedia", features=[scheme])
        page.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        return page

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """What a method gives."""
        number = next(self._numbers)
        request: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            request["sessionId"] = session
        self._socket.send(json.dumps(request))
        while True:
            said = self.receive(LONG)
            assert said is not None, f"{method} is not answered"
            if said.get("id") == number:
                assert "error" not in said, f"{method}: {said['error']}"
                return dict(said["result"])

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; an event is noted by its page. None: there was none."""
        try:
            said: dict[str, Any] = json.loads(self._socket.recv(seconds))
        except TimeoutError:
            return None
        page = self._pages.get(said.get("sessionId", ""))
        if page is not None and "method" in said:
            page.note(said["method"], said["params"])
        return said


class Page:
    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context
        self._loaded = 0
        self.requested: dict[str, str] = {}  # address by the request's number
        self.complaints: list[str] = []
        self.statuses: dict[str, int] = {}  # by address

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **parameters)

    def close(self) -> None:
        self._browser.ask("Target.disposeBrowserContext", browserContextId=self._context)

    def go(self, address: str) -> None:
        """Load it, and all that it loads."""
        before = self._loaded
        said = self.ask("Page.navigate", url=address)
        assert not said.get("errorText"), f"{address}: {said['errorText']}"
        self._until(lambda: self._loaded > before, address)

    def evaluate(self, expression: str) -> Any:
        """JavaScript; a promise is awaited."""
        said = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, expression: str) -> Any:
        """What it gives when that is true at last."""
        return self._until(lambda: self.evaluate(expression), expression)

    def _until(self, holds: Any, what: str) -> Any:
        give_up = time.monotonic() + LONG
        while not (found := holds()):
            assert time.monotonic() < give_up, f"never: {what}; {self.complaints}"
            self._browser.receive(0.05)
        return found

    @property
    def protocol(self) -> str:
        """With which the page came: "h2", "http/1.1"."""
        return str(self.evaluate('performance.getEntriesByType("navigation")[0].nextHopProtocol'))

    def screenshot(self, path: Path) -> None:
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        said = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(said["data"]))

    def note(self, method: str, said: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Network.requestWillBeSent":
            self.requested[said["requestId"]] = said["request"]["url"]
        elif method == "Network.responseReceived":
            self.statuses[said["response"]["url"]] = said["response"]["status"]
        elif method == "Network.loadingFailed" and not said.get("canceled"):
            address = self.requested.get(said["requestId"], "?")
            self.complaints.append(f"{address}: {said['errorText']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{said['entry'].get('url', '')}: {said['entry']['text']}")
