"""The status as mod_status's ?auto has it, for programs that read that: lines that have a meaning here."""

from __future__ import annotations

import os
import time
from typing import Any


def auto(found: dict[str, Any]) -> str:
    """`found` is what StatusPages.found gives."""
    uptime, requests, sent = found["uptime"], found["requests"], found["bytes_sent"]
    letters = "".join(worker["letters"] for worker in found["workers"])
    states = found["connections"]
    handled_ms = 1000 * sum(one["seconds"] for one in found["handlers"])
    handled = sum(sum(one["times"]) for one in found["handlers"])
    now = time.time()
    loads = os.getloadavg()
    lines = {
        "ServerVersion": f"halfsync/{found['version']}",
        "ServerMPM": "halfsync",
        "CurrentTime": _clock(now),
        "RestartTime": _clock(now - uptime),
        "ParentServerConfigGeneration": found["generation"],
        "ServerUptimeSeconds": int(uptime),
        "Load1": f"{loads[0]:.2f}",
        "Load5": f"{loads[1]:.2f}",
        "Load15": f"{loads[2]:.2f}",
        "Total Accesses": requests,
        "Total kBytes": sent // 1024,
        "Total Duration": round(handled_ms),
        "Uptime": int(uptime),
        "ReqPerSec": f"{requests / uptime:.6g}" if uptime else 0,
        "BytesPerSec": f"{sent / uptime:.6g}" if uptime else 0,
        "BytesPerReq": f"{sent / requests:.6g}" if requests else 0,
        "DurationPerReq": f"{handled_ms / handled:.6g}" if handled else 0,
        "BusyWorkers": sum(worker["busy"] for worker in found["workers"]),  # not all have a letter
        "GracefulWorkers": sum(worker["busy"] for worker in found["workers"] if "G" in worker["letters"]),
        "IdleWorkers": letters.count("_"),
        "Processes": len(found["workers"]),
        "ConnsTotal": sum(states.values()),
        "ConnsAsyncKeepAlive": states.get("idle", 0),
        "ConnsAsyncClosing": states.get("lingering", 0),
        "Scoreboard": letters,
    }
    return "".join(f"{name}: {value}\n" for name, value in lines.items())


def _clock(seconds: float) -> str:
    """As Apache writes it."""
    return time.strftime("%A, %d-%b-%Y %H:%M:%S GMT", time.gmtime(seconds))
