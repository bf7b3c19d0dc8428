"""Limits for each client, with a real server."""

from __future__ import annotations

from tests.e2e.harness import Answer, serving

APPLICATION = """
def app(environ, start):
    start("200 OK", [])
    return [b"fine"]
"""

SETTINGS = """
[routes]
"/" = "app:app"
"/api" = { app = "app:app", client_rate = 0.001, client_burst = 3 }
"/files" = { folder = "files", client_rate = 0.001, client_burst = 2 }
"""


def test_a_client_that_asks_too_often_gets_429_there_and_elsewhere_it_does_not(tmp_path):
    """Also on the fast path, from a lease, and for the clients of a trusted proxy, each by itself."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_text("a")
    (tmp_path / "halfsync.toml").write_text(SETTINGS)
    with serving(tmp_path) as server, server.client() as client:

        def statuses(target: str, *fields: str, times: int) -> list[int]:
            return [client.ask(target, *fields).status for _ in range(times)]

        assert statuses("/api/x", times=5) == [200] * 3 + [429] * 2
        refused: Answer = client.ask("/api")
        assert 0 < int(refused["Retry-After"]) <= 1000
        assert b"too many requests" in refused.body
        assert refused["Connection"] == ""
        assert statuses("/", times=5) == [200] * 5
        assert statuses("/files/a", times=4) == [200] * 2 + [429] * 2
        assert statuses("/api", "X-Forwarded-For: 192.0.2.1", times=4) == [200] * 3 + [429]
        assert statuses("/api", "X-Forwarded-For: 192.0.2.2", times=4) == [200] * 3 + [429]
        server.until_logged("429 to 127.0.0.1 for GET '/api/x': more than 0.001 requests a second")
