"""Groups in live traffic, with fairlearn as an oracle, and how often chance is taken for a gap."""

import math

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
)
from sklearn.metrics import accuracy_score

from aios.monitoring.conditions import FAIRNESS, parse_condition
from aios.monitoring.fairness import People, groups_view, judge_fairness, people
from aios.records.watching import Outcome

RANDOM = np.random.default_rng(7)
ALONE = np.ones(1000, dtype=bool)
PARITY = parse_condition("demographic_parity_difference > 0.2 on sex", "fairness")


def made(rates, count, labelled=True) -> People:
    """People of groups whose answer is good with these chances; the truth is a coin."""
    names = RANDOM.choice(list(rates), count)
    good = RANDOM.random(count) < np.array([rates[name] for name in names])
    truth = RANDOM.integers(0, 2, count).astype(float)
    labels = truth if labelled else np.full(count, math.nan)
    return People(good.astype(float), labels, names.astype(object), ALONE[:count])


def fairlearn_gap(measure, known):
    truth, made_of = known.labels, known.chosen
    if measure == "accuracy_difference":
        frame = MetricFrame(
            metrics=accuracy_score, y_true=truth, y_pred=made_of, sensitive_features=known.groups
        )
        return frame.difference()
    found = {
        "demographic_parity_difference": demographic_parity_difference,
        "equal_opportunity_difference": equal_opportunity_difference,
        "equalized_odds_difference": equalized_odds_difference,
    }[measure]
    return found(truth, made_of, sensitive_features=known.groups)


@pytest.mark.parametrize("measure", FAIRNESS)
def test_gaps_are_those_of_fairlearn(measure):
    known = made({"f": 0.4, "m": 0.6, "x": 0.5}, 900)
    condition = parse_condition(f"{measure} > 0.9 on sex", "fairness")
    found = judge_fairness(condition, known, 900, 0.05, 1)
    assert found.score == pytest.approx(fairlearn_gap(measure, known))
    assert (found.state, found.subject) == ("clear", "sex")


def test_a_large_gap_holds_a_smaller_one_is_near_and_none_is_clear():
    states = []
    for rates in ({"f": 0.3, "m": 0.8}, {"f": 0.45, "m": 0.69}, {"f": 0.5, "m": 0.5}):
        found = judge_fairness(PARITY, made(rates, 1000, labelled=False), 1000, 0.05, 1)
        states.append(found.state)
    assert states == ["holds", "near", "clear"]
    held = judge_fairness(PARITY, made({"f": 0.3, "m": 0.8}, 1000), 1000, 0.05, 1)
    assert "selection rate of m 0." in held.reason
    low, high = held.evidence["groups"]["f"]["selection_rate_interval"]
    assert low < held.evidence["groups"]["f"]["selection_rate"] < high
    assert held.evidence["lower"] > 0.2


def test_windows_grow_until_groups_that_can_be_judged_are_judged():
    condition = parse_condition("demographic_parity_difference > 0.2 on town", "fairness")
    rates = dict.fromkeys("abcd", 0.5)
    known = made(rates, 1000, labelled=False)
    found = judge_fairness(condition, known, 50, 0.05, 1)
    assert found.state in ("clear", "near"), "judged"
    assert set(found.evidence["groups"]) == set("abcd")
    few = made(rates, 90, labelled=False)
    assert judge_fairness(condition, few, 50, 0.05, 1).state == "not_enough_data"


def test_every_one_of_the_last_windows_must_show_the_gap():
    two = parse_condition("demographic_parity_difference > 0.2 on sex for 2 windows", "fairness")
    calm, off = made({"f": 0.5, "m": 0.5}, 1000), made({"f": 0.1, "m": 0.9}, 1000)

    def both(first, second):
        return People(
            *(
                np.concatenate([getattr(first, name), getattr(second, name)])
                for name in ("chosen", "labels", "groups", "alone")
            )
        )

    assert judge_fairness(two, both(off, off), 1000, 0.05, 1).state == "holds"
    assert judge_fairness(two, both(calm, off), 1000, 0.05, 1).state == "near"
    assert judge_fairness(two, off, 1000, 0.05, 1).state == "not_enough_data"
    assert judge_fairness(PARITY, both(off, calm), 1000, 0.05, 1).state == "clear"


@pytest.mark.parametrize(
    ("measure", "known", "told"),
    [
        ("demographic_parity", made({"f": 0.5}, 500), "one group only, f"),
        (
            "demographic_parity",
            made({"f": 0.5, "m": 0.1}, 99),
            "known of 99 of 99 answers, and 200",
        ),
        ("equal_opportunity", made({"f": 0.5, "m": 0.1}, 500, False), "known of 0 of 500"),
        ("demographic_parity", made({str(n): 0.5 for n in range(30)}, 500), "has 30 values"),
    ],
)
def test_groups_that_cannot_be_judged_say_why(measure, known, told):
    condition = parse_condition(f"{measure}_difference > 0.2 on sex", "fairness")
    found = judge_fairness(condition, known, 200, 0.05, 1)
    assert found.state == "not_enough_data"
    assert told in found.reason


def test_a_group_too_small_to_judge_is_left_out_and_named():
    known = made({"f": 0.5, "m": 0.5}, 300)
    known.groups[:20] = "x"
    known.chosen[:20] = 0.0
    found = judge_fairness(PARITY, known, 300, 0.05, 1)
    assert found.state == "clear"
    assert found.evidence["not_judged"] == ["x has 20 answers, fewer than 30"]
    known.groups[:280] = "x"
    alone = judge_fairness(PARITY, known, 300, 0.05, 1)
    assert alone.state == "not_enough_data"
    assert "fewer than two groups of sex are large enough" in alone.reason


@pytest.mark.parametrize("sizes", [(50, 50), (30, 500)])
def test_fair_traffic_alarms_no_more_often_than_stated(sizes):
    """A gap that is exactly the limit, 1,000 replays of 5 looks: only chance is beyond it."""
    random, alarms, count = np.random.default_rng(3), 0, sum(sizes)
    names = np.repeat(["f", "m"], sizes).astype(object)
    rates = np.repeat([0.3, 0.1], sizes)
    for _ in range(1000):
        held = False
        for look in range(1, 6):
            scores = (random.random(count) < rates).astype(float)
            known = People(scores, np.full(count, math.nan), names, ALONE[:count])
            held |= judge_fairness(PARITY, known, count, 0.05, look).state == "holds"
        alarms += held
    assert alarms <= 50


def outcome(given, outputs, inputs=()):
    return Outcome(
        request_id="r",
        given=given,
        given_s=0.0,
        answered_s=0.0,
        version=1,
        arm="stable",
        outputs=outputs,
        inputs=list(inputs),
    )


def test_groups_come_from_feedback_or_else_from_the_inputs_that_were_recorded():
    found = people(
        [
            outcome({"sex": "f", "y": 1}, [{"p": 0.9}]),
            outcome({"y": 0}, [{"p": 0.2}, {"p": 0.7}], [{"sex": "m"}, {"sex": 1.0}]),
            outcome({"sex": None}, [{"p": 0.2}], [{"sex": "m"}]),
            outcome({"sex": True, "y": "?"}, [{"p": 0.4}, {"q": 1}, {"p": None}]),
        ],
        "p",
        "y",
        "sex",
    )
    assert found.groups.tolist() == ["f", "m", "1", "not stated", "True"]
    assert found.chosen.tolist() == [1, 0, 1, 0, 0]
    assert found.labels[:3].tolist() == [1, 0, 0]
    assert np.isnan(found.labels[3:]).all()


def test_a_monitor_shows_each_group_with_its_rates_and_intervals():
    known = made({"f": 0.3, "m": 0.8}, 400)
    known.labels[known.groups == "f"] = math.nan
    rows = {row["group"]: row for row in groups_view(known)}
    assert rows["f"]["rows"] + rows["m"]["rows"] == 400
    assert (rows["f"]["labels"], rows["f"]["accuracy"], rows["f"]["accuracy_interval"]) == (
        0,
        None,
        None,
    )
    low, high = rows["m"]["selection_rate_interval"]
    assert low < rows["m"]["selection_rate"] < high
    assert groups_view(people([], "p", "y", "sex")) == []


def test_numbers_that_decide_nothing_are_not_judged():
    prices = [outcome({"sex": "fm"[n % 2]}, [{"p": 100.0 * n}]) for n in range(300)]
    found = judge_fairness(PARITY, people(prices, "p", "y", "sex"), 300, 0.05, 1)
    assert found.state == "not_enough_data"
    assert "not chances" in found.reason
    row = groups_view(people(prices[2:], "p", "y", "sex"))[0]
    assert (row["rows"], row["selection_rate"]) == (149, None)


def test_what_turned_out_about_a_request_counts_once_however_many_records_it_had():
    single = [outcome({"sex": "fm"[n % 2], "y": 1}, [{"p": 0.9}]) for n in range(400)]
    batch = outcome({"sex": "f", "y": 1}, [{"p": 0.1}] * 4_000 + [{"p": 0.9}] * 1_000)
    known = people([*single, batch], "p", "y", "sex")
    assert len(known) == 401
    for measure in ("demographic_parity", "equal_opportunity", "accuracy"):
        condition = parse_condition(f"{measure}_difference > 0.2 on sex", "fairness")
        found = judge_fairness(condition, known, 401, 0.05, 1)
        assert (found.state, found.evidence["answers"]) == ("clear", 401)
        assert found.score == pytest.approx(1 - 200.2 / 201)
    two = outcome({"y": 1}, [{"p": 0.9}, {"p": 0.1}, {"p": 0.9}], [{"sex": s} for s in "fmf"])
    known = people([two], "p", "y", "sex")
    assert (known.groups.tolist(), known.chosen.tolist()) == (["f", "m"], [1.0, 0.0])


def test_requests_about_several_groups_widen_the_bound():
    def lower(alone):
        known = made({"f": 0.0, "m": 1.0}, 900)
        known = People(known.chosen, known.labels, known.groups, np.full(900, alone))
        return judge_fairness(PARITY, known, 900, 0.05, 1).evidence["lower"]

    assert 1 - lower(False) == pytest.approx(math.sqrt(2) * (1 - lower(True)), rel=0.02)
    mixed = outcome({"y": 1}, [{"p": 0.9}, {"p": 0.1}], [{"sex": "f"}, {"sex": "m"}])
    known = people([mixed, outcome({"sex": "f"}, [{"p": 1.0}])], "p", "y", "sex")
    assert known.alone.tolist() == [False, False, True]
