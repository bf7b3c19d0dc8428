"""The same application under uvicorn: what both servers do is compared, request by request."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.harness import APPS, Answer, Client, request, serving, until

REQUESTS = {
    "hello": request("/"),
    "head": request("/", method="HEAD"),
    "echo": request("/echo", method="POST", body=b"some body"),
    "empty": request("/echo", method="POST"),
    "chunked": b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "pieces": request("/dribble?pieces=5"),
    "large": request("/large?size=300000"),
    "204": request("/status?code=204"),
    "304": request("/status?code=304"),
    "418": request("/status?code=418"),
    "before": request("/raise?when=before"),
    "start": request("/raise?when=after"),
    "within": request("/raise?when=within"),
    "no response": request("/broken?rule=no_response"),
    "body first": request("/broken?rule=body_first"),
    "unfinished": request("/broken?rule=unfinished"),
    "too short later": request("/broken?rule=too_short_later"),
}
SCOPES = {
    "plain": request("/scope/a?b=c"),
    "escaped": request("/scope/%C3%A9%2F%25?%20"),
    "fields": request("/scope", "X-A: 1", "x-a: \t2", "X-B: \xe4"),
    "absolute": b"GET http://other:8/scope?a HTTP/1.1\r\nHost: other:8\r\n\r\n",
    "1.0": b"GET /scope HTTP/1.0\r\n\r\n",
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The ports of ours and uvicorn's."""
    folder = tmp_path_factory.mktemp("both")
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "--no-access-log", "asgis:app"]
    log = folder / "uvicorn.log"
    with serving(folder, "asgis:app") as server, log.open("wb") as output:
        server.tracebacks = -1
        environment = {**os.environ, "PYTHONPATH": str(APPS)}
        uvicorn = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            found = until(lambda: re.search(r"running on http://127.0.0.1:(\d+)", log.read_text()))
            assert found
            yield server.port, int(found[1])
        finally:
            uvicorn.terminate()
            uvicorn.wait()


def answered(port: int, data: bytes) -> Answer:
    with Client(("127.0.0.1", port)) as client:
        client.send(data)
        return client.answer("HEAD" if data.startswith(b"HEAD") else "GET")


@pytest.mark.parametrize("name", REQUESTS)
def test_responses_are_the_same(both, name):
    ours, theirs = (answered(port, REQUESTS[name]) for port in both)
    assert (ours.status, ours.whole, ours["Content-Type"][:10]) == (
        theirs.status,
        theirs.whole,
        theirs["Content-Type"][:10],
    )
    if ours.status < 500 and ours.whole:  # the words of a 500 are each server's own
        assert ours.body == theirs.body


@pytest.mark.parametrize("name", SCOPES)
def test_scopes_are_the_same(both, name):
    ours, theirs = (_scope(answered(port, SCOPES[name])) for port in both)
    assert ours == theirs


def _scope(answer: Answer) -> dict[str, Any]:
    """Without what must differ: addresses, extensions."""
    scope: dict[str, Any] = json.loads(answer.body)
    for name in ("client", "server", "extensions"):
        scope.pop(name, None)
    return scope
