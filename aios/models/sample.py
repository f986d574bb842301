"""Sample rows as users have them - a frame, records, a matrix - as a checked batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aios.contracts import Batch, Codec, Contract
from aios.errors import ArtifactRejected, ContractViolation, UsageError

MAX_SAMPLE_ROWS = 10_000
"""More rows make a conversion check slower, not better."""

_TAKEN = "a DataFrame, a list of records, a dict of columns, a 2-D array, or a Batch"


def sample_batch(sample: Any, contract: Contract) -> Batch:
    """The sample as a batch of the contract.

    Columns that the contract does not know, such as labels, are left out; NaN and None mean
    null. Only the first `MAX_SAMPLE_ROWS` rows are taken.

    Raises:
        UsageError: the sample is of another kind, empty, or lacks a column.
        ArtifactRejected: a row does not fit the contract; names row, field and value.
    """
    records = sample.records() if isinstance(sample, Batch) else _records(sample, contract)
    if not records:
        raise UsageError(f"the sample has no rows; give at least one, as {_TAKEN}")
    if not all(isinstance(record, Mapping) for record in records):
        raise UsageError(f"the sample must be {_TAKEN}")
    missing = sorted(set(contract.inputs) - set(records[0]))
    if missing:
        raise UsageError(
            f"the sample lacks the inputs {', '.join(missing)}; it has "
            f"{', '.join(sorted(map(str, records[0]))[:20])}"
        )
    kept = [
        {name: _plain(record.get(name)) for name in contract.inputs}
        for record in records[:MAX_SAMPLE_ROWS]
    ]
    return _validated(kept, contract)


def with_null_rows(batch: Batch, contract: Contract) -> Batch:
    """The batch and, for each nullable input that is never null in it, its first row with
    that input null: what a contract allows, a conversion must get right."""
    records = batch.records()
    extra = [
        {**records[0], name: None}
        for name, field in contract.inputs.items()
        if field.nullable and all(record[name] is not None for record in records)
    ]
    if not extra:
        return batch
    return Batch.concat([batch, _validated(extra, contract)])


def _validated(records: list[dict[str, Any]], contract: Contract) -> Batch:
    try:
        return Codec(contract, max_rows=max(len(records), 1)).validate_records(records)
    except ContractViolation as error:
        raise ArtifactRejected(
            f"the sample does not fit the contract: {error.message}", **error.details
        ) from error


def _records(sample: Any, contract: Contract) -> list[dict[str, Any]]:
    if hasattr(sample, "to_dict") and hasattr(sample, "columns"):
        records: list[dict[str, Any]] = sample.to_dict("records")
        return records
    if isinstance(sample, Mapping):
        return _from_columns({str(name): list(values) for name, values in sample.items()})
    if isinstance(sample, np.ndarray):
        return _from_array(sample, contract)
    if isinstance(sample, list | tuple):
        return list(sample)
    raise UsageError(f"a sample of {type(sample).__name__} cannot be read; give {_TAKEN}")


def _from_columns(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"the sample's columns differ in length: {lengths}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _from_array(array: np.ndarray[Any, Any], contract: Contract) -> list[dict[str, Any]]:
    names = list(contract.inputs)
    only = contract.inputs[names[0]]
    if len(names) == 1 and only.shape and array.shape[1:] == only.shape:
        return [{names[0]: value.tolist()} for value in array]
    if array.ndim != 2 or array.shape[1] != len(names):
        raise UsageError(
            f"the sample is an array of shape {array.shape}; the contract has {len(names)} "
            f"inputs, in this order: {', '.join(names)}"
        )
    return [dict(zip(names, row, strict=True)) for row in array.tolist()]


def _plain(value: Any) -> Any:
    """A Python value: numpy scalars and arrays unwrapped, NaN and pandas' NA as None."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and value != value):
        return None
    return None if type(value).__name__ in ("NAType", "NaTType") else value
