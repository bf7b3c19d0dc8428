"""The status as Prometheus reads it: its text format, version 0.0.4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

Labels = dict[str, object]
Samples = Iterable[tuple[str, Labels, float]]
"""What stands behind the family's name ("", "_sum"), labels, value."""

FIRST_CLASS, LAST_CLASS = 14, 37
"""Of handlers' times, the classes that have a bucket: from 16 µs to 137 s."""


def metrics(found: dict[str, Any]) -> str:
    """`found` is what StatusPages.found gives."""
    lines: list[str] = []
    for name, kind, help_text, samples in _families(found):
        lines.append(f"# HELP halfsync_{name} {help_text}")
        lines.append(f"# TYPE halfsync_{name} {kind}")
        lines += [f"halfsync_{name}{more}{_labels(labels)} {value!r}" for more, labels, value in samples]
    return "\n".join((*lines, ""))


def _families(found: dict[str, Any]) -> Iterator[tuple[str, str, str, Samples]]:
    def alone(value: float) -> Samples:
        return [("", {}, value)]

    def by(label: str, values: dict[str, float]) -> Samples:
        return [("", {label: key}, value) for key, value in values.items()]

    def of_pools(key: str) -> Samples:
        return [("", {"pool": one["pool"]}, one[key]) for one in found["pools"]]

    yield "info", "gauge", "The version.", [("", {"version": found["version"]}, 1)]
    yield "uptime_seconds", "gauge", "Since the server's start.", alone(found["uptime"])
    yield "generation", "gauge", "Reloads that changed something.", alone(found["generation"])
    yield (
        "responses_total", "counter",
        "Responses by status, but those of halfsync_lease_hits_total; 0: the connection ended before one.",
        by("status", found["responses"]),
    )  # fmt: skip
    yield (
        "lease_hits_total",
        "counter",
        "Responses repeated at once from a lease.",
        alone(found["lease_hits"]),
    )
    yield (
        "lease_slow_hits_total",
        "counter",
        "Responses from a lease that are counted by status too.",
        alone(found["lease_slow_hits"]),
    )
    yield (
        "lease_misses_total",
        "counter",
        "Responses of workers that made or renewed a lease.",
        alone(found["lease_misses"]),
    )
    yield (
        "refused_total", "counter", "Requests that the server refused by itself.",
        by("reason", found["refused"]),
    )  # fmt: skip
    yield "sent_bytes_total", "counter", "Bytes sent to clients.", alone(found["bytes_sent"])
    yield (
        "connections_accepted_total",
        "counter",
        "Connections accepted.",
        alone(found["connections_accepted"]),
    )
    yield (
        "connections_closed_total", "counter", "Connections closed, by reason.",
        by("reason", found["connections_closed"]),
    )  # fmt: skip
    yield "connections", "gauge", "Connections by state.", by("state", found["connections"])
    yield (
        "requests_in_flight", "gauge", "Requests by state.", by("state", found["requests_in_flight"])
    )  # fmt: skip
    yield "leases", "gauge", "Leases in memory.", alone(found["leases"])
    yield "lease_bytes", "gauge", "Memory of leases.", alone(found["lease_bytes"])
    yield "log_records", "gauge", "Access log records to be written.", alone(found["log_records"])
    yield "pool_threads", "gauge", "Threads of a pool.", of_pools("threads")
    yield "pool_busy_threads", "gauge", "Threads that handle a request.", of_pools("busy")
    yield "pool_waiting_requests", "gauge", "Requests that wait for a thread.", of_pools("waiting")
    yield (
        "pool_overloaded", "gauge", "Whether requests are refused because of queue_target: 1, or 0.",
        [("", {"pool": one["pool"]}, int(one["overloaded"])) for one in found["pools"]],
    )  # fmt: skip
    yield (
        "pool_concurrency_limit", "gauge", "How many requests may run at once: as many as threads, or fewer.",
        [("", {"pool": one["pool"]}, _concurrency(one)) for one in found["pools"]],
    )  # fmt: skip
    yield (
        "pool_refused_total", "counter", "Requests that got a 503 because of a setting.",
        [
            ("", {"pool": one["pool"], "setting": setting}, count)
            for one in found["pools"]
            for setting, count in one["refused"].items()
        ],
    )  # fmt: skip
    yield (
        "handler_seconds", "histogram", "Time of requests in their handlers.",
        (sample for one in found["handlers"] for sample in _histogram(one)),
    )  # fmt: skip
    yield (
        "resident_memory_bytes", "gauge", "Memory of processes.",
        [
            ("", {"process": one["role"], "pool": one.get("pool", ""), "pid": one["pid"]}, one["memory"])
            for one in found["processes"]
            if one["pid"] is not None
        ],
    )  # fmt: skip
    yield (
        "processes", "gauge", "Processes by role, pool and state.",
        [
            ("", {"process": role, "pool": pool, "state": state}, count)
            for (role, pool, state), count in Counter(
                (one["role"], one.get("pool", ""), one["state"]) for one in found["processes"]
            ).items()
        ],
    )  # fmt: skip
    yield (
        "certificate_seconds", "gauge", "Until a certificate expires.",
        [
            ("", {"site": one["site"], "number": number}, one["seconds"])
            for number, one in enumerate(found["certificates"])
        ],
    )  # fmt: skip


def _histogram(handlers: dict[str, Any]) -> Samples:
    pool, times = handlers["pool"], handlers["times"]
    for bits in range(FIRST_CLASS, LAST_CLASS + 1):
        yield "_bucket", {"pool": pool, "le": repr(2**bits / 1e9)}, sum(times[: bits + 1])
    yield "_bucket", {"pool": pool, "le": "+Inf"}, sum(times)
    yield "_sum", {"pool": pool}, handlers["seconds"]
    yield "_count", {"pool": pool}, sum(times)


def _labels(labels: Labels) -> str:
    said = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{said}}}" if said else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _concurrency(pool: dict[str, Any]) -> int:
    limit: int | None = pool["concurrency_limit"]
    threads: int = pool["threads"]
    return threads if limit is None else limit
