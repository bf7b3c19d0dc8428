"""The guest book: a small Flask application to try halfsync with.

Pages are rendered here, notes are kept in SQLite; style, logo and the large download never reach
this code, for they are mounted beside it (halfsync.toml).
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from guestbook import experiments, store, tokens

VAR = Path(__file__).resolve().parent.parent / "var"

LONGEST_NAME = 60
LONGEST_TEXT = 1000


def create_app(var: Path = VAR) -> Flask:
    """The application, with what `guestbook.prepare` made in the folder `var`."""
    app = Flask(__name__, static_folder=None)  # the server's own route gives the static files
    app.config.update(
        SECRET_KEY=(var / "secret").read_bytes(),
        DATABASE=str(var / "guestbook.sqlite"),
        SESSION_COOKIE_NAME="guestbook",
        SESSION_COOKIE_SAMESITE="Strict",
    )
    app.jinja_env.globals["static"] = "/static/{}".format
    store.init_app(app)
    tokens.init_app(app)
    app.register_blueprint(experiments.pages)
    app.add_url_rule("/", view_func=front)
    app.add_url_rule("/notes", view_func=notes)
    app.add_url_rule("/notes", view_func=write, methods=["POST"])
    app.register_error_handler(HTTPException, failed)
    app.after_request(_guard)
    return app


def front() -> Response:
    """What this is and what to try. It names this process, so it is made again when someone comes back: by
    then, they may have killed it."""
    page = Response(render_template("front.html", pid=os.getpid(), parent=os.getppid()))
    page.headers["Cache-Control"] = "no-store"
    return page


def notes() -> str:
    """The book, or those of its notes that have the words."""
    words = request.args.get("words", "").strip()
    return render_template("notes.html", notes=store.search(words), words=words)


def write() -> AnyResponse | tuple[str, int]:
    """One more note, then back to the book."""
    name = request.form.get("name", "").strip()
    text = request.form.get("text", "").strip()
    if not 0 < len(name) <= LONGEST_NAME or not 0 < len(text) <= LONGEST_TEXT:
        trouble = f"A note needs a name (at most {LONGEST_NAME} letters) and a text (at most {LONGEST_TEXT})."
        return render_template("notes.html", notes=store.search(""), words="", trouble=trouble), 400
    store.add(name, text)
    return redirect(url_for("notes"), 303)


def failed(error: HTTPException) -> tuple[str, int]:
    """Any refusal, as a page."""
    return render_template("failed.html", error=error), error.code or 500


def _guard(response: Response) -> Response:
    """Nothing but our own style and script is let in, whatever a note contains. (The script of the
    front page asks the same server under its two names.)"""
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; connect-src 'self' http://localhost:* http://127.0.0.1:*; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    return response
