"""Dividing a bill: whatever is reported, the parts sum to what the nodes cost."""

import doctest
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aios.monitoring.cost
from aios.errors import UsageError
from aios.monitoring.cost import (
    IDLE,
    OVERHEAD,
    NodeTime,
    by_hour,
    divided,
    grown,
    total,
)
from aios.monitoring.roi import MONTH_S, Asked, roi
from aios.monitoring.spending import RunFacts, spending
from aios.records.cost import Billed, Kpis, Owner, Place, ProcessUsage, Used

LOAN = Owner("endpoint", "loan", "loan", 1, "stable")
CANARY = Owner("endpoint", "loan", "loan", 2, "canary")
SHADOW = Owner("endpoint", "loan", "loan", 2, "shadow")
RUN = Owner("training", run="r-1")
LOST = Owner("training", run="r-2")
KERNEL = Owner("control plane")
HOUR = 3600.0
MADE = {"r-1": RunFacts("loan", 2, "w-1"), "r-2": RunFacts("loan", None, None)}

amounts = st.floats(0, 1e9, allow_nan=False)
used = st.builds(Used, core_s=amounts, gpu_s=amounts, calls=st.integers(0, 10**9))
owners = st.sampled_from([LOAN, CANARY, RUN, KERNEL, Owner("flow", run="f-1")])
nodes = st.builds(
    NodeTime,
    seconds=st.floats(1e-3, 1e6),
    cores=st.just(0.0) | st.floats(0.01, 1024),
    gpus=st.sampled_from([0.0, 1.0, 8.0]),
    hour_price=st.none() | st.floats(0, 1e4),
    gpu_share=st.floats(0, 1),
    busy_s=st.none() | amounts,
)


def told(**fields: Any) -> ProcessUsage:
    named = {"id": "p", "node": "n", "kind": "endpoint", "endpoint": "loan", "model": "loan"}
    return ProcessUsage(**{**named, "version": 1, "arm": "stable", **fields})


@given(nodes, st.dictionaries(owners, used))
@settings(max_examples=500)
def test_the_parts_sum_to_the_bill_whatever_is_reported(node: NodeTime, reported: Any) -> None:
    parts, held = divided(node, reported)
    whole = total(parts.values())
    assert math.isclose(whole.cost, node.cost, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(whole.core_s, node.cores * node.seconds, rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(whole.gpu_s, node.gpus * node.seconds, rel_tol=1e-9, abs_tol=1e-9)
    assert whole.calls == sum(one.calls for one in reported.values())
    for one in [*parts.values(), *held.values()]:
        assert min(one.core_s, one.gpu_s, one.cost) >= 0
    assert sum(one.core_s for one in held.values()) <= node.cores * node.seconds * (1 + 1e-9)
    assert all(one.calls == 0 and one.cost == 0 for one in held.values())


def test_a_part_pays_for_its_share_of_the_node() -> None:
    node = NodeTime(seconds=HOUR, cores=4, hour_price=0.40, busy_s=HOUR * 1.5)
    parts, held = divided(node, {LOAN: Used(HOUR), KERNEL: Used(HOUR / 10)})
    assert parts[LOAN].cost == pytest.approx(0.10)
    assert parts[KERNEL].cost == pytest.approx(0.01)
    assert parts[OVERHEAD].cost == pytest.approx(0.04)
    assert parts[IDLE].cost == pytest.approx(0.25)
    assert held == {}


def test_the_gpus_of_a_node_have_their_part_of_its_price() -> None:
    node = NodeTime(seconds=HOUR, cores=4, gpus=2, hour_price=10.0, gpu_share=0.9)
    parts, _ = divided(node, {LOAN: Used(HOUR, gpu_s=HOUR), RUN: Used(2 * HOUR)})
    assert parts[LOAN].cost == pytest.approx(4.5 + 0.25)
    assert parts[RUN].cost == pytest.approx(0.5)
    assert parts[IDLE].gpu_s == HOUR


def test_more_than_the_node_has_is_held_back_and_counted_in_the_next_interval() -> None:
    node = NodeTime(seconds=10, cores=2, hour_price=1.0)
    parts, held = divided(node, {LOAN: Used(25.0), RUN: Used(5.0)})
    assert parts[LOAN].core_s == pytest.approx(25 * 2 / 3)
    assert parts[IDLE].cost == pytest.approx(0)
    later, rest = divided(node, held)
    assert later[LOAN].core_s == pytest.approx(25 / 3)
    assert later[RUN].core_s + parts[RUN].core_s == pytest.approx(5.0)
    assert rest == {}


def test_a_replicas_time_is_divided_by_the_calls_of_its_arms() -> None:
    before = told(cpu_s=10, calls={"stable:1": 100})
    now = told(cpu_s=14, calls={"stable:1": 130, "canary:2": 10})
    assert grown(now, before) == {LOAN: Used(3.0, calls=30), CANARY: Used(1.0, calls=10)}


def test_a_workers_time_is_divided_by_the_steps_of_flows_and_what_no_step_used_has_no_name() -> (
    None
):
    before = ProcessUsage(id="w", node="n", kind="flows", cpu_s=10, calls={"refund:1": 4})
    now = before.model_copy(update={"cpu_s": 14, "calls": {"refund:1": 7, "report:2": 1}})
    refund, report = (
        Owner("flows", model="refund", version=1),
        Owner("flows", model="report", version=2),
    )
    assert grown(now, before) == {refund: Used(3.0, calls=3), report: Used(1.0, calls=1)}
    assert grown(now.model_copy(update={"cpu_s": 15}), now) == {Owner("flows"): Used(1.0)}


def test_a_replica_without_calls_is_its_stable_versions() -> None:
    now = told(cpu_s=2, version=7)
    assert grown(now, None) == {LOAN._replace(version=7): Used(2.0)}


def test_a_report_that_was_overtaken_counts_nothing() -> None:
    assert grown(told(cpu_s=5), told(cpu_s=6)) == {}
    assert grown(told(cpu_s=6), told(cpu_s=6)) == {LOAN: Used(0.0)}


@given(st.floats(0, 1e10), st.floats(0, 1e6))
def test_an_interval_falls_into_hours_without_loss(start_s: float, seconds: float) -> None:
    hours = by_hour(start_s, start_s + seconds)
    assert math.isclose(sum(share for _, share in hours), 1.0, rel_tol=1e-6)
    assert all(hour_s % HOUR == 0 for hour_s, _ in hours)


def test_the_example_is_true() -> None:
    assert doctest.testmod(aios.monitoring.cost).failed == 0


# -- what was spent -----------------------------------------------------------------------


def place(hour: int, currency: str = "EUR", node_type: str = "default") -> Place:
    return Place(hour * HOUR, HOUR, node_type, currency)


ROWS = [
    (place(0), LOAN, Used(1000, calls=900, cost=1.0)),
    (place(0), CANARY, Used(500, calls=100, cost=0.5)),
    (place(0), SHADOW, Used(100, calls=400, cost=0.1)),
    (place(1), LOAN, Used(1000, calls=1000, cost=1.0)),
    (place(1), RUN, Used(3000, cost=3.0)),
    (place(1), LOST, Used(400, cost=0.4)),
    (place(1), KERNEL, Used(1000, cost=1.0)),
    (place(1), IDLE, Used(3000, cost=3.0)),
]
BILLS = [(place(0), Billed(HOUR, 1600, 0, 1.6)), (place(1), Billed(HOUR, 8400, 0, 8.4))]


def spent(by: str, **more: Any) -> dict[str, Any]:
    given = {"rows": ROWS, "bills": BILLS, "by": by, "currency": "EUR", "made": MADE, **more}
    return spending(**given)


def costs(found: dict[str, Any]) -> dict[str, float]:
    return {part["what"]: round(part["cost"], 6) for part in found["parts"]}


def test_a_bill_by_endpoint_by_version_by_arm_and_by_run() -> None:
    rest = {"control plane": 1.0, "idle": 3.0}
    assert costs(spent("endpoint")) == {"loan": 2.6, "training of loan": 3.4, **rest}
    assert costs(spent("version")) == {
        "loan:1": 2.0,
        "loan:2": 0.6,
        "training of loan:2": 3.0,
        "training of loan, no version": 0.4,
        **rest,
    }
    arms = {"loan stable": 2.0, "loan canary": 0.5, "loan shadow": 0.1}
    assert costs(spent("arm")) == {**arms, "training of loan": 3.4, **rest}
    assert costs(spent("run")) == {"loan": 2.6, "r-1": 3.0, "r-2": 0.4, **rest}
    assert costs(spent("kind")) == {"endpoints": 2.6, "training": 3.4, **rest}
    begun = {part["what"]: part["because"] for part in spent("run")["parts"]}
    assert (begun["r-1"], begun["r-2"], begun["idle"]) == ("watch w-1", "a person", None)


def test_flows_and_agents_are_told_by_name_and_by_version() -> None:
    flow, agents = (
        Owner("flows", model="refund", version=2),
        Owner("agents", model="desk", version=1),
    )
    rows = [
        (place(0), flow, Used(100, calls=7, cost=1.0)),
        (place(0), flow._replace(version=1), Used(100, calls=7, cost=0.5)),
        (place(0), Owner("flows"), Used(1, cost=0.1)),
        (place(0), agents, Used(100, calls=9, cost=2.0)),
    ]
    by_name = {"flow refund": 1.5, "workers of flows": 0.1, "agents desk": 2.0}
    assert costs(spent("endpoint", rows=rows)) == by_name
    versions = {
        "flow refund:1": 0.5,
        "flow refund:2": 1.0,
        "workers of flows": 0.1,
        "agents desk:1": 2.0,
    }
    assert costs(spent("version", rows=rows)) == versions
    assert costs(spent("kind", rows=rows)) == {"flows": 1.6, "agents": 2.0}
    assert {part["calls"] for part in spent("version", rows=rows)["parts"]} == {None}


def test_a_version_at_an_endpoint_of_another_name_says_where() -> None:
    rows = [(place(0), LOAN._replace(endpoint="credit"), Used(1, cost=1.0))]
    assert list(costs(spent("version", rows=rows))) == ["loan:1 at credit"]


def test_parts_sum_to_the_bill_and_a_difference_is_told() -> None:
    found = spent("endpoint")
    assert found["bill"] == pytest.approx(10.0)
    assert found["difference"] == pytest.approx(0.0)
    assert sum(part["share"] for part in found["parts"]) == pytest.approx(1.0)
    assert spent("kind", rows=ROWS[1:])["difference"] == pytest.approx(-1.0)


def test_copies_to_a_shadow_are_no_calls_of_the_endpoint() -> None:
    (loan,) = [part for part in spent("endpoint")["parts"] if part["what"] == "loan"]
    assert loan["calls"] == 2000
    assert loan["per_1000"] == pytest.approx(1.3)
    (shadow,) = [part for part in spent("arm")["parts"] if part["what"] == "loan shadow"]
    assert shadow["calls"] == 400


def test_what_has_no_price_or_another_currency_is_told_beside_the_bill() -> None:
    gpu = place(0, "", "gpu")
    rows = [*ROWS, (gpu, RUN, Used(50)), (place(0, "USD"), LOAN, Used(5, cost=7.0))]
    bills = [*BILLS, (gpu, Billed(2 * HOUR)), (place(0, "USD"), Billed(HOUR, cost=7.0))]
    found = spent("kind", rows=rows, bills=bills)
    assert found["bill"] == pytest.approx(10.0)
    assert found["unpriced_node_hours"] == {"gpu": 2.0}
    assert found["other_currencies"] == {"USD": 7.0}


def test_without_prices_shares_are_of_core_hours() -> None:
    rows = [(place(0, ""), LOAN, Used(900, calls=5)), (place(0, ""), IDLE, Used(2700))]
    found = spent("kind", rows=rows, bills=[(place(0, ""), Billed(HOUR, HOUR))], currency="")
    assert found["bill"] is None
    assert found["difference"] == pytest.approx(0.0)
    assert [part["share"] for part in found["parts"]] == [0.25, 0.75]
    assert found["parts"][0]["per_1000"] is None


def test_a_long_window_is_told_by_the_day() -> None:
    rows = [(place(hour), LOAN, Used(1, cost=1.0)) for hour in range(24 * 6)]
    series = spent("kind", rows=rows)["series"]
    assert [bar["parts"] for bar in series] == [{"endpoints": 24.0}] * 6
    assert len(spent("kind", rows=rows[:30])["series"]) == 30


def test_costs_are_not_by_just_anything() -> None:
    from aios.monitoring.spending import check_by

    with pytest.raises(UsageError, match="by arm, endpoint, kind, run, version; not by 'colour'"):
        check_by("colour")


# -- what it brought ----------------------------------------------------------------------

USED = {
    LOAN: Used(cost=10.0, calls=1000),
    CANARY: Used(cost=4.0, calls=100),
    SHADOW: Used(cost=1.0, calls=500),
    RUN: Used(cost=20.0),
    LOST: Used(cost=5.0),
    Owner("endpoint", "other", "other", 1, "stable"): Used(cost=40.0),
    KERNEL: Used(cost=8.0),
    IDLE: Used(cost=8.0),
}


def returned(
    values: dict[int, Kpis], used: dict[Owner, Used] | None = None, **more: Any
) -> dict[str, Any]:
    asked = Asked(since_s=0.0, until_s=10 * 86_400.0, **more)
    used = USED if used is None else used
    return roi(asked, used, values, endpoint="loan", model="loan", made=MADE)


def kpis(*values: float) -> Kpis:
    found = Kpis()
    for value in values:
        found = found.add(value)
    return found


def test_a_version_bears_its_serving_its_training_and_a_share_of_what_keeps_all_running() -> None:
    found = returned({1: kpis(*[2.0] * 30), 2: kpis(5.0)}, value_per_kpi=0.5)
    rows = {row["version"]: row for row in found["versions"]}
    assert rows[1] | {"serving": 10.0, "training": 0.0, "value": 30.0, "calls": 1000} == rows[1]
    assert rows[2] | {"serving": 5.0, "training": 20.0, "value": 2.5, "calls": 100} == rows[2]
    assert rows[None] | {"serving": 0.0, "training": 5.0, "value": None} == rows[None]
    assert rows[1]["maintenance"] == pytest.approx(16 * 10 / 80)
    assert found["cost"] == pytest.approx(40 + 16 / 2)
    assert found["net"] == pytest.approx(32.5 - 48)
    assert found["ratio"] == pytest.approx(32.5 / 48)
    assert found["kpi_share"] == pytest.approx(31 / 1100)


def test_people_who_look_after_it_are_part_of_the_cost() -> None:
    found = returned({1: kpis(100.0)}, maintenance_per_month=3000.0)
    people = 3000 * 10 * 86_400 / MONTH_S
    assert found["cost"] == pytest.approx(48 + people)
    unpriced = {LOAN: Used(calls=10), CANARY: Used(calls=30)}
    found = returned({1: kpis(100.0)}, unpriced, maintenance_per_month=3000.0)
    assert found["cost"] == pytest.approx(people)
    assert found["versions"][1]["maintenance"] == pytest.approx(people * 0.75)


def test_without_a_kpi_nothing_is_claimed() -> None:
    found = returned({})
    assert (found["value"], found["net"], found["ratio"], found["paid"]) == (None,) * 4
    assert found["break_even_s"] is None
    assert found["cost"] > 0


def test_break_even_is_when_days_like_these_have_paid_for_training() -> None:
    cheap = {LOAN: Used(cost=10.0, calls=10), RUN: Used(cost=90.0)}
    found = returned({1: kpis(40.0)}, cheap)
    assert found["a_day"] == pytest.approx(3.0)
    assert found["break_even_s"] == pytest.approx(30 * 86_400)  # 60 more at 3 a day
    assert returned({1: kpis(400.0)}, cheap)["paid"] is True
    never = returned({1: kpis(5.0)}, cheap)
    assert (never["paid"], never["break_even_s"]) == (False, None)


def test_only_on_request_are_answers_without_a_kpi_taken_to_be_worth_as_much() -> None:
    half = kpis(*[0.0, 2.0] * 50)
    assert returned({1: half})["value"] == pytest.approx(100.0)
    found = returned({1: half}, extrapolate=True)
    assert found["value"] == pytest.approx(1000.0)
    deviation = math.sqrt(100 / 99)
    error = 1.959964 * 1000 * deviation / 10 * math.sqrt(1 - 100 / 1000)
    assert found["error"] == pytest.approx(error)
    assert returned({1: kpis(*[1.0] * 29)}, extrapolate=True)["value"] is None
    assert returned({1: kpis(*[0.01] * 400)}, extrapolate=True)["error"] == 0.0
