"""Dashboards and alert rules ask for metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from kernel_fakes import make_template, make_world

import aios
from aios.kernel import front, log_metrics, metrics

FOLDER = Path(aios.__file__).parent / "telemetry" / "prometheus"
KNOWN = set(re.findall(r"aios_[a-z_]+", (metrics.__doc__ or "").partition("**Counters")[0]))
OF_HISTOGRAMS = re.compile(r"(aios_\w+_seconds)_bucket")


def names(expression: str) -> set[str]:
    return set(re.findall(r"aios_\w+", OF_HISTOGRAMS.sub(r"\1", expression)))


def test_every_panel_shows_a_metric_that_is_made() -> None:
    panels = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(asked) > len(panels) == 18
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == 18
    assert all(names(expression) and names(expression) <= KNOWN for expression in asked)


@pytest.mark.parametrize(
    "rule", yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
)
def test_every_rule_asks_for_a_metric_that_is_made(rule: dict[str, str]) -> None:
    assert names(rule["expr"])
    assert names(rule["expr"]) <= KNOWN
    assert rule["annotations"]


def test_the_table_of_metrics_names_what_is_made() -> None:
    sources = [Path(module.__file__).read_text() for module in (metrics, front, log_metrics)]
    made = set(re.findall(r'"(aios_\w+)"', " ".join(sources)))
    bare = {name.removesuffix("_total") for name in KNOWN}
    assert {name.removesuffix("_total") for name in made} == bare


def promtool(*arguments: str, folder: Path, given: str = "") -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    ran = subprocess.run(
        [found, *arguments], cwd=folder, input=given, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == "", "what it would have otherwise"


def test_rules_ring_when_they_should_and_not_else(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "alerts.yaml", tmp_path)
    shutil.copy(Path(__file__).with_name("alert_rules.yaml"), tmp_path)
    promtool("check", "rules", "alerts.yaml", folder=tmp_path)
    promtool("test", "rules", "alert_rules.yaml", folder=tmp_path)


def test_every_rule_is_seen_ringing() -> None:
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    seen = Path(__file__).with_name("alert_rules.yaml").read_text()
    assert [rule["alert"] for rule in rules if f'"{rule["alert"]}"' not in seen] == []


def test_prometheus_finds_nothing_wrong_with_the_metrics(tmp_path: Path) -> None:
    world = make_world(make_template(tmp_path / "template"), tmp_path / "home")
    world.rollout()
    world.tick()
    promtool("check", "metrics", folder=tmp_path, given=world.do("metrics"))
