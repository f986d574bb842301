"""Differences between groups: fairlearn's figures, and bounds that hold as often as stated."""

import numpy as np
import pandas as pd
import pytest
from fairlearn import metrics as theirs
from gate_candidates import loan_candidate, loans
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.governance import Context
from aios.governance.fairness import RATES, compare_decisions, compare_values
from aios.governance.gates import run_gates
from aios.records import GateResult

THEIRS = {
    "demographic_parity": theirs.demographic_parity_difference,
    "equal_opportunity": theirs.equal_opportunity_difference,
    "equalised_odds": theirs.equalized_odds_difference,
}


def judged(candidate, **params) -> GateResult:
    return run_gates(candidate, Context(), {"fairness": params})[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from(sorted(RATES)))
def test_differences_are_fairlearns_and_lie_below_their_bound(seed, count, metric) -> None:
    source = np.random.default_rng(seed)
    groups = np.array([f"g{row % count}" for row in range(120)], dtype=object)
    labels = np.array([float(row // count % 2) for row in range(120)])
    decisions = (source.random(120) < source.random()).astype(float)
    found = compare_decisions(labels, decisions, groups, metric=metric, confidence=0.95)
    expected = THEIRS[metric](labels, decisions, sensitive_features=groups)
    assert found.difference == pytest.approx(expected)
    assert found.worst is not None
    assert found.difference <= found.worst.upper <= 1
    assert sum(group["rows"] for group in found.groups.values()) == 120


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.3])
def test_the_upper_bound_misses_the_true_difference_as_rarely_as_stated(gap: float) -> None:
    """2,000 holdouts of 150 + 50 rows; the simulation's own error is 0.5 %."""
    from aios.governance.statistics import share_difference

    source = np.random.default_rng(11)
    drawn = zip(source.binomial(150, 0.6 + gap, 2000), source.binomial(50, 0.6, 2000), strict=True)
    bounds = [
        max(
            share_difference(many, 150, few, 50, 0.95).upper,
            share_difference(few, 50, many, 150, 0.95).upper,
        )
        for many, few in drawn
    ]
    assert np.mean(np.array(bounds) < gap) <= 0.05 + 0.015


def test_an_unfair_model_fails_and_says_between_whom() -> None:
    frame = loans(600)
    scores = np.where(frame["sex"] == "f", 0.9, 0.4)
    found = judged(loan_candidate(frame, scores=scores), max=0.2)
    assert found.outcome == "failed"
    assert found.value > 0.9
    assert found.threshold == 0.2
    assert "demographic parity difference by sex is 1.000" in found.reason
    groups = found.evidence["attributes"]["sex"]["demographic_parity"]["groups"]
    assert groups["f"]["selection_rate"] == 1
    assert groups["m"]["false_positive_rate"] == 0
    assert groups["f"]["rows"] + groups["m"]["rows"] == 600


def test_a_fair_model_passes_all_metrics_with_enough_rows() -> None:
    every = {"metrics": ("demographic_parity", "equal_opportunity", "equalised_odds")}
    assert judged(loan_candidate(loans(2000)), max=0.2, **every).outcome == "passed"
    few = judged(loan_candidate(loans(100)), max=0.2, **every)
    assert few.outcome == "failed"
    assert "may be" in few.reason


def test_a_group_of_three_people_is_named_and_not_judged() -> None:
    frame = loans(600)
    frame.loc[:2, "sex"] = "x"
    found = judged(loan_candidate(frame))
    assert found.outcome == "not_enough_data"
    assert "sex: group x has 3 rows, fewer than 30" in found.reason


def test_a_rate_over_few_rows_is_not_judged() -> None:
    frame = loans(600)
    positives = frame.index[(frame["sex"] == "f") & (frame["approve"] == 1)]
    frame = frame.drop(index=positives[4:]).reset_index(drop=True)
    found = judged(loan_candidate(frame), metrics=("equal_opportunity",), max=1.0)
    assert found.outcome == "not_enough_data"
    assert "group f has 4 rows with the label 1, fewer than 10" in found.reason


def test_what_cannot_be_compared_never_passes() -> None:
    frame = loans(300)
    frame["age"] = np.arange(300)
    frame["same"] = 1
    frame["open"] = [None, None, "a", "b"] * 75
    for protected, told in [
        ((), "no protected attribute"),
        (("age",), "300 values"),
        (("same",), "one group only"),
        (("open",), "not stated in 50% of the rows"),
    ]:
        found = judged(loan_candidate(frame, protected=protected))
        assert (found.outcome, told in found.reason) == ("not_enough_data", True)
    gone = judged(loan_candidate(frame, protected=("gone",)))
    assert gone.outcome == "failed"
    assert 'no column "gone"' in gone.reason


def test_rows_that_do_not_state_an_attribute_are_left_out() -> None:
    frame = loans(1000)
    frame["sex"] = frame["sex"].where(frame.index >= 50)
    found = judged(loan_candidate(frame))
    groups = found.evidence["attributes"]["sex"]["demographic_parity"]["groups"]
    assert sorted(groups) == ["f", "m"]
    assert sum(group["rows"] for group in groups.values()) == 950


def test_an_unfavourable_label_turns_opportunity_around() -> None:
    """Where 1 means "refuse", equal opportunity is about those who deserve a 0."""
    frame = loans(800)
    scores = np.where((frame["sex"] == "f") & (frame["approve"] == 0), 0.9, frame["approve"])
    candidate = loan_candidate(frame, scores=scores.astype(float))
    metrics = {"metrics": ("equal_opportunity",), "max": 0.2}
    assert judged(candidate, **metrics).outcome == "passed"
    assert judged(candidate, **metrics, favourable=0).outcome == "failed"


def test_regression_is_compared_in_deviations_of_the_label() -> None:
    source = np.random.default_rng(1)
    groups = np.array(["a", "b"] * 500, dtype=object)
    labels = source.normal(0, 2, 1000)
    scores = labels + np.where(groups == "a", 1.0, 0.0)
    found = compare_values(labels, scores, groups, metric="equal_opportunity", confidence=0.95)
    assert found.difference == pytest.approx(1 / np.std(labels))
    assert found.worst.upper >= found.difference
    frame = loans(1000).assign(approve=labels, sex=groups)
    unfair = judged(loan_candidate(frame, kind="regression", scores=scores), max=0.3)
    assert unfair.outcome == "failed"
    assert pd.api.types.is_number(unfair.value)
