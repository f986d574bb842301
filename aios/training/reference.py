"""What drift is measured against later: what a version was trained on, and what it answers."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from aios.contracts import Boolean, Category, Contract, Tensor, Text
from aios.contracts.fields import Field
from aios.security.keyring import Keyring
from aios.telemetry import Summary
from aios.telemetry.summaries import LONGEST_TEXT
from aios.training.data import TrainingData

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = "reference_rows.json"
"""Rows of the training data, inputs only, with which recorded rows are compared: columns by name,
of what JSON has, as the prediction log has them."""
REFERENCE_ROWS = 2_000
MOST_CELLS = 400_000
"""Rows by fields, so that the file has some megabytes at most."""
_DRAW = "_draw"


def sample_rows(train: TrainingData, rows: int) -> "pd.DataFrame":
    """Some training rows in random order, each as likely as any other: files are often sorted."""
    import pandas as pd

    draws = np.random.default_rng(0)
    kept = None
    for batch in train.batches():
        drawn = batch.assign(**{_DRAW: draws.random(len(batch))})
        kept = drawn if kept is None else pd.concat([kept, drawn])
        kept = kept.nsmallest(rows, _DRAW)
    assert kept is not None
    return kept.drop(columns=_DRAW).reset_index(drop=True)


def reference_rows(sample: "pd.DataFrame", contract: Contract) -> dict[str, list[Any]]:
    """The inputs of a sample as JSON's values, tensors and private fields left out; texts are cut
    as summaries cut them, and infinite numbers, which JSON lacks, are null."""
    fields = {
        name: one
        for name, one in contract.inputs.items()
        if not isinstance(one, Tensor) and one.private is None
    }
    some = sample.head(MOST_CELLS // max(len(fields), 1))
    found = {}
    for name, field in fields.items():
        values = _values(some[name], field)
        if isinstance(values, np.ndarray):
            values = [value if math.isfinite(value) else None for value in values.tolist()]
        found[name] = [one[:LONGEST_TEXT] if isinstance(one, str) else one for one in values]
    return found


def training_reference(
    train: TrainingData,
    contract: Contract,
    output: str,
    scores: "np.ndarray[Any, Any]",
    keyring: Keyring | None = None,
) -> dict[str, dict[str, Any]]:
    """Summaries of the features as they were fitted on, and of the scores of the holdout.

    Args:
        train: the rows, read in batches.
        output: the output that the scores are of, shape [rows of the holdout].
        keyring: hashes private fields, as replicas hash them; without it they are left out.

    Returns:
        `{"inputs", "outputs"}`, each with `telemetry.Summary.to_json` by field. Tensors are left
        out, as replicas leave them out.
    """
    fields = {
        name: one
        for name, one in contract.inputs.items()
        if not isinstance(one, Tensor) and _kept(one, keyring)
    }
    inputs = {name: Summary("text" if _named(one) else "number") for name, one in fields.items()}
    for frame in train.batches():
        for name, summary in inputs.items():
            summary.add(_hidden(_values(frame[name], fields[name]), fields[name], keyring))
    outputs = {}
    answers = contract.outputs[output]
    if _kept(answers, keyring):
        outputs[output] = Summary("text" if answers.private else "number")
        outputs[output].add(_hidden(np.asarray(scores), answers, keyring))
    return {
        "inputs": {name: summary.to_json() for name, summary in inputs.items()},
        "outputs": {name: summary.to_json() for name, summary in outputs.items()},
    }


def _kept(field: Field, keyring: Keyring | None) -> bool:
    return field.private is None or (field.private == "hash" and keyring is not None)


def _hidden(values: Any, field: Field, keyring: Keyring | None) -> Any:
    """Hashes of a private field's values; others as they are."""
    if field.private is None or keyring is None:
        return values
    return keyring.hashed_all(values.tolist() if isinstance(values, np.ndarray) else values)


def _named(field: Field) -> bool:
    """Whether a replica tells this field's values apart by name."""
    return field.private is not None or _spelled(field)


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
