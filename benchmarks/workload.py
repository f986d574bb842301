"""The model, the requests and the right answers: the same for every contestant."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import aios
from aios.models import build
from aios.models.manifest import MANIFEST_NAME, ONNX_FILE, Manifest, MatrixInput
from benchmarks.scorer import OUTPUT, Graph, Scorer

SYNTHETIC_FEATURES = 15
SYNTHETIC_ROWS = 2_000


@dataclass(frozen=True)
class Workload:
    """What is asked of every contestant.

    `bodies` hold one record each as JSON; `expected` are the scores that the same ONNX file
    gives outside of any server.
    """

    name: str
    estimator: Any
    contract: aios.Contract
    sample: Any
    graph: Graph
    bodies: tuple[bytes, ...]
    expected: tuple[float, ...]


def prepare(folder: Path) -> Workload:
    """Train, convert and score: the loan data, or made-up data where these cannot be had.

    Args:
        folder: where the ONNX file goes.
    """
    try:
        name, estimator, contract, sample, records = _loans()
    except (ImportError, aios.UsageError):
        name, estimator, contract, sample, records = _synthetic()
    built = build(estimator, contract, sample, folder)
    manifest = Manifest.model_validate_json((built.folder / MANIFEST_NAME).read_bytes())
    if not isinstance(manifest.inputs, MatrixInput):
        raise aios.Unsupported("the benchmark's peers take models with one matrix input only")
    source = manifest.outputs[OUTPUT]
    graph = Graph(
        path=str(built.folder / ONNX_FILE),
        input_name=manifest.inputs.name,
        features=manifest.inputs.features,
        output_name=source.name,
        column=source.column or 0,
    )
    return Workload(
        name=name,
        estimator=estimator,
        contract=contract,
        sample=sample,
        graph=graph,
        bodies=tuple(orjson.dumps(record) for record in records),
        expected=tuple(Scorer(graph).score(records)),
    )


_Parts = tuple[str, Any, aios.Contract, Any, list[dict[str, Any]]]


def _loans() -> _Parts:
    from apps.loan_approval import data, training

    frame = data.load()
    train, holdout = data.split(frame)
    sample = holdout[[data.KEY, *data.FEATURES]].head(200)
    contract = aios.Contract(**data.contract_fields())
    name = f"logistic regression, loan data, {len(data.FEATURES)} features"
    return name, training.logistic(train), contract, sample, data.records(frame)


def _synthetic() -> _Parts:
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(7)
    names = [f"x{i:02d}" for i in range(SYNTHETIC_FEATURES)]
    frame = pd.DataFrame(random.normal(size=(SYNTHETIC_ROWS, len(names))), columns=names)
    labels = (frame.sum(axis=1) > 0).astype(int)
    contract = aios.Contract(
        inputs={name: aios.Number(min=-100, max=100) for name in names},
        outputs={OUTPUT: aios.Number(min=0, max=1)},
        key="id",
    )
    rows: list[dict[str, Any]] = frame.to_dict("records")
    records = [{"id": f"row-{number}", **row} for number, row in enumerate(rows)]
    name = f"logistic regression, made-up data, {len(names)} features"
    return name, LogisticRegression().fit(frame, labels), contract, frame.head(200), records
