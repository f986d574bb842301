"""What drift is measured against later: what a version was trained on, and what it answers."""

from typing import TYPE_CHECKING, Any

import numpy as np

from aios.contracts import Boolean, Category, Contract, Tensor, Text
from aios.contracts.fields import Field
from aios.telemetry import Summary
from aios.training.data import TrainingData

if TYPE_CHECKING:
    import pandas as pd


def training_reference(
    train: TrainingData, contract: Contract, output: str, scores: "np.ndarray[Any, Any]"
) -> dict[str, dict[str, Any]]:
    """Summaries of the features as they were fitted on, and of the scores of the holdout.

    Args:
        train: the rows, read in batches.
        output: the output that the scores are of, shape [rows of the holdout].

    Returns:
        `{"inputs", "outputs"}`, each with `telemetry.Summary.to_json` by field. Tensors are left
        out, as replicas leave them out.
    """
    fields = {name: one for name, one in contract.inputs.items() if not isinstance(one, Tensor)}
    inputs = {name: Summary("text" if _spelled(one) else "number") for name, one in fields.items()}
    for frame in train.batches():
        for name, summary in inputs.items():
            summary.add(_values(frame[name], fields[name]))
    answered = Summary("number")
    answered.add(np.asarray(scores))
    return {
        "inputs": {name: summary.to_json() for name, summary in inputs.items()},
        "outputs": {output: answered.to_json()},
    }


def _spelled(field: Field) -> bool:
    """Whether a replica tells this field's values apart by how they are spelled."""
    if isinstance(field, Category):
        return not isinstance(field.values[0], int) or isinstance(field.values[0], bool)
    return isinstance(field, Boolean | Text)


def _values(column: "pd.Series[Any]", field: Field) -> Any:
    if not _spelled(field):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    values = column.astype(object).where(column.notna(), None).tolist()
    if isinstance(field, Boolean):
        return [None if value is None else bool(value) for value in values]
    return values
