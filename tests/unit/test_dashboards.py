"""Dashboards and alert rules ask for metrics that there are."""

import json
import re
from pathlib import Path

import pytest
import yaml

import aios
from aios.kernel import front, metrics

FOLDER = Path(aios.__file__).parent / "telemetry" / "prometheus"
KNOWN = set(re.findall(r"aios_\w+", metrics.__doc__ or ""))


def names(expression: str) -> set[str]:
    return set(re.findall(r"aios_\w+", expression))


def test_every_panel_shows_a_metric_that_is_made() -> None:
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(asked) == len(panels) == 12
    assert all(names(expression) and names(expression) <= KNOWN for expression in asked)


@pytest.mark.parametrize(
    "rule", yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
)
def test_every_rule_asks_for_a_metric_that_is_made(rule: dict[str, str]) -> None:
    assert names(rule["expr"])
    assert names(rule["expr"]) <= KNOWN
    assert rule["annotations"]


def test_the_table_of_metrics_names_what_is_made() -> None:
    sources = Path(metrics.__file__).read_text() + Path(front.__file__).read_text()
    made = set(re.findall(r'"(aios_\w+)"', sources))
    bare = {name.removesuffix("_total") for name in KNOWN}
    assert {name.removesuffix("_total") for name in made} == bare
