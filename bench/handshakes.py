"""TLS handshakes: how many a second, and what each costs the process that has the key.

`openssl s_time` makes one connection after the other, asks for one file on each, and counts. It may well be
the limit itself, so it is the processor time of the server that is compared.
"""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path
from statistics import median

from bench import compare, processes, report, servers
from bench.compare import Pace, own_folder
from bench.idle import holder


def make_certificate(place: Path) -> Path:
    """A file with a key and its certificate, in this order."""
    certificate = place / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(certificate), "-out", str(place / "part.pem"), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    with certificate.open("ab") as file:
        file.write((place / "part.pem").read_bytes())
    certificate.chmod(0o644)
    return certificate


def over_tls(place: Path, *, http2: bool = False) -> list[servers.Server]:
    """Servers of the folder `public` in `place`, with the same key."""
    certificate = make_certificate(place)
    public = place / "public"
    options = ("--certfile", str(certificate))
    found = [servers.halfsync(own_folder(place, "halfsync"), str(public), options=options, http2=http2)]
    if compare.say_missing(["nginx"]):
        found.append(servers.nginx(own_folder(place, "nginx"), public, certificate, http2=http2))
    return found


def make_public(place: Path, size: int) -> bytes:
    """A folder with one file of `size` bytes, the same in every run."""
    folder = own_folder(place, "public")
    body = random.Random(size).randbytes(size)
    (folder / "file.html").write_bytes(body)
    return body


def compare_handshakes(pace: Pace, size: int, kind: str, target: float) -> None:
    """`kind`: "new" or "reuse"."""
    with compare.workplace() as place:
        body = make_public(place, size)
        chosen = over_tls(place)
        for server in chosen:
            server.cores = pace.servers_core
        counts: dict[str, list[tuple[float, float]]] = {server.name: [] for server in chosen}
        with compare.running(chosen, "/file.html", body) as up:
            for _ in range(pace.rounds):
                for server in up:
                    counts[server.name].append(_run(server, pace, kind))
    _show(counts, target)


def _run(server: servers.Server, pace: Pace, kind: str) -> tuple[float, float]:
    """Connections a second, and seconds of the server's processor time for each."""
    pid = holder(server)
    cores = ",".join(map(str, sorted(pace.load_core)))
    before = processes.processor_seconds(pid)
    done = subprocess.run(
        [
            *("taskset", "--cpu-list", cores, "openssl", "s_time", "-connect", f"127.0.0.1:{server.port}"),
            *(f"-{kind}", "-time", str(pace.seconds), "-www", "/file.html"),
        ],
        capture_output=True,
        text=True,
        timeout=pace.seconds + 60,
        check=False,
    )
    used = processes.processor_seconds(pid) - before
    found = re.search(r"(\d+) connections in (\d+) real seconds", done.stdout)
    if found is None or not int(found[1]):
        raise servers.CannotStart(
            f"openssl s_time makes no connections:\n{done.stdout[-500:]}{done.stderr[-500:]}"
        )
    count = int(found[1])
    return count / max(1, int(found[2])), used / count


def _show(counts: dict[str, list[tuple[float, float]]], target: float) -> None:
    costs = {name: median(cost for _, cost in runs) for name, runs in counts.items() if runs}
    rows = [
        [name, f"{median(rate for rate, _ in counts[name]):,.0f}", f"{cost * 1e6:,.0f} us"]
        for name, cost in costs.items()
    ]
    print()
    print(report.table(["", "connections/s", "processor time of each"], rows))
    print()
    if "halfsync" in costs and "nginx" in costs:
        print(
            report.verdict(
                "nginx's cost / halfsync's", costs["nginx"] / costs["halfsync"], target, at_least=True
            )
        )
