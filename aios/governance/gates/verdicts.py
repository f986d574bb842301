"""How gates say what they found, and what must hold before any of them can judge."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aios.errors import NotEnoughEvidence, UsageError
from aios.governance.candidate import Array, Candidate
from aios.records import GateResult, Outcome


def verdict(
    gate: str,
    outcome: Outcome,
    reason: str,
    value: float | None = None,
    threshold: float | None = None,
    **evidence: Any,
) -> GateResult:
    """A result whose numbers are plain JSON; what is not finite becomes null."""
    return GateResult(
        gate=gate,
        outcome=outcome,
        value=plain(value),
        threshold=plain(threshold),
        reason=reason,
        evidence=plain(evidence),
    )


def plain(value: Any) -> Any:
    """The value as JSON has it: arrays as lists, what is not finite as null."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judged_rows(candidate: Candidate, *, min_class_rows: int = 1) -> tuple[Array, Array]:
    """Labels and scores of the holdout, both float64 of shape (rows,).

    Raises:
        NotEnoughEvidence: the holdout is empty, or has too few rows of a class.
        UsageError: scores are NaN or infinite, or the label cannot be read.
    """
    if not len(candidate.holdout):
        raise NotEnoughEvidence("the holdout has no rows; give more data")
    labels = candidate.labels
    fault = candidate.fault()
    if fault:
        raise UsageError(fault)
    if candidate.kind == "binary":
        for value in (0, 1):
            rows = int((labels == value).sum())
            if rows < min_class_rows:
                raise NotEnoughEvidence(
                    f'the holdout has {rows} of {len(labels)} rows with the label "'
                    f'{candidate.label}" at {value}; at least {min_class_rows} are needed'
                )
    elif len(labels) < min_class_rows:
        raise NotEnoughEvidence(
            f"the holdout has {len(labels)} rows; at least {min_class_rows} are needed"
        )
    return labels, candidate.scores.astype(np.float64)
