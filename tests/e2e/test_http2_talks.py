"""Random conversations over HTTP/2, the same in every run: see http2_talks.py."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.harness import resident, serving
from tests.e2e.http2_talks import ROUTES, Talks, make_files

MOST = 64 * 1024 * 1024
"""Bytes by which the pump may grow: what 8 connections may have under way, and what stays remembered."""


def test_every_stream_gets_the_response_to_its_request(tmp_path: Path):
    """Eight connections at a time, ten in all, with resets, mistakes and windows of all sizes."""
    make_files(tmp_path)
    with serving(tmp_path, *ROUTES) as server:
        server.tracebacks = -1  # some handlers fail amid their responses
        before = resident(server.pump)
        talks = Talks(server, 1)
        talks.run(10, at_once=8, steps=60)
        assert talks.responses > 150
        assert resident(server.pump) - before < MOST
        assert talks.mistakes > 2
