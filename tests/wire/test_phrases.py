"""Reason phrases: the same on every version of Python."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from halfsync.wire.http1_responses import status_line
from halfsync.wire.phrases import PHRASES


@pytest.mark.parametrize(
    "line", ["413 Content Too Large", "414 URI Too Long", "416 Range Not Satisfiable", "200 OK", "299 "]
)
def test_a_status_line_has_the_phrase_of_rfc_9110(line):
    assert status_line(int(line[:3]), "") == f"HTTP/1.1 {line}\r\n".encode()


def test_every_status_that_python_knows_has_one():
    assert all(PHRASES[status].isascii() for status in HTTPStatus)
