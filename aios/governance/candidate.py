"""What a gate is given: a version that wants to serve, and what it is measured against."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aios.contracts import Contract
from aios.errors import UsageError
from aios.models import Engine
from aios.records import Artifact, Snapshot

if TYPE_CHECKING:
    import pandas

Array = np.ndarray[Any, Any]
Kind = Literal["binary", "regression"]


@dataclass(frozen=True)
class Candidate:
    """A version with everything that can be checked about it.

    Attributes:
        ref: how messages call it, such as `loan:7`.
        contract: what it takes and gives.
        folder: its artifact's folder.
        artifact: what the folder must be.
        engine: the artifact, loaded.
        holdout: rows that neither search nor fit has seen, with all columns: inputs, label,
            protected attributes, key.
        label: the column that it predicts.
        output: the contract's output that predicts it.
        protected: columns by which fairness is measured.
        kind: `binary` if the label has two values, else `regression`.
        scores: its output for each row of the holdout, shape (rows,).
        snapshot: the data it was made from.
        train_rows: how many rows it was fitted on.
        importances: the permutation importance of each input, if computed.
        card_missing: required sections that its model card lacks.
    """

    ref: str
    contract: Contract
    folder: Path
    artifact: Artifact
    engine: Engine
    holdout: "pandas.DataFrame"
    label: str
    output: str
    protected: tuple[str, ...]
    kind: Kind
    scores: Array
    snapshot: Snapshot
    train_rows: int
    importances: Mapping[str, float] | None = None
    card_missing: tuple[str, ...] = ()

    @property
    def labels(self) -> Array:
        """The label as float64, shape (rows,); 0 and 1 if binary.

        Raises:
            UsageError: the holdout lacks the label, or it is not of this kind.
        """
        if self.label not in self.holdout.columns:
            raise UsageError(f'{self.ref}: the holdout has no column "{self.label}"')
        return read_labels(self.kind, self.holdout[self.label], self.label)

    def fault(self) -> str | None:
        """Why its scores say nothing, whatever the question; None if they do."""
        rows = len(self.holdout)
        if self.scores.shape != (rows,):
            return f"the scores have shape {self.scores.shape} for {rows} rows of the holdout"
        broken = int((~np.isfinite(self.scores)).sum())
        if broken:
            return f"{broken} of {rows} scores are NaN or infinite"
        return None


@dataclass(frozen=True)
class Stable:
    """The version that serves now, and its scores on the candidate's holdout, shape (rows,);
    None where it cannot answer those rows."""

    ref: str
    contract: Contract
    scores: Array | None


@dataclass(frozen=True)
class Context:
    """What a candidate is measured against.

    Attributes:
        stable: the version that serves now; None before the first.
        metric: what search maximised or minimised.
        deadline_s: the endpoint's time for one answer; None if it has no endpoint.
        seed: of every draw that a gate makes, so that it finds the same again.
    """

    stable: Stable | None = None
    metric: str = "auc"
    deadline_s: float | None = None
    seed: int = 0


def read_labels(kind: Kind, values: Any, name: str = "label") -> Array:
    """A label as float64, shape (rows,). For `binary` the values are 0 and 1, booleans, or
    any two, of which the larger stands for 1, as in scikit-learn.

    Raises:
        UsageError: there are none, some are null, or they are not of this kind.
    """
    import pandas

    column = pandas.Series(values)
    if column.empty:
        raise UsageError(f'there are no rows with the label "{name}"')
    nulls = int(column.isna().sum())
    if nulls:
        raise UsageError(f'the label "{name}" is null in {nulls} of {len(column)} rows; drop them')
    if kind == "regression":
        if not pandas.api.types.is_numeric_dtype(column):
            raise UsageError(f'the label "{name}" is {column.dtype}; regression needs numbers')
        numbers: Array = column.to_numpy(dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise UsageError(f'the label "{name}" holds infinity; drop those rows')
        return numbers
    found = sorted(column.unique().tolist())
    if set(found) <= {0, 1}:
        found = [0, 1]
    if len(found) != 2:
        shown = ", ".join(map(repr, found[:5]))
        raise UsageError(f'the label "{name}" has {len(found)} values ({shown}); binary has two')
    is_one: Array = (column == found[1]).to_numpy(dtype=np.float64)
    return is_one
