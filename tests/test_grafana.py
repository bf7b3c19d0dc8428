"""The dashboard in examples/: what it asks for, the status page has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from halfsync.pump.status.metrics import metrics
from halfsync.pump.status.page import StatusPages
from tests.pump.harness import Stage

DASHBOARD = Path(__file__).parent.parent / "examples/grafana.json"


def expressions(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        for key, value in found.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(found, list):
        for value in found:
            yield from expressions(value)


def test_every_metric_and_label_is_one_of_the_status_page():
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    with Stage() as stage:
        found = StatusPages(stage.pump).found()
    found |= {
        "responses": {"200": 1},
        "refused": {"allow": 1},
        "requests_in_flight": {"working": 1},
        "connections": {"idle": 1},
        "processes": [{"role": "pump", "pid": 1, "state": "working", "memory": 1}],
        "certificates": [{"site": "", "seconds": 1}],
    }
    found["pools"][0]["refused"] = {"queue_limit": 1}
    labels = {
        sample.name: set(sample.labels) | {"instance"}
        for family in text_string_to_metric_families(metrics(found))
        for sample in family.samples
    }
    asked = [(name, text) for text in expressions(dashboard) for name in re.findall(r"halfsync_\w+", text)]
    assert len(asked) > 20
    for name, text in asked:
        assert name in labels, text
    for text in expressions(dashboard):
        there = {label for name in re.findall(r"halfsync_\w+", text) for label in labels[name]}
        used = {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(",")
        } | set(re.findall(r"(\w+)=~", text))
        assert used <= there, text


def test_panels_have_numbers_and_places_of_their_own():
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert all(
                label in target["expr"] or label == "instance"
                for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            )
