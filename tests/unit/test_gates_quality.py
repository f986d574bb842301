"""The paired test against stable: how often it is wrong, and what it cannot tell."""

from dataclasses import replace

import numpy as np
import pytest
from gate_candidates import loan_candidate, loan_contract, loans

from aios.governance import Context, Stable
from aios.governance.gates import run_gates
from aios.records import GateResult

Array = np.ndarray
ROWS = 300
FRAME = loans(ROWS)
CANDIDATE = loan_candidate(FRAME)


def judged(labels: Array, scores: Array, rival: Array | None, **params) -> GateResult:
    metric = params.pop("search_metric", "auc")
    kind = "binary" if set(labels.tolist()) <= {0, 1} else "regression"
    holdout = FRAME.iloc[: len(labels)].assign(approve=labels)
    candidate = replace(CANDIDATE, holdout=holdout, scores=scores, kind=kind)
    stable = None if rival is None else Stable("loan:1", loan_contract(), rival)
    return run_gates(candidate, Context(stable=stable, metric=metric), {"quality": params})[0]


def scored(seed: int, noises: tuple[float, float]) -> tuple[Array, Array, Array]:
    """Labels, and two models that see the truth through noise of their own."""
    source = np.random.default_rng(seed)
    truth = source.normal(size=ROWS)
    labels = (truth + 0.7 * source.normal(size=ROWS) > 0).astype(float)
    first, second = (truth + noise * source.normal(size=ROWS) for noise in noises)
    return labels, 1 / (1 + np.exp(-first)), 1 / (1 + np.exp(-second))


@pytest.mark.parametrize(("metric", "runs"), [("auc", 300), ("brier", 60)])
def test_models_of_equal_quality_are_called_worse_or_better_as_rarely_as_stated(
    metric: str, runs: int
) -> None:
    """With margin 0 "passed" claims at least as good and "failed" worse: each is right half
    of the time in truth, so each may be claimed in at most 5 % of the holdouts. The allowance
    is three standard errors of the simulation."""
    allowance = 3 * (0.05 * 0.95 / runs) ** 0.5
    found = [
        judged(*scored(seed, (0.5, 0.5)), margin=0.0, metric=metric).outcome for seed in range(runs)
    ]
    assert found.count("failed") / runs <= 0.05 + allowance
    assert found.count("passed") / runs <= 0.05 + allowance


def test_a_candidate_worse_by_the_margin_passes_as_rarely_as_stated() -> None:
    reference = np.mean([_gap(seed) for seed in range(200)])
    found = [
        judged(*scored(seed, (1.0, 0.5)), margin=reference).outcome for seed in range(1000, 1200)
    ]
    assert found.count("passed") / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def _gap(seed: int) -> float:
    from aios.governance.statistics import auc

    labels, worse, better = scored(seed, (1.0, 0.5))
    return auc(labels, better) - auc(labels, worse)


def test_a_clearly_worse_candidate_fails_and_a_clearly_better_one_passes() -> None:
    for metric in ("auc", "log_loss", "brier", "accuracy"):
        worse = [judged(*scored(seed, (4.0, 0.3)), metric=metric).outcome for seed in range(10)]
        better = [judged(*scored(seed, (0.3, 4.0)), metric=metric).outcome for seed in range(10)]
        assert worse == ["failed"] * 10
        assert better == ["passed"] * 10


def test_a_margin_asks_for_rows_that_could_show_its_loss() -> None:
    labels, scores, rival = (part[:298] for part in scored(1, (0.5, 0.5)))
    found = judged(labels, scores, rival)
    assert (found.outcome, "takes at least 299" in found.reason) == ("not_enough_data", True)
    assert judged(labels, scores, rival, margin=0.05).outcome == "passed"


def test_a_metric_of_the_policy_that_does_not_fit_the_scores_is_not_replaced() -> None:
    labels, scores, rival = scored(1, (0.5, 0.5))
    found = judged(labels, scores * 3, rival, metric="log_loss")
    assert (found.outcome, "the policy asks for log_loss" in found.reason) == ("failed", True)
    assert judged(labels, scores * 3, rival, search_metric="log_loss").evidence["metric"] == "auc"


def test_the_same_model_again_passes() -> None:
    labels, scores, _ = scored(1, (0.5, 0.5))
    for metric in ("auc", "brier", "accuracy"):
        found = judged(labels, scores, scores.copy(), margin=0.0, metric=metric)
        assert (found.outcome, found.value) == ("passed", 0)


def test_a_small_difference_in_few_rows_is_not_decided_and_says_how_many_would() -> None:
    found = judged(*scored(2, (0.5, 0.5)), margin=0.01)
    assert found.outcome == "not_enough_data"
    assert found.evidence["rows_needed"] > ROWS
    assert "rows would" in found.reason


def test_the_first_version_must_beat_a_constant() -> None:
    labels, scores, _ = scored(4, (0.5, 0.5))
    for metric in ("auc", "brier"):
        assert judged(labels, scores, None, metric=metric).outcome == "passed"
        constant = judged(labels, np.full(ROWS, labels.mean()), None, metric=metric)
        assert constant.outcome == "failed"
    assert judged(labels, 1 - scores, None).outcome == "failed"


def test_regression_is_compared_relatively() -> None:
    source = np.random.default_rng(5)
    labels = source.normal(1000, 100, ROWS)
    close, far = (labels + source.normal(0, noise, ROWS) for noise in (20, 60))
    for metric in ("rmse", "mae", "r2"):
        assert judged(labels, close, far, search_metric=metric).outcome == "passed"
        assert judged(labels, far, close, search_metric=metric).outcome == "failed"
    found = judged(labels, close, far, search_metric="rmse")
    rmse = [np.sqrt(np.mean((labels - scores) ** 2)) for scores in (close, far)]
    assert found.evidence["gain"] == pytest.approx(1 - rmse[0] / rmse[1])
    assert judged(labels, close, None, search_metric="something own").evidence["metric"] == "rmse"


@pytest.mark.parametrize(
    ("labels", "scores", "rival", "outcome", "told"),
    [
        (np.ones(50), np.full(50, 0.5), None, "not_enough_data", "0 of 50 rows"),
        (np.empty(0), np.empty(0), None, "not_enough_data", "no rows"),
        (np.arange(60) % 2, np.full(60, np.nan), None, "failed", "60 of 60 scores are NaN"),
        (np.arange(60) % 2, np.full(59, 0.5), None, "failed", "shape"),
        (np.arange(60) % 2, np.full(60, 0.5), np.full(60, np.nan), "not_enough_data", "loan:1"),
    ],
    ids=["one class", "empty", "nan", "shape", "stable nan"],
)
def test_what_says_nothing_is_told_and_never_passes(labels, scores, rival, outcome, told) -> None:
    found = judged(labels.astype(float), scores, rival)
    assert found.outcome == outcome
    assert told in found.reason
