"""Pages with which to ill-treat the server. None of this belongs in a real application."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from flask import Blueprint, Response, current_app, jsonify, render_template, request, stream_template

pages = Blueprint("experiments", __name__)

LONGEST_HANG = 30.0  # seconds
STEPS = 40
LARGE = 32 * 1024 * 1024


@pages.get("/ping")
def ping() -> Response:
    """The least that the application can say: who it is."""
    return jsonify(pid=os.getpid(), thread=threading.current_thread().name)


@pages.get("/hang")
def hang() -> Response:
    """Hold this thread. As many of these as there are threads, and the application is stuck."""
    seconds = min(max(request.args.get("seconds", 15.0, type=float), 0.0), LONGEST_HANG)
    time.sleep(seconds)
    return jsonify(pid=os.getpid(), held=seconds)


@pages.post("/kill")
def kill() -> NoReturn:
    """End this worker process as the kernel would, in the middle of a request."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


@pages.get("/progress")
def progress() -> Iterator[str]:
    """A page that arrives while the work is done: each piece is sent when it is yielded."""
    return stream_template("progress.html", steps=_work(), total=STEPS)


def _work() -> Iterator[int]:
    for step in range(1, STEPS + 1):
        time.sleep(0.15)
        yield step


@pages.route("/upload", methods=["GET", "POST"])
def upload() -> str:
    """What was sent, by its digest. Nothing is kept."""
    file = request.files.get("file")
    if request.method == "GET" or file is None or not file.filename:
        return render_template("upload.html", file=None)
    digest = hashlib.file_digest(file.stream, "sha256")  # type: ignore[arg-type]  # any readable object
    size = file.stream.tell()
    return render_template("upload.html", file=file, size=size, digest=digest.hexdigest())


@pages.get("/large")
def large() -> Response:
    """32 MiB in one piece, made here. The thread is free before a slow client has it all."""
    return Response(b"0123456789abcde\n" * (LARGE // 16), mimetype="text/plain")


@pages.get("/leased")
def leased() -> Response:
    """Once in five seconds this runs; in between, the pump repeats the response by itself."""
    answer = Response(render_template("leased.html", now=time.strftime("%H:%M:%S"), pid=os.getpid()))
    lease = request.environ.get("halfsync.lease")
    if lease is not None:
        lease(5.0)
    return answer


@pages.get("/request")
def environ() -> str:
    """The request as the application sees it."""
    rows = sorted((key, repr(value)) for key, value in request.environ.items() if key != "werkzeug.request")
    return render_template("request.html", rows=rows, name=current_app.name)
