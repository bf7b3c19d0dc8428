"""Switches that are given a value on the command line, as uvicorn's are."""

from __future__ import annotations

import pytest

from halfsync.commands.cli import parsed
from halfsync.habits.switches import without_values

DEFLATE = "--ws-per-message-deflate"


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ([DEFLATE, "true"], [DEFLATE]),
        ([DEFLATE, "False"], ["--no-ws-per-message-deflate"]),
        ([f"{DEFLATE}=0", "shop:app"], ["--no-ws-per-message-deflate", "shop:app"]),
        ([DEFLATE, "shop:app"], [DEFLATE, "shop:app"]),
        ([DEFLATE], [DEFLATE]),
        ([f"{DEFLATE}=maybe"], [f"{DEFLATE}=maybe"]),
        (["--http2=off"], ["--no-http2"]),
        (["--http2", "on"], ["--http2", "on"]),  # a folder
        (["--preload=yes", "--", DEFLATE, "true"], ["--preload", "--", DEFLATE, "true"]),
        (["--bind=1", "-w", "1"], ["--bind=1", "-w", "1"]),
    ],
)
def test_a_switch_with_a_value_is_the_switch_or_its_opposite(given: list[str], means: list[str]):
    assert without_values(given) == means


def test_the_command_line_takes_it():
    options = parsed([DEFLATE, "true", "shop:app"])
    assert options["ws_per_message_deflate"] is True
    assert options["targets"] == ("shop:app",)
    assert parsed([f"{DEFLATE}=false", "shop:app"])["ws_per_message_deflate"] is False
