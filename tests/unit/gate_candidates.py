"""Candidates for the tests of gates: real contracts, frames and artifacts, made-up engines."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aios.contracts import Batch, Category, Contract, Integer, Number
from aios.governance.candidate import Candidate
from aios.records import Artifact, ColumnProfile, Snapshot

Array = np.ndarray[Any, Any]


class FormulaEngine:
    """Answers with a formula of the batch."""

    device = "cpu"
    service_time_s = 1e-5

    def __init__(self, formula: Callable[[Batch], Array], output: str = "approve") -> None:
        self._formula, self._output = formula, output

    def run(self, batch: Batch) -> dict[str, Array]:
        return {self._output: self._formula(batch)}

    def warm(self, rows: int = 1) -> None: ...

    def close(self) -> None: ...


def loan_contract() -> Contract:
    return Contract(
        inputs={
            "income": Number(min=-10, max=10),
            "debt": Number(min=-10, max=10, nullable=True),
            "late": Integer(min=0, max=6),
            "home": Category(["own", "rent"], nullable=True),
        },
        outputs={"approve": Number(min=0, max=1)},
        key="id",
    )


def logistic(batch: Batch) -> Array:
    debt = np.nan_to_num(batch.column("debt"))
    z = batch.column("income") - 0.5 * debt - 0.2 * batch.column("late") + 0.5
    return 1 / (1 + np.exp(-z))


def loans(rows: int = 600, *, seed: int = 1) -> pd.DataFrame:
    """Labels are drawn from `logistic`, so that it is the right model of them."""
    source = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"a{row}" for row in range(rows)],
            "income": source.normal(0, 1.5, rows).clip(-10, 10),
            "debt": source.normal(0, 1.5, rows).clip(-10, 10),
            "late": source.integers(0, 4, rows),
            "home": source.choice(["own", "rent"], rows),
            "sex": source.choice(["f", "m"], rows),
        }
    )
    z = frame["income"] - 0.5 * frame["debt"] - 0.2 * frame["late"] + 0.5
    frame["approve"] = (source.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    frame.loc[::7, "debt"] = None
    return frame


def snapshot_of(frame: pd.DataFrame) -> Snapshot:
    return Snapshot(
        kind="frame",
        location="loans",
        rows=len(frame),
        duplicate_rows=int(frame.duplicated().sum()),
        columns={
            str(name): ColumnProfile(
                dtype=str(column.dtype),
                nulls=int(column.isna().sum()),
                distinct=int(column.nunique()),
            )
            for name, column in frame.items()
        },
        digest="0" * 64,
        taken_s=0.0,
    )


def loan_candidate(frame: pd.DataFrame | None = None, **changes: Any) -> Candidate:
    """A good candidate; `changes` make it worse."""
    frame = loans() if frame is None else frame
    contract = loan_contract()
    rows = len(frame)
    z = frame["income"] - 0.5 * frame["debt"].fillna(0) - 0.2 * frame["late"] + 0.5
    good = Candidate(
        ref="loan:2",
        contract=contract,
        folder=Path("nowhere"),
        artifact=Artifact(digest="0" * 64, engine="onnx", size_bytes=1),
        engine=FormulaEngine(logistic),
        holdout=frame,
        label="approve",
        output="approve",
        protected=("sex",),
        kind="binary",
        scores=(1 / (1 + np.exp(-z))).to_numpy(np.float64) if rows else np.empty(0),
        snapshot=snapshot_of(frame),
        train_rows=rows,
        importances={"income": 0.2, "debt": 0.05, "late": 0.01, "home": 0.0},
    )
    return replace(good, **changes)
