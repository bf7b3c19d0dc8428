"""An ASGI application that says by whom it was asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise RuntimeError(f"{scope['type']} is not served")
    host = dict(scope["headers"])[b"host"].decode()
    with Path("probes").open("a", encoding="ascii") as probes:
        probes.write(f"{os.getppid()} {scope['scheme']} {host} {scope['client'][0]} asgi\n")
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
