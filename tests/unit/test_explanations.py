"""Contributions: Shapley values that are right, add up, and say how sure they are."""

from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest

from aios.errors import ModelFailed, UsageError
from aios.governance import contributions

RANDOM = np.random.default_rng(11)
BACKGROUND = pd.DataFrame(RANDOM.normal(size=(40, 4)), columns=list("abcd"))
BACKGROUND["kind"] = RANDOM.choice(["x", "y"], 40)
ROW = pd.DataFrame([{"a": 2.0, "b": -1.0, "c": 0.5, "d": 1.5, "kind": "x"}])
NUMBERS = list("abcd")


def tangled(rows: pd.DataFrame) -> np.ndarray:
    a, b, c, d = (rows[name].to_numpy() for name in NUMBERS)
    return np.tanh(a * b * c) + np.maximum(a, d) * np.exp(c / 2) + b


def brute_force(score, row: pd.DataFrame, background: pd.DataFrame) -> dict[str, float]:
    """The definition: each feature's gain over all subsets of the others, weighted."""
    names = list(row.columns)

    def value(present: tuple[str, ...]) -> float:
        mixed = background.copy()
        for name in present:
            mixed[name] = row[name].iloc[0]
        return float(score(mixed).mean())

    found = {}
    for name in names:
        others = [other for other in names if other != name]
        found[name] = sum(
            factorial(size)
            * factorial(len(names) - size - 1)
            / factorial(len(names))
            * (value((*subset, name)) - value(subset))
            for size in range(len(names))
            for subset in combinations(others, size)
        )
    return found


def test_of_a_linear_model_they_are_exact() -> None:
    weights = {"a": 2.0, "b": -0.5, "c": 0.0, "d": 7.0}

    def linear(rows: pd.DataFrame) -> np.ndarray:
        return sum(weight * rows[name] for name, weight in weights.items()).to_numpy() + 3

    found = contributions(linear, ROW, BACKGROUND, permutations=40)
    for name, weight in weights.items():
        expected = weight * (ROW[name].iloc[0] - BACKGROUND[name].mean())
        assert found.values[name] == pytest.approx(expected, abs=1e-12)
    assert found.base == pytest.approx(linear(BACKGROUND).mean())


def test_they_agree_with_the_sum_over_all_subsets() -> None:
    row, background = ROW[NUMBERS], BACKGROUND[NUMBERS]
    exact = brute_force(tangled, row, background)
    found = contributions(tangled, row, background, seed=3, permutations=2000)
    for name, value in exact.items():
        assert found.values[name] == pytest.approx(value, abs=4 * found.errors[name])
        assert 0 < found.errors[name] < 0.05
    assert max(abs(found.values[name] - value) for name, value in exact.items()) < 0.03


def test_interactions_of_two_features_are_shared_exactly() -> None:
    def product(rows: pd.DataFrame) -> np.ndarray:
        return (rows["a"] * rows["b"]).to_numpy()

    found = contributions(product, ROW[NUMBERS], BACKGROUND[NUMBERS], permutations=40)
    exact = brute_force(product, ROW[NUMBERS], BACKGROUND[NUMBERS])
    assert found.values == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("permutations", [2, 7, 100])
def test_they_add_up_and_a_feature_that_does_nothing_gets_nothing(permutations: int) -> None:
    def score(rows: pd.DataFrame) -> np.ndarray:
        return np.where(rows["kind"] == "x", tangled(rows), rows["a"] ** 2)

    row = ROW.assign(idle=1)
    background = BACKGROUND.assign(idle=range(40), unused="z")
    found = contributions(score, row, background, seed=5, permutations=permutations)
    assert found.base + sum(found.values.values()) == pytest.approx(found.score, abs=1e-12)
    assert found.score == pytest.approx(score(row)[0])
    assert (found.values["idle"], found.errors["idle"]) == (0.0, 0.0)
    assert found.values["kind"] != 0
    assert "idle" in repr(found)


def test_the_stated_error_is_that_of_repeated_draws() -> None:
    row, background = ROW[NUMBERS], BACKGROUND[NUMBERS].iloc[:1]
    runs = [contributions(tangled, row, background, seed=s, permutations=20) for s in range(60)]
    spread = np.std([run.values["a"] for run in runs])
    stated = np.mean([run.errors["a"] for run in runs])
    assert 0.7 < stated / spread < 1.4


def test_the_same_seed_gives_the_same() -> None:
    first, again, other = (
        contributions(tangled, ROW[NUMBERS], BACKGROUND[NUMBERS], seed=seed, permutations=10)
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_one_feature_takes_the_whole_difference() -> None:
    found = contributions(lambda rows: rows["a"].to_numpy(), ROW[["a"]], BACKGROUND)
    assert found.values["a"] == pytest.approx(2.0 - BACKGROUND["a"].mean())


def test_a_null_in_the_row_is_a_null_for_the_model() -> None:
    row = pd.DataFrame([{"a": None, "b": 1}])
    found = contributions(lambda rows: rows["a"].isna() * 2.0 + rows["b"], row, BACKGROUND)
    assert found.values["a"] == pytest.approx(2.0)


def test_columns_keep_their_types() -> None:
    row = pd.DataFrame({"n": [3], "when": pd.to_datetime(["2024-01-01"]), "ok": [True]})
    row["word"] = pd.Categorical(["x"], categories=["x", "y"])
    seen = []

    def score(rows: pd.DataFrame) -> np.ndarray:
        seen.append(rows.dtypes.to_dict() == row.dtypes.to_dict())
        return np.zeros(len(rows))

    background = pd.concat([row, row], ignore_index=True)
    contributions(score, row, background, permutations=4)
    assert all(seen)


@pytest.mark.parametrize(
    ("row", "background", "told"),
    [
        (BACKGROUND, BACKGROUND, "one row"),
        (ROW[[]], BACKGROUND, "one row with features"),
        (ROW, BACKGROUND.iloc[:0], "has no rows"),
        (ROW, BACKGROUND[["a"]], "lacks the columns b, c, d, kind"),
        (ROW, BACKGROUND.assign(a="word"), "a is of another type"),
        (ROW, BACKGROUND.assign(kind=1), "kind is of another type"),
    ],
)
def test_what_cannot_be_explained_is_refused(row, background, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        contributions(lambda rows: np.zeros(len(rows)), row, background)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_the_models_fault(value: float) -> None:
    with pytest.raises(ModelFailed, match="cannot be explained"):
        contributions(lambda rows: np.full(len(rows), value), ROW, BACKGROUND)
    with pytest.raises(ModelFailed, match="shape"):
        contributions(lambda rows: np.zeros((len(rows), 2)), ROW, BACKGROUND)
