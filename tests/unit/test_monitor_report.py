"""The monitor's page: all that is known is on it, whatever things are called."""

import re

from aios.runtime.cost import Costs
from aios.runtime.monitor import MonitorStatus
from aios.runtime.report import Report

BARS = {"names": ["$10%-$20%", "<b>", "others"], "then": [0.5, 0.5, 0.0], "now": [0.1, 0.9, 0.0]}


def status(**more) -> MonitorStatus:
    name = "cost_$_per_$"
    found = {
        "endpoint": "loan",
        "version": "loan:2",
        "normal": "training data",
        "fields": {
            name: {"role": "input", "kind": "text", "values": 9, "scores": {"psi": 0.4}}
            | {"bars": BARS},
        },
        "windows": [
            {"start_s": 60.0 * n, "end_s": 60.0 * n + 60, "rows": 9, "psi": {name: 0.1 * n}}
            for n in range(3)
        ],
        "quality": [{"answers": 100 * n, "accuracy": 0.9, "brier": 0.1} for n in range(3)],
        "feedback": {"joined": 7},
        "refused": {},
        "domain_auc": [],
        "groups": {},
        "watches": [],
    }
    return MonitorStatus({**found, **more})


def costs() -> Costs:
    found = {"by": "arm", "currency": None, "bill": 0.0, "node_hours": 1.0, "core_hours": 2.0}
    found |= {"gpu_hours": 0.0, "difference": 0.0, "parts": [], "series": [], "first_s": None}
    found |= {"since_s": 0.0, "until_s": 1.0, "unpriced_node_hours": {}, "other_currencies": {}}
    return Costs(found)


def group(name: str, rate: float, accuracy: float | None) -> dict[str, object]:
    around = None if accuracy is None else [accuracy - 0.1, accuracy + 0.1]
    return {
        "group": name,
        "rows": 120,
        "selection_rate": rate,
        "selection_rate_interval": [rate - 0.1, rate + 0.1],
        "labels": 0 if accuracy is None else 100,
        "accuracy": accuracy,
        "accuracy_interval": around,
    }


def test_names_with_dollars_are_no_formulas_and_markup_is_escaped():
    page = Report(status(), costs())._repr_html_()
    assert "cost_$_per_$" in page
    assert "<b>" not in re.sub(r"<!--.*?-->", "", page), "a category's name is text"


def test_groups_and_the_auc_over_time_are_drawn_where_they_are_known():
    bare = Report(status(), costs())
    assert bare.groups() is None
    assert len(bare.over_time().axes) == 2
    sexes = [group("f", 0.3, 0.8), group("m", 0.6, None)]
    auc = [{"end_s": 60.0, "auc": 0.5}, {"end_s": 120.0, "auc": 0.9}]
    full = Report(status(groups={"sex": sexes, "age": []}, domain_auc=auc), costs())
    (axes,) = full.groups().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["f (120)", "m (120)"]
    points = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(points) == [0.3, 0.6, 0.8]
    drawn = full.over_time().axes[2].lines[0]
    assert list(drawn.get_ydata()) == [0.5, 0.9]
    assert "groups" in full._repr_html_()
