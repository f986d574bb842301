"""What feedback says of a condition: how often chance is taken for a fault, and what is found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from aios.errors import UsageError
from aios.kernel.feedback import paired
from aios.monitoring.bounds import growth, lower_mean
from aios.monitoring.conditions import parse_condition, reread
from aios.monitoring.labelled import Labelled, judge_feedback, measured, measures
from aios.records.watching import Outcome

RANDOM = np.random.default_rng(7)
ERROR_DRIFT = parse_condition("error drift", "concept")


def answers(accuracy: float, count: int) -> Labelled:
    truth = RANDOM.integers(0, 2, count).astype(float)
    right = RANDOM.random(count) < accuracy
    return Labelled.single(np.where(right, truth, 1 - truth) * 0.8 + 0.1, truth)


def off_by(errors: np.ndarray) -> Labelled:
    return Labelled.single(np.zeros(len(errors)), np.asarray(errors, dtype=float))


def test_accuracy_alarms_only_when_it_is_surely_low():
    condition = parse_condition("accuracy < 0.8 for 2 windows", "concept")
    states = [
        judge_feedback(condition, answers(accuracy, 2_000), 1_000, 0.05, 5).state
        for accuracy in (0.6, 0.78, 0.95)
    ]
    assert states == ["holds", "near", "clear"]
    few = judge_feedback(condition, answers(0.1, 150), 100, 0.05, 1)
    assert few.state == "not_enough_data"


def test_errors_of_numbers_are_judged_in_their_own_unit():
    truth = RANDOM.normal(100, 10, 1000)
    condition = parse_condition("rmse > 5", "concept")
    good, bad = (
        judge_feedback(
            condition,
            Labelled.single(truth + RANDOM.normal(0, deviation, 1000), truth),
            500,
            0.05,
            1,
        )
        for deviation in (2, 9)
    )
    assert (good.state, bad.state) == ("clear", "holds")
    assert bad.score == pytest.approx(9, rel=0.1)


def test_error_drift_finds_where_the_errors_grew():
    condition = parse_condition("error drift", "concept")
    before, after = answers(0.95, 1_500), answers(0.6, 1_500)
    errors = np.concatenate([np.abs(one.predicted - one.truth) for one in (before, after)])
    assert judge_feedback(condition, before, 100, 0.05, 1).state == "clear"
    found = judge_feedback(condition, off_by(errors), 100, 0.05, 1)
    assert found.state == "holds"
    assert abs(found.evidence["at"] - 1_500) <= 100
    assert judge_feedback(condition, off_by(errors[::-1]), 100, 0.05, 1).state == "clear"


# -- bounds ---------------------------------------------------------------------------

ERRORS = {
    "lognormal": lambda random, count: random.lognormal(0, 1.5, count),
    "normal": lambda random, count: np.abs(random.normal(0, 1000, count)),
    "binary": lambda random, count: (random.random(count) < 0.2).astype(float),
    "probability": lambda random, count: random.beta(2, 2, count),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_that_stay_as_they_are_raise_no_alarm_in_the_life_of_a_watch(kind):
    """10 watches of 20,000 labels, of which 5,000 are read again each 500."""
    alarms = 0
    for seed in range(10):
        errors = ERRORS[kind](np.random.default_rng(seed), 20_000)
        ends = range(500, 20_001, 500)
        states = [
            judge_feedback(ERROR_DRIFT, off_by(errors[max(0, end - 5_000) : end]), 100, 0.05, look)
            for look, end in enumerate(ends, start=1)
        ]
        alarms += any(found.state == "holds" for found in states)
    assert alarms <= 1


@pytest.mark.parametrize("kind", ERRORS)
def test_chance_bounds_how_often_errors_seem_to_have_grown(kind):
    random = np.random.default_rng(3)
    seen = [growth(ERRORS[kind](random, 600), 100) for _ in range(500)]
    for level in (0.5, 0.2, 0.05):
        assert sum(one is not None and one.chance <= level for one in seen) <= 500 * level


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_that_double_are_found_soon(kind):
    random = np.random.default_rng(5)
    errors = ERRORS[kind](random, 5_000)
    more = ERRORS[kind](random, 5_000)
    errors[4_000:] = np.maximum(errors, more)[4_000:] if kind == "binary" else errors[4_000:] * 2
    found = judge_feedback(ERROR_DRIFT, off_by(errors), 100, 0.05 / 3, 50)
    assert found.state == "holds"
    assert found.evidence["at"] == pytest.approx(4_000, abs=200)


def test_growth_counts_pairs_as_mann_and_whitney_do_and_needs_places():
    errors = np.concatenate([RANDOM.integers(0, 5, 300), RANDOM.integers(2, 7, 200)]).astype(float)
    found = growth(errors, 100)
    early, late = np.split(errors, [found.at])
    pairs = mannwhitneyu(late, early).statistic / (len(early) * len(late))
    assert found.larger == pytest.approx(pairs)
    assert growth(errors[:199], 100) is None
    assert growth(np.ones(500), 100) is None


@pytest.mark.parametrize(
    ("losses", "mean"),
    [
        (lambda r, n: (r.random(n) < 0.98).astype(float), 0.98),
        (lambda r, n: r.lognormal(0, 1.5, n), np.exp(1.125)),
        (lambda r, n: np.where(r.random(n) < 0.01, 100.0, 0.0), 1.0),
    ],
)
def test_a_lower_bound_of_a_mean_holds_as_often_as_it_says(losses, mean):
    random = np.random.default_rng(11)
    seen = [losses(random, 100) for _ in range(300)]
    for alpha in (0.2, 0.05):
        assert sum(lower_mean(one, alpha) > mean for one in seen) <= 300 * alpha


def test_losses_without_variance_are_no_proof_of_a_mean_that_is_close():
    """True 0.98: 13 % of windows of 100 have nothing but ones."""
    condition, alarms = parse_condition("mae > 0.985", "concept"), 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        states = [
            judge_feedback(condition, off_by(random.random(100) < 0.98), 100, 0.05, look).state
            for look in range(1, 51)
        ]
        alarms += "holds" in states
    assert alarms <= 1
    assert judge_feedback(condition, off_by(np.full(2_000, 1.0)), 2_000, 0.05, 1).state == "holds"


@given(st.lists(st.floats(0, allow_nan=False), min_size=1, max_size=30), st.floats(1e-9, 0.5))
def test_a_lower_bound_lies_between_zero_and_the_mean(losses, alpha):
    with np.errstate(over="ignore"):
        assert 0 <= lower_mean(np.array(losses), alpha) <= np.mean(losses)


# -- what is right --------------------------------------------------------------------


def test_classes_are_right_where_they_are_equal_and_chances_from_one_half_on():
    truth, guessed = (RANDOM.integers(1, 10, 1000).astype(float) for _ in range(2))
    known = Labelled.single(guessed, truth)
    condition = parse_condition("accuracy < 0.8", "concept")
    found = judge_feedback(condition, known, 1000, 0.05, 1)
    assert found.state == "holds"
    assert found.score == pytest.approx((guessed == truth).mean())
    assert measures(known) == ("accuracy", "mae", "rmse")
    texts = Labelled.single(*(np.array(["a", "b", "c"], object)[[0, 1, x]] for x in (1, 2)))
    assert (measures(texts), measured("accuracy", texts)) == (("accuracy",), pytest.approx(2 / 3))
    chances = Labelled.single(np.array([0.7, 0.4, 0.5, 0.0]), np.array([1.0, 1.0, 1.0, 0.0]))
    assert measured("accuracy", chances) == 0.75
    assert measures(chances) == ("accuracy", "brier")


def test_labels_that_have_no_loss_are_left_out_and_named():
    odd = Labelled.single(np.full(150, 0.9), np.where(np.arange(150) % 3, 1.0, 0.3))
    for measure in ("accuracy < 0.8", "brier > 0.3", "log_loss > 0.7"):
        condition = parse_condition(measure, "concept")
        assert judge_feedback(condition, odd, 100, 0.05, 1).evidence["labels"] == 100
        few = judge_feedback(condition, odd, 120, 0.05, 1)
        assert few.state == "not_enough_data"
        assert f"50 have no {condition.measure}" in few.reason
    amounts = Labelled.single(np.full(100, 5000.0), np.full(100, 4000.5))
    found = judge_feedback(parse_condition("log_loss > 0.75", "concept"), amounts, 100, 0.05, 1)
    assert found.state == "not_enough_data"


def outcome(given, outputs):
    told = {"request_id": "r", "given_s": 0.0, "answered_s": 0.0, "version": 1, "arm": "stable"}
    return Outcome(given=given, outputs=outputs, **told)


def test_what_turned_out_about_a_request_counts_once_however_many_records_it_had():
    single = [outcome({"y": 1}, [{"p": 1.0}]) for _ in range(99)]
    batch = outcome({"y": 0}, [{"p": 1.0}] * 5_000)
    known = paired([*single, batch], "p", "y")
    assert (len(known), len(known.truth)) == (100, 5_099)
    condition = parse_condition("accuracy < 0.8", "concept")
    found = judge_feedback(condition, known, 100, 0.05, 1)
    assert (found.state, found.score, found.evidence["labels"]) == ("clear", 0.99, 100)
    half = paired([outcome({"y": 1}, [{"p": 1.0}, {"p": 0.0}])], "p", "y")
    assert measured("accuracy", half) == 0.5
    last = known.between(98, 100)
    assert (len(last), measured("accuracy", last)) == (2, 0.5)


def test_answers_are_paired_with_truths_of_their_kind():
    known = paired(
        [
            outcome({"y": 1}, [{"c": "cat"}]),
            outcome({"y": "cat"}, [{"c": "cat"}, {"c": None}, {"c": 1}]),
            outcome({"z": "cat"}, [{"c": "cat"}]),
            outcome({"y": "dog"}, [{"c": "cat"}]),
        ],
        "c",
        "y",
    )
    assert known.texts
    assert known.predicted.tolist() == ["cat", "cat"]
    assert known.truth.tolist() == ["cat", "dog"]
    assert len(paired([], "c", "y")) == 0


# -- what was sent --------------------------------------------------------------------


def test_conditions_are_what_their_texts_say():
    psi = parse_condition("psi > 0.2 on any", "drift")
    estimated = parse_condition("estimated_accuracy < 0.8", "concept")
    sent = psi.model_copy(update={"text": " psi  > 0.2 on any"})
    assert reread([sent, ERROR_DRIFT, estimated], "p") == (
        psi,
        ERROR_DRIFT,
        estimated.model_copy(update={"on": "p"}),
    )
    for update, told in (
        ({"measure": "nonsense"}, "no measure 'nonsense'"),
        ({"above": False}, "and was sent as"),
        ({"limit": -1e9}, "and was sent as"),
        ({"limit": float("nan")}, "and was sent as"),
        ({"measure": "ks"}, "and was sent as"),
        ({"text": "x"}, "does not read like a condition"),
    ):
        with pytest.raises(UsageError, match=told):
            reread([psi.model_copy(update=update)], "p")
    for twice in ([psi, sent], [psi, parse_condition("psi > .20", "drift")]):
        with pytest.raises(UsageError, match="twice"):
            reread(twice, "p")
