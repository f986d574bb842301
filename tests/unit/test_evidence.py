"""Reports become evidence, totals and series, whatever order they arrive in."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.errors import StoreCorrupt
from aios.monitoring import ArmEvidence, Ledger, Moments, Series, merge_reports
from aios.monitoring.ledger import MAX_ARMS, MAX_ERAS, MAX_PROCESSES
from aios.records import ArmReport, Buckets, WindowReport
from aios.telemetry import Histogram, Sketch
from aios.telemetry.histogram import LATENCY_BOUNDS_S, cumulative


def arm(attempts: int, version: int = 1, **more: object) -> ArmReport:
    return ArmReport.model_validate({"version": version, "attempts": attempts, **more})


def report(sequence: int, arms: dict[str, ArmReport], **more: object) -> WindowReport:
    base = {
        "endpoint": "loan",
        "replica": "a",
        "era": "r/0",
        "revision": 3,
        "sequence": sequence,
        "at_s": 100.0 + sequence,
        "pid": 1,
        "node": "n",
        "arms": arms,
    }
    return WindowReport.model_validate({**base, **more})


def packed(values: "list[float] | np.ndarray") -> bytes:
    sketch = Sketch()
    sketch.update_many(values)
    return sketch.to_bytes()


def test_the_latest_report_of_each_replica_counts_and_replicas_add_up() -> None:
    evidence = merge_reports(
        [
            report(2, {"canary": arm(7, errors={"deadline": 2}, latency=packed([0.1, 0.2]))}),
            report(1, {"canary": arm(5)}),
            report(9, {"canary": arm(3, errors={"deadline": 1})}, replica="b", pid=2),
            report(8, {"canary": arm(100)}, era="steady"),
        ],
        "r/0",
    )
    canary = evidence.arms["canary"]
    assert (canary.attempts, canary.errors, canary.error_count) == (10, {"deadline": 3}, 3)
    assert canary.latency is not None
    assert canary.latency.count == 2
    assert evidence.replicas == 2
    assert (evidence.since_s, evidence.latest_s) == (101.0, 109.0)


def test_what_a_restarted_replica_had_counted_before_stays() -> None:
    evidence = merge_reports(
        [report(50, {"stable": arm(40)}, pid=1), report(1, {"stable": arm(2)}, pid=2)], "r/0"
    )
    assert evidence.arms["stable"].attempts == 42


def test_two_versions_in_one_arm_are_never_mixed() -> None:
    evidence = merge_reports(
        [report(1, {"stable": arm(40, 1)}), report(1, {"stable": arm(2, 2)}, replica="b")], "r/0"
    )
    assert (evidence.arms["stable"].version, evidence.arms["stable"].attempts) == (2, 2)


def test_a_damaged_sketch_is_missing_rather_than_half() -> None:
    good = arm(2, latency=packed([0.1, 0.2]), outputs={"p": packed([1.0])})
    bad = arm(2, latency=packed([0.1, 0.2])[:-1], outputs={"p": b"nonsense"})
    evidence = merge_reports(
        [report(1, {"canary": good}), report(1, {"canary": bad}, pid=2)], "r/0"
    )
    assert evidence.arms["canary"].latency is None
    assert evidence.arms["canary"].outputs == {}
    assert evidence.arms["canary"].attempts == 4


@given(st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 12))
def test_order_and_repeats_do_not_matter(shuffle: random.Random, replicas: int, count: int) -> None:
    reports = [
        report(sequence, {"stable": arm(sequence * 3, errors={"deadline": sequence})}, pid=pid)
        for pid in range(replicas)
        for sequence in range(1, count + 1)
    ]
    mixed = reports + shuffle.sample(reports, len(reports) // 2)
    shuffle.shuffle(mixed)
    last = [r for r in reports if r.sequence == count]
    assert merge_reports(mixed, "r/0").arms == merge_reports(last, "r/0").arms
    ledger, in_order = Ledger(), Ledger()
    for each in mixed:
        ledger.add(each)
    for each in reports:
        in_order.add(each)
    assert ledger.totals("loan", 0).attempts == {("stable", 1): 3 * count * replicas}
    assert ledger.totals("loan", 0) == in_order.totals("loan", 0)


def test_arm_evidence_round_trips_as_json() -> None:
    merged = merge_reports(
        [report(1, {"stable": arm(9, errors={"a": 1}, outputs={"p": packed([1, 2])}, degraded=3)})],
        "r/0",
    ).with_kpi({"stable": Moments().add(2.0), "canary": Moments().add(1.0)})
    assert "canary" not in merged.arms
    before = merged.arms["stable"]
    after = ArmEvidence.from_json(before.to_json())
    assert after.to_json() == before.to_json()
    assert after.kpi == Moments(1, 2.0, 4.0)
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        ArmEvidence.from_json({"version": 1})


def test_moments_leave_out_what_is_not_finite() -> None:
    moments = Moments().add(1.0).add(math.nan).add(math.inf).add(3.0)
    assert (moments.count, moments.mean, moments.variance) == (2, 2.0, 1.0)
    assert math.isnan(Moments().mean)


def test_totals_only_grow_over_eras_restarts_and_promotions() -> None:
    ledger = Ledger()
    ledger.add(report(1, {"stable": arm(10), "canary": arm(4, 2)}, requests=10))
    ledger.add(report(2, {"stable": arm(16), "canary": arm(6, 2)}, requests=17, in_flight=2))
    ledger.add(report(3, {"stable": arm(5, 2)}, era="steady", requests=22, in_flight=1))
    ledger.add(report(1, {"stable": arm(3, 2)}, era="steady", requests=3, pid=9, at_s=104.0))
    totals = ledger.totals("loan", now_s=104.5)
    assert totals.requests == 25
    assert totals.attempts == {("stable", 1): 16, ("canary", 2): 6, ("stable", 2): 8}
    assert (totals.replicas, totals.in_flight) == (1, 0)
    assert ledger.totals("other", 0.0).requests == 0


def took(*seconds: float) -> Buckets:
    histogram = Histogram()
    histogram.update_many(seconds)
    return histogram.buckets()


def test_durations_only_grow_over_eras_restarts_and_repeats() -> None:
    ledger = Ledger()
    first = report(1, {"stable": arm(2, service=took(0.002, 0.2))}, took=took(0.003, 0.3))
    ledger.add(first)
    ledger.add(first)
    more = took(0.003, 0.3, 20.0)
    ledger.add(report(2, {"stable": arm(1, service=took(0.002))}, took=more, era="r/1"))
    ledger.add(report(3, {"stable": arm(1, service=took(0.002))}, took=more, era="r/1"))
    ledger.add(report(1, {"stable": arm(1)}, took=took(0.003), pid=2))
    found = ledger.totals("loan", 0.0)
    assert dict(cumulative(found.took))["0.005"] == 2
    assert cumulative(found.took)[-1] == ("+Inf", 4)
    assert found.took.sum_s == pytest.approx(20.306)
    assert dict(cumulative(found.service[("stable", 1)]))["0.0025"] == 2
    assert cumulative(found.service[("stable", 1)])[-1] == ("+Inf", 3)


@given(
    st.lists(
        st.lists(st.lists(st.floats(0, 30), max_size=5), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_buckets_are_exact_and_never_fall_whoever_restarts(lives: list[list[list[float]]]) -> None:
    """Every life is a process that reports after each of its batches, then is killed."""
    ledger, every, before = Ledger(), list[float](), [0] * 15
    for pid, life in enumerate(lives):
        seen: list[float] = []
        for sequence, batch in enumerate(life):
            seen += batch
            every += batch
            ledger.add(report(sequence, {}, pid=pid, took=took(*seen)))
            now = [count for _, count in cumulative(ledger.totals("loan", 0.0).took)]
            assert now == sorted(now)
            assert all(later >= earlier for later, earlier in zip(now, before, strict=True))
            before = now
    expected = [sum(one <= bound for one in every) for bound in (*LATENCY_BOUNDS_S, math.inf)]
    assert before == expected


def test_arms_that_served_long_ago_are_no_longer_counted() -> None:
    ledger = Ledger()
    for version in range(1, MAX_ARMS + 3):
        reported = {"stable": arm(1, version, errors={"deadline": 1}, degraded=1)}
        ledger.add(report(version, reported, era=f"r/{version}"))
    found = ledger.totals("loan", 0.0)
    kept = {("stable", version) for version in range(3, MAX_ARMS + 3)}
    assert set(found.attempts) == set(found.degraded) == set(found.service) == kept
    assert {key[:2] for key in found.errors} == kept


def test_a_replica_of_an_older_aios_counts_without_buckets() -> None:
    ledger = Ledger()
    ledger.add(report(1, {"stable": arm(2)}, requests=2))
    ledger.add(report(2, {"stable": arm(3)}, requests=3, took=Buckets(counts=(1, 2), sum_s=1.0)))
    assert ledger.totals("loan", 0.0).requests == 3
    assert cumulative(ledger.totals("loan", 0.0).took)[-1] == ("+Inf", 0)


def test_replicas_are_those_that_reported_lately_with_their_plan() -> None:
    ledger = Ledger()
    ledger.add(report(1, {}, revision=4, refused="revision 5: digest differs"))
    ledger.add(report(1, {}, replica="b", at_s=90.0))
    (only,) = ledger.replicas("loan", now_s=103.0)
    late = report(4, {})
    ledger.add(late)
    evidence = ledger.evidence("loan", "r/0")
    assert evidence is not None
    assert (evidence.since_s, evidence.latest_s) == (90.0, 104.0)
    assert (only.replica, only.revision, only.refused) == ("a", 4, "revision 5: digest differs")
    assert ledger.replicas("loan", now_s=200.0) == []
    assert ledger.replicas("nothing", now_s=0.0) == []


def test_kpi_counts_for_the_era_it_belongs_to() -> None:
    ledger = Ledger()
    ledger.add_kpi("loan", "r/0", "canary", 1.0)
    ledger.add(report(1, {"canary": arm(1, 2)}))
    ledger.add_kpi("loan", "r/0", "canary", 5.0)
    ledger.add_kpi("loan", "gone", "canary", 5.0)
    served = arm(1, 2).version
    ledger.add_kpi("loan", "r/0", "canary", -100.0, served - 1)  # late, of the canary before
    ledger.add_kpi("loan", "r/0", "shadow", -100.0, served)
    evidence = ledger.evidence("loan", "r/0")
    assert evidence is not None
    assert evidence.arms["canary"].kpi == Moments(1, 5.0, 25.0)
    ledger.add_kpi("loan", "r/0", "canary", 7.0, served)
    again = ledger.evidence("loan", "r/0")
    assert again is not None
    assert again.arms["canary"].kpi.count == 2


def test_the_ledger_forgets_old_eras_and_silent_processes() -> None:
    ledger = Ledger()
    for index in range(MAX_ERAS + 2):
        ledger.add(report(index, {"stable": arm(1)}, era=f"r/{index}"))
    assert ledger.evidence("loan", "r/0") is None
    assert ledger.evidence("loan", f"r/{MAX_ERAS + 1}") is not None
    for pid in range(MAX_PROCESSES + 5):
        ledger.add(report(1, {"stable": arm(1)}, pid=pid, era="big", at_s=float(pid)))
    evidence = ledger.evidence("loan", "big")
    assert evidence is not None
    assert evidence.replicas == MAX_PROCESSES
    ledger.forget("loan")
    assert ledger.endpoints() == []


def test_a_series_holds_what_each_second_added() -> None:
    series = Series()
    first, second = np.full(50, 0.010), np.full(30, 0.200)
    series.add(report(1, {"canary": arm(50, latency=packed(first))}))
    both = packed(np.concatenate([first, second]))
    series.add(report(2, {"canary": arm(80, errors={"deadline": 6}, latency=both)}))
    series.add(report(1, {"canary": arm(50)}))
    early, late = series.rows()
    assert (early.at_s, early.count, early.errors) == (101, 50, 0)
    assert (late.at_s, late.count, late.errors) == (102, 30, 6)
    assert early.p95_s == pytest.approx(0.010)
    assert late.p50_s == pytest.approx(0.200)
    assert series.rows(since_s=102) == [late]


def test_a_series_begins_anew_with_a_process_or_an_era() -> None:
    series = Series()
    series.add(report(5, {"stable": arm(50)}))
    series.add(report(1, {"stable": arm(4)}, pid=2, at_s=106.0))
    series.add(report(2, {"stable": arm(60)}, pid=2, era="r/1", at_s=106.5))
    assert [(row.era, row.count) for row in series.rows()] == [
        ("r/0", 50),
        ("r/0", 4),
        ("r/1", 60),
    ]
    assert series.to_json()[0]["p95_s"] is None


def test_a_series_adds_replicas_and_keeps_only_so_many_seconds() -> None:
    series = Series(max_seconds=3)
    for sequence in range(1, 10):
        for pid in (1, 2):
            latency = packed(np.full(sequence * 2, 0.1 * pid))
            series.add(report(sequence, {"stable": arm(sequence * 2, latency=latency)}, pid=pid))
    rows = series.rows()
    assert [row.at_s for row in rows] == [107, 108, 109]
    assert [row.count for row in rows] == [4, 4, 4]
    assert rows[0].p50_s == pytest.approx(0.1)
    assert rows[0].p99_s == pytest.approx(0.2)


def test_series_quantiles_of_long_runs_follow_the_second_not_the_era() -> None:
    series = Series()
    generator = np.random.default_rng(3)
    total = Sketch()
    total.update_many(generator.normal(0.05, 0.001, 20_000))
    series.add(report(1, {"stable": arm(20_000, latency=total.to_bytes())}))
    total.update_many(generator.normal(0.5, 0.01, 4_000))
    series.add(report(2, {"stable": arm(24_000, latency=total.to_bytes())}))
    assert series.rows()[1].p50_s == pytest.approx(0.5, abs=0.02)


def test_a_damaged_sketch_leaves_a_gap_in_the_chart_only() -> None:
    series = Series()
    series.add(report(1, {"stable": arm(5, latency=b"nonsense")}))
    (row,) = series.rows()
    assert row.count == 5
    assert math.isnan(row.p95_s)
