"""A frame through an engine: scores of all rows, and how much each input matters to them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from aios.contracts import Batch, Contract
from aios.errors import ArtifactRejected, ContractViolation, UsageError
from aios.governance.candidate import Array, Kind, read_labels
from aios.governance.statistics import auc
from aios.models import Engine
from aios.models.sample import MAX_SAMPLE_ROWS, sample_batch

if TYPE_CHECKING:
    import pandas

_PERMUTED_ROWS = 5_000
_PERMUTATIONS = 5
"""Beyond these an importance hardly changes, and the time grows with each."""


def frame_batch(contract: Contract, frame: "pandas.DataFrame") -> Batch:
    """All rows of a frame as a batch; columns that the contract does not know are left out.

    Raises:
        UsageError: the frame is empty or lacks an input.
        ContractViolation: rows do not fit the contract; names row, field and value. Rows
            count from 0 in the frame's order.
    """
    missing = [name for name in contract.inputs if name not in frame.columns]
    if missing:
        raise UsageError(
            f"the data lack the inputs {', '.join(missing)}; they have "
            f"{', '.join(map(str, frame.columns[:20]))}"
        )
    if not len(frame):
        raise UsageError("the data have no rows; nothing can be scored")
    inputs = frame[list(contract.inputs)]
    parts = []
    for start in range(0, len(frame), MAX_SAMPLE_ROWS):
        try:
            parts.append(sample_batch(inputs.iloc[start : start + MAX_SAMPLE_ROWS], contract))
        except ArtifactRejected as error:
            raise _refusal(error, start) from error
    return Batch.concat(parts)


def _refusal(error: ArtifactRejected, start: int) -> ContractViolation:
    faults = [
        {**fault, "row": None if fault["row"] is None else fault["row"] + start}
        for fault in error.details.get("violations", ())
    ]
    told = "; ".join(
        f'row {fault["row"]}, field "{fault["field"]}": {fault["value"]} {fault["reason"]}'
        for fault in faults[:3]
    )
    return ContractViolation(
        f"the data do not fit the contract: {told}; clean those rows in the recipe's features, "
        "or widen the contract",
        violations=faults,
    )


def score_frame(
    engine: Engine, contract: Contract, frame: "pandas.DataFrame", output: str
) -> Array:
    """One output of the model for each row, as float64 of shape (rows,).

    What the model gives is not judged: NaN stays NaN, and the gates fail on it.

    Raises:
        UsageError: the frame is empty or lacks an input, or there is no such output.
        ContractViolation: a row does not fit the contract.
        ModelFailed: the model raised.
    """
    if output not in contract.outputs:
        raise UsageError(f'no output "{output}"; there are {", ".join(contract.outputs)}')
    return run_batch(engine, frame_batch(contract, frame), output)


def run_batch(engine: Engine, batch: Batch, output: str) -> Array:
    """One output for each row of a batch of any size, as float64 of shape (rows,).

    Raises:
        UsageError: the output is no number per row.
        ModelFailed: the model raised.
    """
    parts = [
        engine.run(batch.slice(start, start + MAX_SAMPLE_ROWS))[output]
        for start in range(0, batch.rows, MAX_SAMPLE_ROWS)
    ]
    found = np.concatenate(parts)
    try:
        return found.astype(np.float64).reshape(batch.rows)
    except (TypeError, ValueError):
        raise UsageError(
            f'the output "{output}" is {found.dtype} of shape {found.shape} for {batch.rows} rows; '
            "a score is one number per row"
        ) from None


def permutation_importance(
    engine: Engine,
    frame: "pandas.DataFrame",
    contract: Contract,
    label: str,
    output: str,
    kind: Kind,
    seed: int,
) -> dict[str, float]:
    """How much worse the scores get when one input is shuffled among the rows: the loss of AUC,
    or for regression of R². Of at most 5,000 rows, the mean of 5 shufflings.

    A. Fisher, C. Rudin, F. Dominici (2019), "All models are wrong, but many are useful",
    JMLR 20(177), after L. Breiman (2001), "Random forests", section 10. Inputs that say the
    same share their importance, so that each alone may look unimportant.

    Raises:
        UsageError: the frame is empty or lacks a column, or the label has one value only.
        ContractViolation: a row does not fit the contract.
    """
    if label not in frame.columns:
        raise UsageError(f'the data have no column "{label}", which is said to be the label')
    source = np.random.default_rng(seed)
    if len(frame) > _PERMUTED_ROWS:
        frame = frame.iloc[np.sort(source.choice(len(frame), _PERMUTED_ROWS, replace=False))]
    labels = read_labels(kind, frame[label], label)
    if np.ptp(labels) == 0:
        raise UsageError(
            f'the label "{label}" has one value only in {len(labels)} rows, so that no input can '
            "matter; give rows with both"
        )
    batch = frame_batch(contract, frame)
    columns = {name: batch.column(name) for name in batch.names}
    base = _worth(kind, labels, run_batch(engine, batch, output))
    return {
        name: base
        - float(
            np.mean(
                [
                    _worth(kind, labels, run_batch(engine, shuffled, output))
                    for shuffled in _shufflings(batch, columns, name, source)
                ]
            )
        )
        for name in batch.names
    }


def _shufflings(
    batch: Batch, columns: Mapping[str, Array], name: str, source: np.random.Generator
) -> list[Batch]:
    return [
        with_columns(batch, {**columns, name: source.permutation(columns[name])})
        for _ in range(_PERMUTATIONS)
    ]


def with_columns(batch: Batch, columns: Mapping[str, Array]) -> Batch:
    """The batch with these columns, each of the dtype and within the range of its field."""
    return Batch(batch.layout, batch.rows, batch.keys, columns=dict(columns))


def _worth(kind: Kind, labels: Array, scores: Array) -> float:
    if not np.isfinite(scores).all():
        return float("nan")
    if kind == "binary":
        return auc(labels, scores)
    return 1.0 - float(np.mean((labels - scores) ** 2)) / float(np.var(labels))
