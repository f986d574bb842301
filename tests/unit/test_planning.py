"""From a measurement to machines: an endpoint whose queue is known, and numbers that follow."""

import math
from dataclasses import replace

import numpy as np
import pytest
from capacity_worlds import BASE_S, MACHINE, SimulatedEndpoint, measured, outcome_of

from aios.capacity.fitting import fitted, rate_of_one_replica
from aios.capacity.load import Stream
from aios.capacity.measurement import Measurement, Point, same_machine
from aios.capacity.planning import HOURS_PER_MONTH, Demand, Node, Plan, plan
from aios.capacity.queueing import Queue
from aios.capacity.searching import search
from aios.errors import ModelFailed, UsageError
from aios.runtime.capacity import asked_now

SERVICE_S, BUDGET_S = 0.004, 0.06


@pytest.fixture(scope="module")
def loan() -> Measurement:
    return measured(SimulatedEndpoint(SERVICE_S), BUDGET_S)


def exact_knee(budget_s: float = BUDGET_S) -> float:
    """Of M/M/1: the response is exponential with mean 1 / (mu - lambda)."""
    return 1 / SERVICE_S - math.log(100) / (budget_s - BASE_S)


def test_the_search_finds_the_knee(loan: Measurement) -> None:
    """Four halvings of 0 to 250/s leave 15/s; a measured p99 adds some."""
    assert loan.full_per_s == pytest.approx(250)
    assert loan.knee_per_s == pytest.approx(exact_knee(), abs=20)
    kept, broken = loan.bounds(BUDGET_S)
    assert broken is not None
    assert 0 < broken - kept <= 16


def test_what_is_learnt_predicts_other_rates_and_numbers_of_replicas(loan: Measurement) -> None:
    """The goal: p99 within 25 % for 1 to 4 replicas, of a measurement of one."""
    fit = fitted(loan)
    assert fit.service_s == pytest.approx(SERVICE_S, rel=0.02)
    for replicas, utilisation in ((1, 0.5), (2, 0.6), (3, 0.7), (4, 0.75)):
        rate = utilisation * replicas / SERVICE_S
        seen = SimulatedEndpoint(SERVICE_S, replicas).took_s(rate, 15_000, seed=11)
        low_s = fit.p99_s(rate, replicas)
        assert low_s == pytest.approx(np.quantile(seen, 0.99), rel=0.25)


def test_a_plan_is_arithmetic(loan: Measurement) -> None:
    fit = fitted(loan)
    one = rate_of_one_replica(loan, fit, BUDGET_S)
    found = plan(loan, Demand(2_000, BUDGET_S, ingresses=4), Node(hour_price=0.10))
    assert found.replicas == found.replicas_unbalanced == math.ceil(2_000 / one)
    assert found.replicas_per_node == MACHINE["cores"] - 1
    assert found.nodes_without_spare == math.ceil(found.replicas / 3)
    assert found.nodes == found.nodes_without_spare + 1
    assert found.month_cost == pytest.approx(found.nodes * 0.10 * HOURS_PER_MONTH)
    assert found.million_cost == pytest.approx(found.nodes * 0.10 / (2_000 * 3600) * 1e6)
    assert plan(loan, Demand(2_000, BUDGET_S), Node()).replicas < found.replicas


def test_what_is_planned_for_one_haproxy_keeps_the_budget_in_a_simulation(
    loan: Measurement,
) -> None:
    """Requests are handed to the replica with fewest, as HAProxy does. The p99 that is told is
    off by 25 % at most, and the replicas are never too few by more than chance."""
    for rate in (300.0, 800.0):
        found = plan(loan, Demand(rate, BUDGET_S, spare_nodes=0), Node())
        endpoint = SimulatedEndpoint(SERVICE_S, found.replicas)
        seen_s = float(np.quantile(endpoint.took_s(rate, 15_000, seed=5), 0.99))
        assert found.expected_p99_s == pytest.approx(seen_s, rel=0.25)
        assert seen_s <= 1.1 * BUDGET_S


def test_whatever_node_is_lost_enough_replicas_run_on(loan: Measurement) -> None:
    for rate in (10, 200, 1_234, 50_000):
        for spare in (1, 2):
            found = plan(loan, Demand(rate, BUDGET_S, spare), Node(replicas=4))
            on_each = -(-found.running // found.nodes)
            assert on_each <= 4
            assert found.running - spare * on_each >= found.replicas
            assert found.expected_p99_s <= found.after_loss_p99_s <= BUDGET_S * 1.001
    none = plan(loan, Demand(50_000, BUDGET_S, 0), Node(replicas=4))
    assert none.running == none.replicas
    assert "breaks the budget" in repr(none)


def test_a_larger_budget_takes_fewer_and_a_larger_rate_more(loan: Measurement) -> None:
    def needed(rate: float, p99_s: float) -> int:
        return plan(loan, Demand(rate, p99_s), Node(replicas=1)).replicas

    by_budget = [needed(5_000, budget_s) for budget_s in (0.03, 0.06, 0.12, 0.5)]
    assert by_budget == sorted(by_budget, reverse=True)
    assert by_budget[0] > by_budget[-1]
    by_rate = [needed(rate, BUDGET_S) for rate in (1, 300, 3_000, 30_000)]
    assert by_rate == sorted(by_rate)
    assert by_rate[0] == 1


def test_the_formula_never_goes_beyond_what_was_seen_to_fail(loan: Measurement) -> None:
    """A measurement that contradicts the formula wins."""
    worse = loan.points[0].model_copy(
        update={"rate_per_s": 40.0, "p99_s": 1.0, "p95_s": 0.9, "failed": 0}
    )
    changed = loan.model_copy(update={"points": (worse, *loan.points)})
    assert rate_of_one_replica(changed, fitted(changed), BUDGET_S) == loan.light.rate_per_s
    held = worse.model_copy(update={"held_back": "it used 99% of a core"})
    doubtful = loan.model_copy(update={"points": (held, *loan.points)})
    assert rate_of_one_replica(doubtful, fitted(loan), BUDGET_S) < 40, "not seen to go well"
    found = plan(doubtful, Demand(100, BUDGET_S), Node())
    assert found.confidence.level == "weak"
    assert "! the load generator could not keep up" in repr(found)


def test_the_settings_are_those_of_the_planned_load(loan: Measurement) -> None:
    """Little's law; and as many in line as can still be answered in time."""
    found = plan(loan, Demand(1_000, BUDGET_S), Node())
    one = found.replica_rate_per_s
    exact = one * (BASE_S + SERVICE_S + Queue(one, SERVICE_S).mean_wait_s)
    assert found.autoscale.ongoing_requests == pytest.approx(exact, rel=0.25)
    assert found.autoscale.max_replicas == found.running
    assert found.max_queued == pytest.approx((BUDGET_S - 0.005) / SERVICE_S, abs=2)
    assert f"aios.Autoscale(2, {found.running}, ongoing_requests=" in repr(found)


def test_a_p99_below_what_one_answer_takes_is_told_as_such(loan: Measurement) -> None:
    with pytest.raises(UsageError, match=r"cannot be reached .* take up to"):
        plan(loan, Demand(10, 0.003), Node())
    busy = loan.model_copy(update={"machine": {**MACHINE, "load_average_1min": 9.0}})
    with pytest.raises(UsageError, match="but the machine was busy"):
        plan(busy, Demand(10, 0.003), Node())
    slow = measured(SimulatedEndpoint(SERVICE_S), 0.003)
    assert slow.knee_per_s is None
    assert len(slow.points) == 3, "it still answers for other budgets"
    assert plan(slow, Demand(100, BUDGET_S), Node()).replicas == 1


@pytest.mark.parametrize(
    ("rate", "p99_s", "spare"), [(0, 1, 1), (-5, 1, 1), (math.nan, 1, 1), (5, 0, 1), (5, 1, -1)]
)
def test_a_demand_that_is_none_is_refused(rate: float, p99_s: float, spare: int) -> None:
    with pytest.raises(UsageError):
        Demand(rate, p99_s, spare)


def test_an_endpoint_that_answers_nothing_is_no_measurement() -> None:
    def broken(load: object) -> object:
        return outcome_of(np.array([]), 1.0, failed=50)

    with pytest.raises(ModelFailed, match="not one of the answers was good: no"):
        search(broken, p99_s=1, seconds=1, steps=2, seed=0, connections=4)


def test_failures_break_a_budget_however_quick_the_rest_is() -> None:
    quick = np.full(1_000, 0.001)
    assert Point.of(outcome_of(quick, 1.0, failed=5), "poisson", 1_005).within(0.01)
    bad = Point.of(outcome_of(quick, 1.0, failed=20), "poisson", 1_020)
    assert bad.p99_s is None
    assert not bad.within(100)


def test_a_point_keeps_the_distribution_of_its_answers() -> None:
    seen_s = np.random.default_rng(2).exponential(0.01, 20_000)
    times = Point.of(outcome_of(seen_s, 1.0), "poisson", 1).times()
    assert times.values_s.size <= 200
    assert times.mean_s == pytest.approx(seen_s.mean(), rel=0.02)
    for fraction in (0.5, 0.9, 0.99, 0.999):
        assert times.quantile_s(fraction) == pytest.approx(np.quantile(seen_s, fraction), rel=0.03)


def test_few_requests_make_a_wide_p99() -> None:
    random = np.random.default_rng(1)
    wide = Point.of(outcome_of(random.exponential(0.01, 300), 1), "poisson", 300).p99_between()
    many = random.exponential(0.01, 30_000)
    narrow = Point.of(outcome_of(many, 1), "poisson", 300).p99_between()
    assert narrow[0] < -0.01 * math.log(0.01) < narrow[1]
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_a_measurement_is_the_same_after_a_file(loan: Measurement, tmp_path) -> None:
    loan.save(tmp_path / "loan.json")
    again = Measurement.read(tmp_path / "loan.json")
    assert again == loan
    assert isinstance(plan(again, Demand(10, 1), Node()), Plan)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', "not json"])
def test_another_file_is_no_measurement(tmp_path, text: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UsageError, match="no measurement"):
        Measurement.read(tmp_path / "file.json")
    with pytest.raises(UsageError, match="cannot be read"):
        Measurement.read(tmp_path / "absent.json")


def test_what_speaks_against_an_answer_is_told(loan: Measurement) -> None:
    good = plan(loan, Demand(300, BUDGET_S), Node()).confidence
    assert good.doubts == ()
    busy = loan.model_copy(update={"machine": {**MACHINE, "load_average_1min": 9.0}})
    found = plan(busy, Demand(300, BUDGET_S), Node())
    assert found.confidence.level == "weak"
    assert "! the machine was busy with something else: load average 9 on 4 cores" in repr(found)
    here = loan.model_copy(update={"same_machine": True})
    assert "shared the machine" in repr(plan(here, Demand(300, BUDGET_S), Node()))
    assert "times what was tried" in repr(plan(loan, Demand(90_000, BUDGET_S), Node()))


def test_machines_of_one_kind_are_told_from_others() -> None:
    assert same_machine(MACHINE, {**MACHINE, "load_average_1min": 5, "python": "3.12"})
    assert not same_machine(MACHINE, {**MACHINE, "cores": 8})


@pytest.mark.parametrize(
    ("counted", "came"),
    [([5, 5], 0), ([5, 905, 906], 0), ([5, 105, 215, 300], 85), ([0, 90, 95, 97], 0)],
)
def test_what_is_told_late_is_not_taken_for_users(counted: list[int], came: int) -> None:
    left = iter(counted)
    assert asked_now(lambda: next(left), lambda: None) == came


def test_each_rate_is_tried_long_enough() -> None:
    endpoint = SimulatedEndpoint(SERVICE_S)
    search(endpoint, p99_s=BUDGET_S, seconds=2, steps=2, seed=0, connections=4)
    streams = [load for load in endpoint.asked if isinstance(load, Stream)]
    assert [load.seconds for load in streams] == [
        min(max(2, 1000 / load.rate_per_s), 8) for load in streams
    ]
    assert len({load.seed for load in streams}) == len(streams)


def test_a_plan_never_promises_less_than_an_answer_takes_without_load(loan: Measurement) -> None:
    """A noisy measurement: a busy moment of the machine made the light load slow, and what came
    after it quicker."""
    light = loan.light.model_copy(update={"p99_s": 0.05})
    noisy = loan.model_copy(update={"light": light})
    assert any(point.p99_s < 0.05 for point in noisy.points if point.p99_s)
    found = plan(noisy, Demand(300, BUDGET_S), Node())
    assert found.expected_p99_s >= 0.05
    assert found.after_loss_p99_s >= 0.05


def test_a_measurement_is_judged_by_the_budget_that_is_asked_for(loan: Measurement) -> None:
    assert f"within a p99 of {1000 * BUDGET_S:.0f}" in repr(loan)
    wide = repr(loan.judged_by(30.0))
    assert "within a p99 of 30.0 s" in wide
    assert " no " not in wide.replace("no rate", "")
    assert "no rate within a p99 of 1 ms" in repr(loan.judged_by(0.001))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"replicas": 0}, "1 to 1,000 replicas"),
        ({"replicas": 10**9}, "1 to 1,000 replicas"),
        ({"cores": 0}, "0 cores"),
        ({"gpus": -1}, "-1 GPUs"),
        ({"replicas_per_gpu": 2}, "how many GPUs a node has"),
        ({"gpus": 1, "replicas": 2}, "counted by GPU"),
        ({"gpus": 8, "replicas_per_gpu": 0}, "not 0"),
        ({"hour_price": math.nan}, "0 or more"),
    ],
)
def test_a_node_that_is_none_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Node(**fields)  # type: ignore[arg-type]


def test_a_budget_beyond_an_hour_is_refused() -> None:
    with pytest.raises(UsageError, match="at most an hour"):
        Demand(5, 1e9)


def test_more_replicas_than_cores_are_doubted(loan: Measurement) -> None:
    found = plan(loan, Demand(5_000, BUDGET_S), Node(replicas=50))
    assert found.confidence.level == "weak"
    assert "! replicas share cores: 50 on a node with 4" in repr(found)


def test_a_node_with_gpus_holds_what_they_take(loan: Measurement) -> None:
    """One replica was measured, which had the GPU for itself."""
    alone = plan(loan, Demand(5_000, BUDGET_S), Node(gpus=4))
    assert "! no GPU was measured" in repr(alone)
    loan = loan.model_copy(update={"machine": {**loan.machine, "gpus": ["of the tests"]}})
    found = plan(loan, Demand(5_000, BUDGET_S), Node(gpus=4, hour_price=8.0))
    assert found.replicas_per_node == 4
    assert not found.confidence.doubts
    assert found.month_cost == pytest.approx(found.nodes * 8.0 * HOURS_PER_MONTH)
    on_each = -(-found.running // found.nodes)
    assert found.running - on_each >= found.replicas, "one node may be lost"
    assert "of 4 GPUs with 1 replica each" in repr(found)


def test_replicas_that_share_a_gpu_must_be_measured_so(loan: Measurement) -> None:
    node = Node(gpus=2, replicas_per_gpu=2)
    loan = loan.model_copy(update={"machine": {**loan.machine, "gpus": ["of the tests"]}})
    alone = plan(loan, Demand(5_000, BUDGET_S), node)
    assert alone.replicas_per_node == 4
    assert "! replicas that share a GPU were not measured" in repr(alone)
    together = loan.model_copy(update={"replicas": 2, "full_per_s": 2 * loan.full_per_s})
    assert not plan(together, Demand(5_000, BUDGET_S), node).confidence.doubts


def test_a_formula_that_does_not_fit_saves_no_replica(loan: Measurement) -> None:
    """Many at one HAProxy wait less than each alone; by how much, only the formula tells."""
    demand = Demand(5_000, BUDGET_S)
    assert plan(loan, demand, Node()).replicas < plan(loan, demand, Node()).replicas_unbalanced
    for error in (None, 0.58):
        fit = replace(fitted(loan), usual_error_fraction=error)
        found = plan(loan, demand, Node(), fit)
        assert found.replicas == found.replicas_unbalanced
        assert found.replicas * found.replica_rate_per_s >= demand.rate_per_s
        assert found.confidence.level == "weak"
        assert "fits roughly" not in repr(found)


def test_without_points_nothing_checks_the_formula(loan: Measurement) -> None:
    bare = loan.model_copy(update={"points": loan.points[:1]})
    found = plan(bare, Demand(100, BUDGET_S), Node())
    assert found.confidence.level == "weak"
    assert "! nothing checks the formula" in repr(found)


def test_what_one_replica_bears_says_what_was_tried(loan: Measurement) -> None:
    found = repr(plan(loan, Demand(5_000, BUDGET_S), Node()))
    assert "requests/s by the formula; " in found
    assert "was tried and kept the p99" in found


def test_costs_and_settings_say_what_they_rest_on(loan: Measurement) -> None:
    found = plan(loan, Demand(5_000, BUDGET_S), Node(hour_price=1.0, currency="EUR"))
    assert "if they come at this rate all the time" in repr(found)
    assert f"replicas={found.running}, max_queued=" in repr(found)
    assert "replicas=aios.Autoscale(2," in repr(found)


def test_a_machine_whose_kernel_takes_more_memory_is_of_the_same_kind() -> None:
    here = {"cpu": "x", "cores": 2, "memory_gib": 23.6}
    assert same_machine(here, {**here, "memory_gib": 23.5})
    assert not same_machine(here, {**here, "memory_gib": 31.2})
    assert not same_machine(here, {**here, "memory_gib": None})
