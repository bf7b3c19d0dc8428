"""A small Flask application: sessions, a form, an upload, a static file, a streamed response."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, redirect, request, send_file, session, stream_with_context


def create_app() -> Flask:
    app = Flask(__name__, static_folder=None)
    app.secret_key = "the story's"

    @app.route("/sign", methods=["GET", "POST"])
    def sign() -> Any:
        if request.method == "POST":
            session["name"] = request.form["name"]
            return redirect("/sign")
        return f"signed by {session.get('name', 'nobody')}"

    @app.post("/upload")
    def upload() -> str:
        file = request.files["file"]
        data = file.read()
        return f"{file.filename} {len(data)} {hashlib.sha256(data).hexdigest()}"

    @app.get("/file")
    def file() -> Response:
        return send_file(__file__, mimetype="text/x-python", conditional=True)

    @app.get("/count")
    def count() -> Response:
        def numbers() -> Iterator[str]:
            for number in range(int(request.args["to"])):
                yield f"{number}\n"

        return Response(stream_with_context(numbers()), mimetype="text/plain")

    @app.get("/where/<path:name>")
    def where(name: str) -> str:
        return f"{request.script_root} {request.path} {name}"

    @app.post("/json")
    def json() -> Any:
        return {"got": request.get_json()}

    return app


app = create_app()
