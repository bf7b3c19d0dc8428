"""The cases, each a function of the pace. Targets stand beside what they judge."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench import (
    apps,
    asgi_cases,
    asgi_streams,
    compare,
    crowd,
    handshakes,
    http2,
    load,
    overload,
    ramp,
    report,
    servers,
    websocket,
)
from bench.compare import Pace, own_folder
from bench.handshakes import make_certificate, make_public, over_tls
from bench.idle import idle_connections

SMALL = 6 * 1024
LARGE = 1024 * 1024
HUGE = 5 * LARGE
THREADS = 8

Case = Callable[[Pace], None]


def small_file_plain(pace: Pace) -> None:
    """6 KB file, leased, 64 kept connections, wrk's own short heads"""
    _file(pace, SMALL, {"nginx": 0.95})


def small_file_browser(pace: Pace) -> None:
    """6 KB file, leased, 64 kept connections, heads like a browser's: 600 bytes, ten fields, a
    cookie that differs in every request"""
    _file(pace, SMALL, {"nginx": 0.85}, load.BROWSER)


def large_file(pace: Pace) -> None:
    """1 MiB file, 64 kept connections"""
    _file(pace, LARGE, {"nginx": 0.95})


def huge_file(pace: Pace) -> None:
    """5 MiB file, 64 kept connections"""
    _file(pace, HUGE, {})


def application(pace: Pace) -> None:
    """trivial WSGI application, one worker process of 8 threads, 64 kept connections"""
    targets = {"granian-8": 1.0, "granian": 1.0, "gunicorn": 6.0, "waitress": 4.0}
    _application(pace, "bench.apps:hello", apps.HELLO, targets)


def application_browser(pace: Pace) -> None:
    """the same with heads like a browser's, whose cookie differs in every request"""
    _application(pace, "bench.apps:hello", apps.HELLO, {"granian-8": 1.0}, script=load.BROWSER)


def application_without_log(pace: Pace) -> None:
    """the same with wrk's own heads and no access log on either side"""
    with compare.workplace() as place:
        chosen = [
            servers.halfsync(own_folder(place, "halfsync"), "bench.apps:hello", threads=THREADS, log=False)
        ]
        if compare.say_missing(["granian"]):
            for threads, name in ((THREADS, "granian-8"), (None, "granian")):
                folder = own_folder(place, name)
                chosen.append(servers.granian(folder, "bench.apps:hello", threads, log=False))
        _compare(chosen, pace, "/", apps.HELLO, {"granian-8": 1.0, "granian": 1.0})


def flask_page(pace: Pace) -> None:
    """a page of a Flask application, one worker process of 8 threads, 64 kept connections"""
    from bench.flask_app import app

    body = app.test_client().get("/").data
    _application(pace, "bench.flask_app:app", body, {})


def django_page(pace: Pace) -> None:
    """a page of a Django project, one worker process of 8 threads, 64 kept connections"""
    from bench.django_app import page

    body = page(None).content
    _application(pace, "bench.django_app:app", body, {})


def file_while_burning(pace: Pace) -> None:
    """6 KB file, leased, while all 8 worker threads compute without pause; server and load share
    all cores"""
    with compare.workplace() as place:
        body = make_public(place, SMALL)
        folder = own_folder(place, "halfsync")
        server = servers.halfsync(folder, "bench.apps:burn", f"/files={place / 'public'}", threads=THREADS)
        path = "/files/file.html"
        with compare.running([server], path, body) as up:
            if not up:
                return
            calm = [load.wrk(server.url(path), pace.seconds) for _ in range(pace.rounds)]
            hot = [_load_while_burning(server, path, pace.seconds) for _ in range(pace.rounds)]
    rows = []
    for name, outcomes in (("threads idle", calm), ("threads computing", hot)):
        rates = compare.Rates(outcomes)
        row = [name, f"{rates.per_second:,.0f}", report.milliseconds(rates.p99), str(rates.failed)]
        rows.append(row)
    print()
    print(report.table(["", "req/s", "p99", "failed"], rows))
    print()
    p99 = compare.Rates(hot).p99 * 1000
    print(report.verdict("p99 while computing", p99, 20, " ms", at_least=False))


def idle_memory(pace: Pace) -> None:
    """memory of 10,000 idle kept connections"""
    with compare.workplace() as place:
        body = make_public(place, SMALL)
        public = place / "public"
        chosen = [servers.halfsync(own_folder(place, "halfsync"), str(public))]
        if compare.say_missing(["nginx"]):
            chosen.append(servers.nginx(own_folder(place, "nginx"), public))
        idle_connections(chosen, "/file.html", body)


def tls_small(pace: Pace) -> None:
    """TLS 1.3: 6 KB file, leased, 64 kept connections"""
    _file_over_tls(pace, SMALL, 0.95)


def tls_large(pace: Pace) -> None:
    """TLS 1.3: 1 MiB file, 64 kept connections"""
    _file_over_tls(pace, LARGE, 1.1)


def tls_huge(pace: Pace) -> None:
    """TLS 1.3: 100 MiB file, 8 kept connections"""
    _file_over_tls(pace, 100 * LARGE, 1.1, connections=8)


def full_handshakes(pace: Pace) -> None:
    """full TLS 1.3 handshakes with an ECDSA key, one 6 KB file each"""
    handshakes.compare_handshakes(pace, SMALL, "new", 0.85)


def resumed_handshakes(pace: Pace) -> None:
    """the same, resumed by ticket"""
    handshakes.compare_handshakes(pace, SMALL, "reuse", 0.85)


def application_over_tls(pace: Pace) -> None:
    """TLS 1.3: trivial WSGI application, one worker process of 8 threads, 64 kept connections"""
    app = "bench.apps:hello"
    with compare.workplace() as place:
        certificate = make_certificate(place)
        options = ("--certfile", str(certificate))
        chosen = [servers.halfsync(own_folder(place, "halfsync"), app, threads=THREADS, options=options)]
        if compare.say_missing(["granian"]):
            for threads, name in ((THREADS, "granian-8"), (None, "granian")):
                folder = own_folder(place, name)
                chosen.append(servers.granian(folder, app, threads, certificate=certificate))
        _compare(chosen, pace, "/", apps.HELLO, {"granian-8": 1.0, "granian": 1.0})


def idle_tls_memory(pace: Pace) -> None:
    """memory of 2,000 idle kept TLS connections"""
    with compare.workplace() as place:
        body = make_public(place, SMALL)
        idle_connections(over_tls(place), "/file.html", body, wanted=2000, target=100.0)


CASES: dict[str, Case] = {
    "file": small_file_plain,
    "browser": small_file_browser,
    "large": large_file,
    "huge": huge_file,
    "wsgi": application,
    "wsgi-browser": application_browser,
    "wsgi-quiet": application_without_log,
    "flask": flask_page,
    "django": django_page,
    "asgi": asgi_cases.hello,
    "fastapi": asgi_cases.fastapi,
    "asgi-chunks": asgi_cases.chunks,
    "asgi-upload": asgi_streams.uploads,
    "asgi-events": asgi_streams.events,
    "websocket": websocket.small,
    "websocket-4k": websocket.medium,
    "burn": file_while_burning,
    "idle": idle_memory,
    "tls": tls_small,
    "tls-large": tls_large,
    "tls-huge": tls_huge,
    "tls-wsgi": application_over_tls,
    "handshakes": full_handshakes,
    "resumed": resumed_handshakes,
    "tls-idle": idle_tls_memory,
    "ramp": ramp.case,
    "crowd": crowd.case,
    "overload": overload.case,
    **http2.CASES,
}


def _application(
    pace: Pace, app: str, body: bytes, targets: dict[str, float], script: Path | None = None
) -> None:
    with compare.workplace() as place:
        chosen = [servers.halfsync(own_folder(place, "halfsync"), app, threads=THREADS)]
        for name in compare.say_missing(["granian", "gunicorn", "waitress"]):
            if name == "granian":
                chosen.append(servers.granian(own_folder(place, "granian-8"), app, THREADS))
                chosen.append(servers.granian(own_folder(place, "granian"), app, None))
            elif name == "gunicorn":
                chosen.append(servers.gunicorn(own_folder(place, name), app))
            else:
                chosen.append(servers.waitress(own_folder(place, name), app))
        _compare(chosen, pace, "/", body, targets, script)


def _file(pace: Pace, size: int, targets: dict[str, float], script: Path | None = None) -> None:
    with compare.workplace() as place:
        body = make_public(place, size)
        public = place / "public"
        chosen = [servers.halfsync(own_folder(place, "halfsync"), str(public))]
        if compare.say_missing(["nginx"]):
            chosen.append(servers.nginx(own_folder(place, "nginx"), public))
        _compare(chosen, pace, "/file.html", body, targets, script)


def _file_over_tls(pace: Pace, size: int, target: float, connections: int = 64) -> None:
    with compare.workplace() as place:
        body = make_public(place, size)
        _compare(over_tls(place), pace, "/file.html", body, {"nginx": target}, connections=connections)


def _compare(
    chosen: list[servers.Server],
    pace: Pace,
    path: str,
    body: bytes,
    targets: dict[str, float],
    script: Path | None = None,
    connections: int = 64,
) -> None:
    for server in chosen:
        server.cores = pace.servers_core
    with compare.running(chosen, path, body) as up:
        rates = compare.measure(up, pace, path, script, connections, len(body))
    compare.show(rates, targets)


def _load_while_burning(server: servers.Server, path: str, seconds: int) -> load.Outcome:
    """One run of wrk, during which every thread of the application computes."""
    answers: list[str] = []
    # they begin before wrk and end after it, so that no part of the run is calm
    burners = [
        threading.Thread(target=_burn, args=(server.port, seconds + 2, answers)) for _ in range(THREADS)
    ]
    for burner in burners:
        burner.start()
    threading.Event().wait(0.5)
    outcome = load.wrk(server.url(path), seconds)
    for burner in burners:
        burner.join()
    if answers != [str(THREADS)] * THREADS:
        print(f"  careful: not all {THREADS} threads computed at the same time; the answers were {answers}")
    return outcome


def _burn(port: int, seconds: int, answers: list[str]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=seconds + 30)
    try:
        connection.request("GET", f"/burn?seconds={seconds}")
        answers.append(connection.getresponse().read().decode())
    except (OSError, HTTPException) as error:
        answers.append(repr(error))
    finally:
        connection.close()
