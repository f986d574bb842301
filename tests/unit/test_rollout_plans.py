"""Plans and abort rules say what they accept, and refuse the rest with a reason."""

import json
import math
from collections.abc import Callable

import pytest

from aios.errors import UsageError
from aios.rollout import BlueGreen, Canary, Shadow, parse_plan, parse_rule


@pytest.mark.parametrize(
    ("text", "kind", "limit", "quantile", "floor_s"),
    [
        ("errors worse", "errors", 0.01, 0.95, 0.01),
        ("errors worse by 0.02", "errors", 0.02, 0.95, 0.01),
        ("latency_p95 > 1.5x", "latency", 1.5, 0.95, 0.01),
        ("latency_p99 > 2x + 20ms", "latency", 2.0, 0.99, 0.02),
        ("latency_p50>3 x+1.5 s", "latency", 3.0, 0.5, 1.5),
        ("latency_p95 > 1.2x + 0ms", "latency", 1.2, 0.95, 0.0),
        ("output drift", "drift", 0.3, 0.95, 0.01),
        ("output  drift > .25", "drift", 0.25, 0.95, 0.01),
        ("kpi worse", "kpi", None, 0.95, 0.01),
        ("kpi worse by 0.01", "kpi", 0.01, 0.95, 0.01),
        ("disagreement > 0.1", "disagreement", 0.1, 0.95, 0.01),
    ],
)
def test_rules_are_read(
    text: str, kind: str, limit: float | None, quantile: float, floor_s: float
) -> None:
    found = parse_rule(text)
    assert (found.kind, found.limit, found.quantile, found.floor_s) == (
        kind,
        limit,
        quantile,
        floor_s,
    )


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("error worse", 0),
        ("errors better", 7),
        ("errors worse by", 15),
        ("errors worse by 2", 16),
        ("errors worse by 0", 16),
        ("latency_p95 < 1.5x", 12),
        ("latency_p95 > 1.5", 17),
        ("latency_p95 > 1.5x + 20", 23),
        ("latency_p100 > 2x", 0),
        ("output drift > 0.2 please", 19),
        ("__import__('os')", 0),
        ("disagreement", 12),
    ],
)
def test_an_unknown_rule_is_refused_with_its_position_and_the_forms(
    text: str, position: int
) -> None:
    with pytest.raises(UsageError, match=r"forms are: errors worse; ") as caught:
        parse_rule(text)
    assert caught.value.details["position"] == position


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Canary(abort_when=()), "no abort rule"),
        (lambda: Shadow(abort_when=()), "no abort rule"),
        (lambda: Canary(steps=0.5), "steps is a tuple"),
        (lambda: Canary(steps=(5, 25, 100)), "five percent is 0.05"),
        (lambda: Canary(steps=(0.5, 0.2, 1.0)), "grow strictly"),
        (lambda: Canary(steps=(0.5, 0.5, 1.0)), "grow strictly"),
        (lambda: Canary(steps=(0.1, 0.5)), "last step is 1.0"),
        (lambda: Canary(steps=()), "last step is 1.0"),
        (lambda: Canary(steps=(1.0,)), "BlueGreen"),
        (lambda: Canary(steps=(0.0, 1.0)), "above 0"),
        (lambda: Canary(steps=(math.nan, 1.0)), "above 0"),
        (lambda: Canary(steps=("a", 1.0)), "every step is a number"),
        (lambda: Canary(bakes_s=3), "did you mean bake_s"),
        (lambda: Canary(bake_s="soon"), "bake_s"),
        (lambda: Canary(bake_s=math.inf), "bake_s must be finite"),
        (lambda: Canary(bake_s=-1), "bake_s"),
        (lambda: Canary(error_probability=0), "error_probability"),
        (lambda: Canary(max_stage_s=5, bake_s=60), "shorter than a stage"),
        (lambda: Canary(abort_when=("errors worse", "errors worse")), "given twice"),
        (lambda: Canary(abort_when="errors are bad"), "forms are"),
        (lambda: Canary(abort_when=("disagreement > 0.1",)), "shadow_first_s"),
        (lambda: parse_plan({"kind": "rolling"}), "blue_green"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()


def test_plans_round_trip_as_json_and_share_out_the_error_probability() -> None:
    for plan in (Canary(abort_when="errors worse"), BlueGreen(5), Shadow(9)):
        assert parse_plan(json.loads(plan.model_dump_json())) == plan
    assert Canary().alpha == pytest.approx(0.05 / 3 / 2)
    assert Canary(shadow_first_s=5).alpha == pytest.approx(0.05 / 3 / 3)
    assert BlueGreen().alpha == pytest.approx(0.05 / 3)


def test_an_approval_is_asked_for_only_before_a_weight_of_the_plan() -> None:
    assert Canary(steps=(0.1, 1.0), approve_before=(0.1, 1.0)).approve_before == (0.1, 1.0)
    assert BlueGreen(approve_before=(1.0,)).weights() == (1.0,)
    with pytest.raises(UsageError, match=r"approve_before has 0\.3.*it has: 0\.1, 1"):
        Canary(steps=(0.1, 1.0), approve_before=(0.3,))
    with pytest.raises(UsageError, match="it has: none"):
        Shadow(approve_before=(1.0,))
