"""The story's models are what the story says they are."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from aios.contracts import Batch, Codec, Contract
from apps.loan_approval import data, faulty, rules, training

OBRAT_LIMIT = 37.0


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return data.load()


@pytest.fixture(scope="module")
def batch(frame: pd.DataFrame) -> Batch:
    contract = Contract(**data.contract_fields())
    return Codec(contract, max_rows=len(frame)).validate_records(data.records(frame))


@pytest.fixture(scope="module")
def models(frame: pd.DataFrame) -> dict[str, Any]:
    train, _ = data.split(frame)
    return {
        "v1": training.logistic(train),
        "v2": training.boosting(train),
        "v3": training.boosting(train, shuffle_labels=True),
    }


def test_boosting_beats_logistic_regression_on_unseen_applications(frame: pd.DataFrame) -> None:
    v1 = training.cross_validated(training.logistic, frame, folds=3)
    v2 = training.cross_validated(training.boosting, frame, folds=3)
    assert v2["auc"] > v1["auc"] > 0.85
    assert v2["log_loss"] < v1["log_loss"] < 0.24


def test_shuffled_labels_teach_nothing(models: dict[str, Any], frame: pd.DataFrame) -> None:
    _, holdout = data.split(frame)
    assert training.metrics(models["v1"], holdout)["auc"] > 0.85
    assert 0.4 < training.metrics(models["v3"], holdout)["auc"] < 0.6


def test_drift_of_outputs_tells_the_bad_model_from_the_better_one(
    models: dict[str, Any], frame: pd.DataFrame
) -> None:
    assert training.output_distance(models["v1"], models["v2"], frame) < 0.25
    assert training.output_distance(models["v1"], models["v3"], frame) > 0.5


def test_training_again_gives_the_same_model(models: dict[str, Any], frame: pd.DataFrame) -> None:
    train, holdout = data.split(frame)
    again = training.boosting(train)
    assert np.array_equal(training.scores(again, holdout), training.scores(models["v2"], holdout))


def test_approval_rates_are_told_for_each_group(
    models: dict[str, Any], frame: pd.DataFrame
) -> None:
    _, holdout = data.split(frame)
    rates = training.approval_rates(models["v2"], holdout)
    assert set(rates) == {"white", "black", "hispan"}
    assert rates["white"] > rates["black"]
    assert training.lender_approval_rates(holdout)["white"] == pytest.approx(0.908, abs=0.001)


def test_formula_scores_as_the_model_it_was_made_from(
    models: dict[str, Any], frame: pd.DataFrame, batch: Batch
) -> None:
    found = faulty.Linear(training.linear_formula(models["v1"])).predict(batch)["approve"]
    assert found.shape == (len(frame),)
    np.testing.assert_allclose(found, training.scores(models["v1"], frame), atol=1e-6)


def test_the_raising_model_raises_for_about_a_fifth_and_is_right_otherwise(
    models: dict[str, Any], batch: Batch
) -> None:
    config = training.linear_formula(models["v1"])
    model = faulty.RaisesOnSomeRows({**config, "obrat_limit": OBRAT_LIMIT})
    right = faulty.Linear(config).predict(batch)["approve"]
    over = batch.column("obrat") > OBRAT_LIMIT
    assert 0.15 < over.mean() < 0.25
    for row in range(0, batch.rows, 10):
        one = batch.slice(row, row + 1)
        if over[row]:
            with pytest.raises(ValueError, match="the table ends at 37"):
                model.predict(one)
        else:
            assert model.predict(one)["approve"][0] == pytest.approx(right[row])


def test_the_slow_model_is_late_and_right(models: dict[str, Any], batch: Batch) -> None:
    config = training.linear_formula(models["v1"])
    found = faulty.Sleeps({**config, "seconds": 0.0}).predict(batch)["approve"]
    assert np.array_equal(found, faulty.Linear(config).predict(batch)["approve"])
    with pytest.raises(ValueError, match="non-negative"):
        faulty.Sleeps({**config, "seconds": -1.0}).predict(batch)


def test_the_rule_agrees_with_the_lenders_more_often_than_not(frame: pd.DataFrame) -> None:
    found = np.array([rules.score(record)["approve"] for record in data.records(frame)])
    labels = frame[data.LABEL].to_numpy()
    assert found[labels == 1].mean() > found[labels == 0].mean() + 0.15


@pytest.mark.parametrize("field", ["pubrec", "unver"])
def test_the_rule_refuses_bankrupts_and_unverified_whatever_else_they_say(field: str) -> None:
    good = {"pubrec": 0, "unver": 0, "obrat": 30, "hrat": 20, "loanprc": 0.8, "cons": 1}
    assert rules.score(good) == {"approve": 0.9}
    assert rules.score({**good, field: 1}) == {"approve": 0.2}


def test_the_rule_grows_more_careful_with_each_concern_and_with_what_is_missing() -> None:
    good = {"pubrec": 0, "unver": 0, "obrat": 30, "hrat": 20, "loanprc": 0.8, "cons": 1}
    steps = [good, {**good, "obrat": 37}, {**good, "obrat": 37, "hrat": None}, {}]
    assert [rules.score(record)["approve"] for record in steps] == [0.9, 0.7, 0.4, 0.2]
