"""What every engine is, and what engines share: outputs by name, failures, warming, timing."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from aios.contracts import Batch, Contract
from aios.errors import ModelFailed
from aios.models.manifest import ColumnInput, Manifest, OutputSource
from aios.models.synthetic import synthetic_batch

Array = np.ndarray[Any, Any]

_WARM_SEEDS = 8
_TIMED_RUNS = 30
_TIMING_BUDGET_S = 0.25
"""Enough runs for a median of a fast model, and never more than a moment for a slow one."""


class Engine(Protocol):
    """A loaded version that answers batches.

    `run` is called from one thread or from a pool: engines hold no state between calls.
    `service_time_s` is the median time of a warmed batch of one row, measured at load.
    """

    device: str
    service_time_s: float

    def run(self, batch: Batch) -> dict[str, Array]:
        """The contract's outputs by name, [rows] each ([rows, *shape] for tensors).

        Raises:
            ModelFailed: the model raised, or an output is missing or has another shape.
        """
        ...

    def warm(self, rows: int = 1) -> None:
        """Run made-up batches of this many rows, so that the first real one is not slow.

        Raises:
            ModelFailed: the model answers none of them.
        """
        ...

    def close(self) -> None:
        """Let go of the model's memory; `run` must not be called afterwards."""
        ...


class EngineBase:
    """Warming, timing and failures, the same for all engines."""

    def __init__(self, contract: Contract, *, ref: str, device: str) -> None:
        self._contract = contract
        self._ref = ref
        self.device = device
        self.service_time_s = float("nan")

    def run(self, batch: Batch) -> dict[str, Array]:
        raise NotImplementedError

    def warm(self, rows: int = 1) -> None:
        # A model may rightly refuse a record that is possible but absurd: it is out of order
        # only if it answers none.
        failure: ModelFailed | None = None
        answered = False
        for seed in range(_WARM_SEEDS):
            try:
                self.run(synthetic_batch(self._contract, rows, seed=seed))
            except ModelFailed as error:
                failure = error
            else:
                answered = True
                if seed:
                    break
        if not answered and failure is not None:
            raise failure

    def measure(self) -> None:
        """Set `service_time_s` from batches of one row that the model answers."""
        batches = [synthetic_batch(self._contract, 1, seed=seed) for seed in range(_WARM_SEEDS)]
        times_s: list[float] = []
        stop_s = time.perf_counter() + _TIMING_BUDGET_S
        for attempt in range(_TIMED_RUNS):
            begin_s = time.perf_counter()
            try:
                self.run(batches[attempt % len(batches)])
            except ModelFailed:
                continue
            end_s = time.perf_counter()
            times_s.append(end_s - begin_s)
            if end_s > stop_s:
                break
        if times_s:
            self.service_time_s = statistics.median(times_s)

    def close(self) -> None:
        raise NotImplementedError

    def _failed(self, error: Exception, rows: int) -> ModelFailed:
        # The text of a foreign error may hold data or paths: it goes to logs as the cause,
        # and only its type travels.
        return ModelFailed(
            f"{self._ref} raised {type(error).__name__} on a batch of {rows} rows",
            ref=self._ref,
            error=type(error).__name__,
        )

    def _bad_output(self, reason: str) -> ModelFailed:
        return ModelFailed(f"{self._ref} {reason}", ref=self._ref)


class Outputs:
    """Picks the contract's outputs from the model's, by the manifest's mapping.

    `wanted` are the model's outputs that are needed at all, in the order in which `pick`
    takes them.
    """

    def __init__(self, sources: Mapping[str, OutputSource]) -> None:
        self.wanted = list(dict.fromkeys(source.name for source in sources.values()))
        self._picks = [
            (name, self.wanted.index(source.name), source.column, source.at_most)
            for name, source in sources.items()
        ]

    def pick(self, values: Sequence[Array], rows: int) -> dict[str, Array]:
        """The contract's outputs.

        Raises:
            ValueError: an output does not have one value per row; says which.
        """
        found: dict[str, Array] = {}
        for name, index, column, at_most in self._picks:
            value = values[index]
            if column is not None:
                value = value[:, column]
            elif value.ndim == 2 and value.shape[1] == 1:
                value = value[:, 0]
            if value.shape[:1] != (rows,):
                raise ValueError(f"output {name!r} has shape {value.shape} for {rows} rows")
            if at_most is not None:
                value = np.minimum(value, at_most)
            found[name] = value
        return found


def column_values(batch: Batch, column: ColumnInput) -> Array:
    """One field of the batch as the model wants it: [rows, *column.shape] of its dtype.

    A null text becomes the empty text, since ONNX strings cannot be null.
    """
    values: Array = batch.column(column.field)
    if column.dtype == "str":
        values = np.array(["" if value is None else value for value in values], dtype=object)
    else:
        values = values.astype(column.dtype, copy=False)
    return values.reshape((len(values), *column.shape)) if column.shape else values


def misfit(manifest: Manifest, contract: Contract) -> str | None:
    """How the artifact and the contract disagree about fields, or None."""
    inputs = manifest.inputs
    if inputs.kind == "matrix":
        read = set(inputs.features)
    elif inputs.kind == "columns":
        read = {column.field for column in inputs.columns}
    else:
        read = set(contract.inputs)
    unknown = sorted(read - set(contract.inputs))
    if unknown:
        return f"the artifact reads {', '.join(unknown)}, which the contract does not have"
    missing = sorted(set(contract.outputs) - set(manifest.outputs))
    if missing:
        return f"the contract promises {', '.join(missing)}, which the artifact does not give"
    return None
