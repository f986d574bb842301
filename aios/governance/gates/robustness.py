"""Whether answers hold when the input is a little off, incomplete, or impossible."""

from typing import Any

import numpy as np

from aios.contracts import Batch, Boolean, Category, Codec, Field, Integer, Number, Text
from aios.errors import ContractViolation, ModelFailed, NotEnoughEvidence
from aios.governance.candidate import Array, Candidate, Context
from aios.governance.gates.params import RobustnessParams
from aios.governance.gates.verdicts import verdict
from aios.governance.scoring import frame_batch, with_columns
from aios.records import GateResult

_MOST_ROWS = 2_000
_REPEATS = 5
_SHIFT = 0.1
"""A regression's answer counts as another one if it moves by a tenth of the answers' deviation."""


def judge_robustness(
    candidate: Candidate, context: Context, params: RobustnessParams
) -> GateResult:
    """Three probes through the candidate's own engine and contract.

    Noise: normal noise of `noise` standard deviations on every number, integers rounded and
    all kept within their limits; at most `max_flipped` of the decisions may turn (for
    regression: of the answers move by a tenth of their deviation). Missing: each optional
    input null in every row, and all of them at once, must be answered with what the contract
    promises. Impossible: a value outside of each input's range must be refused. After D.
    Hendrycks, T. Dietterich (2019), "Benchmarking neural network robustness to common
    corruptions and perturbations", ICLR, whose flip rate this is.
    """
    if not len(candidate.holdout):
        raise NotEnoughEvidence("the holdout has no rows; give more data")
    batch = frame_batch(candidate.contract, candidate.holdout.iloc[:_MOST_ROWS])
    codec = Codec(candidate.contract)
    faults = _unanswered(candidate, codec, batch, "the holdout's rows")
    if not faults:
        optional = [name for name, field in candidate.contract.inputs.items() if field.nullable]
        for names in [[name] for name in optional] + ([optional] if len(optional) > 1 else []):
            without = _without(batch, names)
            faults += _unanswered(candidate, codec, without, f"rows without {', '.join(names)}")
    faults += _taken(codec)
    flipped = None if faults else _flipped(candidate, context, params, batch)
    evidence: dict[str, Any] = {
        "rows": batch.rows,
        "noise": params.noise,
        "repeats": _REPEATS,
        "faults": faults,
        "flipped_share": flipped,
    }
    limit = params.max_flipped
    if flipped is None:
        return verdict("robustness", "failed", "; ".join(faults), None, limit, **evidence)
    told = (
        f"noise of {params.noise:g} standard deviations turns {flipped:.2%} of the answers; "
        "missing and impossible values are met as the contract says"
    )
    if flipped > limit:
        told = f"{told}; at most {limit:.2%} may turn"
        return verdict("robustness", "failed", told, flipped, limit, **evidence)
    return verdict("robustness", "passed", told, flipped, limit, **evidence)


def _unanswered(candidate: Candidate, codec: Codec, batch: Batch, what: str) -> list[str]:
    try:
        codec.check_outputs(candidate.engine.run(batch), batch.rows)
    except ContractViolation as error:
        return [f"{what}: {error.message}"]
    except ModelFailed as error:
        return [f"{what} are not answered: {error.message}"]
    return []


def _without(batch: Batch, names: list[str]) -> Batch:
    columns = {name: batch.column(name) for name in batch.names}
    for name in names:
        column = columns[name].copy()
        column[...] = None if column.dtype == object else np.nan
        columns[name] = column
    return with_columns(batch, columns)


def _flipped(
    candidate: Candidate, context: Context, params: RobustnessParams, batch: Batch
) -> float:
    source = np.random.default_rng(context.seed)
    base = _scores(candidate, batch)
    columns = {name: batch.column(name) for name in batch.names}
    shares = []
    for _ in range(_REPEATS):
        moved = {
            name: _moved(field, columns[name], params.noise, source)
            for name, field in candidate.contract.inputs.items()
        }
        scores = _scores(candidate, with_columns(batch, moved))
        if candidate.kind == "binary":
            threshold = params.decision_threshold
            shares.append(np.mean((scores >= threshold) != (base >= threshold)))
        else:
            shares.append(np.mean(np.abs(scores - base) > _SHIFT * np.std(base)))
    return float(np.mean(shares))


def _scores(candidate: Candidate, batch: Batch) -> Array:
    scores = candidate.engine.run(batch)[candidate.output]
    return scores.astype(np.float64).reshape(batch.rows)


def _moved(field: Field, column: Array, noise: float, source: np.random.Generator) -> Array:
    if not isinstance(field, Number | Integer) or np.isnan(column.astype(np.float64)).all():
        return column
    values = column.astype(np.float64)
    values = values + source.normal(0.0, 1.0, len(values)) * noise * float(np.nanstd(values))
    if isinstance(field, Integer):
        values = np.rint(values)
    return np.clip(values, *field.limits).astype(column.dtype)


def _taken(codec: Codec) -> list[str]:
    """The impossible values that the contract takes."""
    record = {name: field.example() for name, field in codec.contract.inputs.items()}
    faults = []
    for name, field in codec.contract.inputs.items():
        for value in _impossible(field):
            try:
                codec.validate_records([{**record, name: value}])
            except ContractViolation:
                continue
            faults.append(f"{name} takes {value!r}, which is not {field.describe()}")
    return faults


def _impossible(field: Field) -> list[Any]:
    wrong: list[Any] = [] if field.nullable else [None]
    if isinstance(field, Number):
        low, high = field.limits
        return [*wrong, float("inf"), np.nextafter(high, np.inf), np.nextafter(low, -np.inf), "x"]
    if isinstance(field, Integer):
        low, high = field.limits
        return [*wrong, high + 1, low - 1, "x"]
    if isinstance(field, Text):
        return [*wrong, "x" * (field.max_length + 1), 1]
    if isinstance(field, Category | Boolean):
        return [*wrong, object()]
    return wrong
