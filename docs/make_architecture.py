"""Brings the generated parts of docs/architecture.md up to date: the state diagrams, the channels, and
the functions that a request enters (from walk.txt, which `make walk` writes).

The prose around them is written by hand; what stands between the markers comes from the code.
"""

from __future__ import annotations

import re
from pathlib import Path

from halfsync.pump.states import diagrams
from halfsync.wire import messages, orders

PAGE = Path(__file__).resolve().parent / "architecture.md"
WALK = PAGE.with_name("walk.txt")


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    connection, exchange, body, tunnel, websocket = diagrams().split("\n\n")
    text = _fill(text, "connection states", f"```mermaid\n{connection}\n```\n")
    text = _fill(text, "exchange states", f"```mermaid\n{exchange}\n```\n")
    text = _fill(text, "body states", f"```mermaid\n{body}\n```\n")
    text = _fill(text, "tunnel states", f"```mermaid\n{tunnel.rstrip()}\n```\n")
    text = _fill(text, "websocket states", f"```mermaid\n{websocket.rstrip()}\n```\n")
    channels = "\n".join(_channels(module.__doc__ or "") for module in (messages, orders))
    text = _fill(text, "channels", f"```text\n{channels}\n```\n")
    return _fill(
        text, "functions of a request", f"```text\n{WALK.read_text(encoding='utf-8').rstrip()}\n```\n"
    )


def _channels(docstring: str) -> str:
    return docstring.partition("(SCM_RIGHTS):\n\n")[2].partition("\n\n")[0].rstrip()


def _fill(text: str, name: str, content: str) -> str:
    pattern = rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)"
    filled, count = re.subn(pattern, lambda m: m[1] + content + m[2], text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{PAGE.name} has {count} places for {name}")
    return filled


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
