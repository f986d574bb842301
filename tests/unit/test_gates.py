"""Each gate on a good candidate and on a broken one; what is broken is told, never raised."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from gate_candidates import (
    FormulaEngine,
    loan_candidate,
    loan_contract,
    loans,
    logistic,
    snapshot_of,
)
from onnx_graphs import sample_rows, score_contract, write_model

from aios.contracts import Batch, Contract, Number
from aios.errors import ContractViolation, UsageError
from aios.governance import (
    Candidate,
    Context,
    Stable,
    metrics_by_group,
    permutation_importance,
    run_gates,
    score_frame,
)
from aios.governance.gates import GATES
from aios.models import PythonModel, build
from aios.records import GateResult

CONTEXT = Context(deadline_s=0.5)


def judged(
    name: str, candidate: Candidate, context: Context = CONTEXT, **params: Any
) -> GateResult:
    return run_gates(candidate, context, {name: params})[0]


# --- all together ---


def test_a_good_candidate_passes_every_gate_and_its_evidence_is_json(tmp_path: Path) -> None:
    rows = sample_rows(120)
    path, into = write_model(tmp_path), tmp_path / "artifacts"
    built = build(path, score_contract(), rows, into, background=rows)
    candidate = loan_candidate(loans(2000), folder=built.folder, artifact=built.artifact)
    found = run_gates(candidate, CONTEXT, {name: {} for name in GATES})
    assert [(result.gate, result.outcome) for result in found] == [
        (name, "passed") for name in GATES
    ]
    for result in found:
        assert GateResult.model_validate_json(result.model_dump_json()) == result
        assert orjson.loads(orjson.dumps(result.evidence)) == result.evidence


def test_the_same_candidate_gives_the_same_results_again() -> None:
    wanted: dict[str, dict[str, Any]] = {
        name: {} for name in GATES if name not in ("latency", "artifact")
    }
    candidate = loan_candidate()
    assert run_gates(candidate, CONTEXT, wanted) == run_gates(candidate, CONTEXT, wanted)


class Broken(FormulaEngine):
    def run(self, batch: Batch) -> dict[str, Any]:
        raise MemoryError("secret 4111-1111")


def test_a_gate_that_raises_has_failed_and_the_others_go_on() -> None:
    candidate = loan_candidate(engine=Broken(logistic))
    found = run_gates(candidate, CONTEXT, {"latency": {}, "robustness": {}, "calibration": {}})
    assert [result.outcome for result in found] == ["failed", "failed", "passed"]
    assert "the gate latency raised MemoryError" in found[0].reason
    assert "secret" not in found[0].model_dump_json()


def test_where_everybody_gets_the_same_answer_nothing_is_said_of_fairness() -> None:
    rows = loans()
    low = np.where(rows["sex"] == "f", 0.30, 0.02) if "sex" in rows else np.full(len(rows), 0.1)
    candidate = loan_candidate(rows, scores=low)
    found = judged("fairness", candidate)
    assert found.outcome == "not_enough_data"
    assert "every row gets the same answer at the threshold 0.5" in found.reason
    assert judged("fairness", candidate, decision_threshold=0.2).outcome != "not_enough_data"


def test_too_few_rows_of_a_label_say_nothing_of_a_leak() -> None:
    rows = loans()
    rare = rows.assign(approve=(np.arange(len(rows)) < 5).astype(int))
    found = judged("data_quality", loan_candidate(rare))
    assert (found.outcome, "tells the label" in found.reason) == ("not_enough_data", True)


@pytest.mark.parametrize("name", sorted(GATES))
@pytest.mark.parametrize("case", ["empty", "one class", "nan", "no label", "null label"])
def test_no_gate_passes_or_raises_on_rows_that_it_cannot_judge(name: str, case: str) -> None:
    candidate = {
        "empty": lambda: loan_candidate(loans().iloc[:0]),
        "one class": lambda: loan_candidate(loans().assign(approve=1)),
        "nan": lambda: loan_candidate(
            scores=np.full(600, np.nan),
            engine=FormulaEngine(lambda batch: np.full(batch.rows, np.nan)),
        ),
        "no label": lambda: loan_candidate(loans().drop(columns="approve")),
        "null label": lambda: loan_candidate(loans().assign(approve=np.nan)),
    }[case]()
    if case in ("empty", "no label"):
        candidate = replace(candidate, snapshot=loan_candidate().snapshot)
    found = judged(name, candidate)
    blind = {"card", "contract", "explanation"} | {  # these look at something else
        "empty": set(),
        "one class": {"latency", "robustness"},
        "nan": {"latency", "data_quality"},
        "no label": {"latency", "robustness"},
        "null label": {"latency", "robustness"},
    }[case]
    assert (found.outcome == "passed") == (name in blind), found.reason


def test_unknown_gates_and_wrong_parameters_are_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="no gate speed; there are artifact, calibration"):
        run_gates(loan_candidate(), CONTEXT, {"speed": {}})
    for name, params in [
        ("quality", {"margin": -0.1}),
        ("quality", {"margin": float("nan")}),
        ("quality", {"confidence": 1.0}),
        ("fairness", {"metrics": ()}),
        ("fairness", {"max": 1.5}),
        ("fairness", {"min_group_size": 0}),
        ("latency", {"budget_s": -1}),
        ("calibration", {"treshold": 0.1}),
    ]:
        with pytest.raises(UsageError):
            run_gates(loan_candidate(), CONTEXT, {name: params})


# --- calibration ---


def test_scores_that_are_too_sure_fail_calibration() -> None:
    good = loan_candidate(loans(2000))
    assert judged("calibration", good, max=0.05).outcome == "passed"
    sure = replace(good, scores=np.where(good.scores > 0.5, 0.99, 0.01))
    found = judged("calibration", sure, max=0.05)
    assert found.outcome == "failed"
    assert found.evidence["parts"]["all"]["spiegelhalter_p"] < 0.001
    assert judged("calibration", replace(good, scores=good.scores * 3 - 1)).outcome == "failed"


def test_few_rows_cannot_show_a_small_calibration_error() -> None:
    found = judged("calibration", loan_candidate(loans(80)), max=0.01)
    assert found.outcome == "not_enough_data"
    assert "perfectly calibrated" in found.reason


def test_calibration_by_group_finds_the_group_that_is_off() -> None:
    good = loan_candidate(loans(4000))
    women = (good.holdout["sex"] == "f").to_numpy()
    off = replace(good, scores=np.clip(good.scores + np.where(women, 0.08, -0.08), 0, 1))
    found = judged("calibration", off, max=0.065, by_group=True)
    assert found.outcome == "failed"
    assert "sex=" in found.reason


# --- robustness, latency ---


def steep(batch: Batch) -> Any:
    """Turns at every thousandth of the income."""
    return (np.floor(batch.column("income") * 1000) % 2).astype(float)


def refuses_null(batch: Batch) -> Any:
    if np.isnan(batch.column("debt")).all():
        return np.full(batch.rows, np.nan)
    return logistic(batch)


def test_decisions_that_turn_with_noise_fail() -> None:
    found = judged("robustness", loan_candidate(engine=FormulaEngine(steep)))
    assert found.outcome == "failed"
    assert found.value == pytest.approx(0.5, abs=0.1)


def test_an_optional_field_that_is_missing_must_be_answered() -> None:
    found = judged("robustness", loan_candidate(engine=FormulaEngine(refuses_null)))
    assert found.outcome == "failed"
    assert "rows without debt: the model's output: row 0" in found.reason
    assert "rows without debt, home" in found.reason


def test_an_answer_outside_its_promise_fails() -> None:
    engine = FormulaEngine(lambda batch: 2 * logistic(batch))
    assert "above the maximum 1" in judged("robustness", loan_candidate(engine=engine)).reason


def test_a_slow_model_fails_its_share_of_the_deadline() -> None:
    found = judged("latency", loan_candidate(), budget_s=1e-9)
    assert found.outcome == "failed"
    assert found.threshold == 1e-9
    assert judged("latency", loan_candidate(), share=0.4).threshold == 0.2
    assert judged("latency", loan_candidate(), Context()).outcome == "not_enough_data"


# --- contract, artifact ---


def test_a_contract_that_refuses_what_stable_takes_fails() -> None:
    wider = loan_contract()
    narrower = Contract(
        inputs={**wider.inputs, "income": Number(min=0, max=10)}, outputs=wider.outputs, key="id"
    )
    stable = Context(stable=Stable("loan:1", wider, None))
    assert judged("contract", loan_candidate(), stable).outcome == "passed"
    found = judged("contract", loan_candidate(contract=narrower), stable)
    assert (found.outcome, "income" in found.reason) == ("failed", True)
    assert found.evidence["breaks"]
    taken = judged("contract", loan_candidate(contract=narrower), stable, allow_breaking=True)
    assert taken.outcome == "passed"


def test_a_protected_attribute_must_not_be_an_input() -> None:
    found = judged("contract", loan_candidate(protected=("home",)))
    assert (found.outcome, "home are inputs" in found.reason) == ("failed", True)


def test_changed_bytes_and_trusted_code_fail(tmp_path: Path) -> None:
    python = build(
        PythonModel("python_models:Halves"), score_contract(), sample_rows(), tmp_path / "python"
    )
    trusted = loan_candidate(folder=python.folder, artifact=python.artifact)
    found = judged("artifact", trusted)
    assert (found.outcome, "python_models:Halves" in found.reason) == ("failed", True)
    assert judged("artifact", trusted, allow_trusted_code=True).outcome == "passed"

    onnx = build(write_model(tmp_path), score_contract(), sample_rows(), tmp_path / "onnx")
    (onnx.folder / "model.onnx").write_bytes(b"\x80\x04changed")
    found = judged("artifact", loan_candidate(folder=onnx.folder, artifact=onnx.artifact))
    assert (found.outcome, "model.onnx" in found.reason) == ("failed", True)


# --- data quality ---


def data_judged(**columns: Any) -> GateResult:
    frame = loans().assign(**columns)
    contract = loan_contract()
    given = replace(loan_candidate(), holdout=frame, snapshot=snapshot_of(frame), contract=contract)
    return judged("data_quality", given)


def test_each_fault_of_the_data_is_named() -> None:
    labels = loans()["approve"]
    source = np.random.default_rng(1)
    for columns, told in [
        ({"debt": None}, "debt is null in all rows"),
        ({"debt": 3.0}, "debt has the same value in all rows"),
        ({"income": loans()["income"].where(labels.index > 3)}, "income is null in 4 rows"),
        ({"debt": loans()["debt"].where(labels.index > 400)}, "debt is null in 7"),
        ({"income": loans()["income"] * 10}, "income is out of the contract's range in"),
        ({"income": labels * 2.0 - 1}, "income alone tells the label (1.000"),
        ({"income": -labels + source.normal(0, 0.1, 600)}, "income alone tells the label (1.000"),
        ({"home": np.where(labels == 1, "own", "rent")}, "home alone tells the label (1.000"),
        ({"debt": loans()["income"].where(labels == 1)}, "debt alone tells the label"),
        ({"id": "a", "income": 1.0, "debt": 1.0, "late": 1, "home": "own"}, "are duplicates"),
    ]:
        found = data_judged(**columns)
        assert (found.outcome, told in found.reason) == ("failed", True), (told, found.reason)
    assert data_judged().outcome == "passed"


def test_a_value_per_row_does_not_count_as_a_leak() -> None:
    found = data_judged(home=[f"h{row}" for row in range(600)])
    assert "home alone tells" not in found.reason


def test_a_copy_of_a_regressions_label_is_a_leak() -> None:
    frame = loans()
    frame["approve"] = frame["income"] ** 3
    found = judged("data_quality", loan_candidate(frame, kind="regression"))
    assert "income alone tells the label (1.000" in found.reason


# --- explanation, card ---


def test_importances_must_be_there_finite_and_not_all_zero() -> None:
    names = list(loan_contract().inputs)
    for importances, told in [
        (None, "no permutation importances"),
        ({"income": 0.1}, "no importance is stored for debt, late, home"),
        (dict.fromkeys(names, 0.0), "0 of 4 inputs matter"),
        ({**dict.fromkeys(names, 0.1), "late": float("nan")}, "late is not a finite number"),
    ]:
        found = judged("explanation", loan_candidate(importances=importances))
        assert (found.outcome, told in found.reason) == ("failed", True)


def test_a_card_without_its_sections_fails() -> None:
    found = judged("card", loan_candidate(card_missing=("intended use", "limits")))
    assert (found.outcome, "intended use, limits" in found.reason) == ("failed", True)


# --- scoring ---


def test_a_frame_is_scored_in_order_and_in_parts() -> None:
    frame = loans(25_000).sample(frac=1.0, random_state=3)
    found = score_frame(FormulaEngine(logistic), loan_contract(), frame, "approve")
    expected = loan_candidate(frame.head(25_000)).scores
    np.testing.assert_allclose(found, expected)


def test_a_row_that_the_contract_refuses_is_named_by_its_place_in_the_frame() -> None:
    frame = loans(12_000)
    frame.loc[11_000, "income"] = 99.0
    with pytest.raises(ContractViolation, match=r'row 11000, field "income": 99\.0 is above'):
        score_frame(FormulaEngine(logistic), loan_contract(), frame, "approve")
    for bad, told in [(frame.drop(columns="late"), "lack the inputs late"), (frame[:0], "no rows")]:
        with pytest.raises(UsageError, match=told):
            score_frame(FormulaEngine(logistic), loan_contract(), bad, "approve")
    with pytest.raises(UsageError, match='no output "score"'):
        score_frame(FormulaEngine(logistic), loan_contract(), frame, "score")


def test_importance_agrees_with_scikit_learns() -> None:
    from sklearn.inspection import permutation_importance as theirs
    from sklearn.linear_model import LogisticRegression

    frame = loans(3000).assign(debt=0.0, home="own")
    inputs = ["income", "late"]
    estimator = LogisticRegression().fit(frame[inputs], frame["approve"])

    def formula(batch: Batch) -> Any:
        rows = pd.DataFrame(batch.matrix(inputs, dtype=np.float64), columns=inputs)
        return estimator.predict_proba(rows)[:, 1]

    expected = theirs(
        estimator, frame[inputs], frame["approve"], scoring="roc_auc", n_repeats=5, random_state=0
    ).importances_mean
    found = permutation_importance(
        FormulaEngine(formula), frame, loan_contract(), "approve", "approve", "binary", seed=0
    )
    assert [found[name] for name in inputs] == pytest.approx(expected, abs=0.01)
    assert found["debt"] == found["home"] == 0
    with pytest.raises(UsageError, match="one value only"):
        permutation_importance(
            FormulaEngine(formula), frame.assign(approve=1), loan_contract(), "approve", "approve",
            "binary", seed=0,
        )  # fmt: skip


def test_metrics_by_group_leave_out_what_a_group_is_too_small_for() -> None:
    frame = loans(300)
    frame.loc[0, "sex"] = None
    candidate = loan_candidate(frame)
    found = metrics_by_group(
        "binary", frame["approve"], candidate.scores, frame, ("sex",), threshold=0.5
    )["sex"]
    assert sum(group["rows"] for group in found.values()) == 300
    assert set(found["not stated"]) == {"rows", "accuracy", "brier", "log_loss"}
    assert 0.5 < found["f"]["auc"] < 1
