"""What a model gave: checked against the contract, and written as records."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from aios.contracts.batch import python_values
from aios.contracts.columns import read_array
from aios.contracts.fields import Field, Number, RefusedValue
from aios.contracts.tensor import Tensor
from aios.contracts.violations import Faults

Array = np.ndarray[Any, Any]

FLOAT32_SLACK = 4 * float(np.finfo(np.float32).eps)
"""Engines compute in 32 bits: a probability may come out as 1.0000001. A 32-bit output may
pass its limit by four roundings of the limit (or of 1, where the limit is smaller)."""

_FEW = 16
"""Up to here a loop in Python is faster than numpy's fixed cost."""


Range = tuple[float, float]
Ranges = Mapping[str, tuple[Range, Range]]


def ranges(fields: Mapping[str, Field]) -> Ranges:
    """The limits of each Number, for 64-bit outputs and for those of fewer bits."""
    return {
        name: (field.limits, _widened(field))
        for name, field in fields.items()
        if isinstance(field, Number)
    }


def check(
    fields: Mapping[str, Field], known: Ranges, found: Mapping[str, Array], rows: int
) -> None:
    """See `Codec.check_outputs`. `known` are the `ranges` of the fields."""
    faults: Faults | None = None
    for order, (name, field) in enumerate(fields.items()):
        given = found.get(name)
        limits = known.get(name)
        if limits and isinstance(given, np.ndarray) and _quickly_right(limits, given, rows):
            continue
        if faults is None:
            faults = Faults("the model's output:")
        _check_one(name, field, given, rows, faults, order)
    if faults is not None:
        faults.raise_if_any()


def _quickly_right(limits: tuple[Range, Range], array: Array, rows: int) -> bool:
    shape, dtype = array.shape, array.dtype
    if (shape != (rows,) and shape != (rows, 1)) or dtype.kind not in "fiu":
        return False
    low, high = limits[_is_narrow(dtype)]
    if rows == 1:
        return bool(low <= array.item() <= high)
    if rows <= _FEW:
        return all(low <= value <= high for value in array.ravel().tolist())
    return bool(array.min() >= low and array.max() <= high)


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" and dtype.itemsize < 8


def _widened(field: Number) -> Range:
    """The limits of a Number for an output of 32 bits or fewer."""
    low, high = field.limits
    if field.min is not None:
        low -= FLOAT32_SLACK * max(1.0, abs(low))
    if field.max is not None:
        high += FLOAT32_SLACK * max(1.0, abs(high))
    return low, high


def _check_one(name: str, field: Field, given: Any, rows: int, faults: Faults, order: int) -> None:
    allowed = field.describe()
    if given is None:
        faults.add(None, name, None, "was given: the output is missing", allowed, order)
        return
    array = np.asarray(given)
    shape = (rows, *field.shape)
    if array.shape != shape and (field.shape or array.shape != (rows, 1)):
        reason = f"came where {list(shape)} was expected"
        faults.add(None, name, array, reason, allowed, order)
        return
    if isinstance(field, Tensor):
        _check_tensor(name, field, array, faults, order)
        return
    flat = array.reshape(-1)
    if flat.dtype.kind in "US":
        flat = flat.astype(object)
    if isinstance(field, Number) and flat.dtype.kind == "f":
        low, high = _widened(field) if _is_narrow(flat.dtype) else field.limits
        near = (flat >= low) & (flat <= high)
        flat = np.where(near, np.clip(flat.astype(np.float64), *field.limits), flat)
    read_array(name, field, flat, faults, order)


def _check_tensor(name: str, field: Tensor, array: Array, faults: Faults, order: int) -> None:
    wanted = field.column_dtype
    if wanted.kind == "O":
        for row, element in enumerate(array.tolist()):
            try:
                field.check(element)
            except RefusedValue as refusal:
                faults.refuse(row, name, array[row], refusal, field.describe(), order)
                return
    elif array.dtype.kind != wanted.kind:
        faults.add(None, name, array, f"is of {array.dtype}", field.describe(), order)
    elif wanted.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0]
        reason = "is not a finite number"
        faults.add(int(bad[0]), name, array[tuple(bad)], reason, field.describe(), order)


def conform(field: Field, given: Any) -> Array:
    """A checked output as [rows] or [rows, *shape], in the dtype of its field."""
    array = np.asarray(given)
    if not field.shape:
        array = array.reshape(-1)
    return array.astype(field.column_dtype, copy=False)


def values_of(field: Field, given: Any) -> list[Any]:
    """A checked output as JSON values, one per row; None for null."""
    if type(field) is Number and not field.nullable and _is_plain(given):
        plain: list[Any] = given.tolist()
        return plain
    array = conform(field, given)
    reader = {"INT64": "int", "BOOL": "bool"}.get(field.datatype, "")
    if field.nullable and array.dtype.kind == "f":
        return python_values(array, reader or "float")
    values: list[Any] = array.tolist()
    return values


def _is_plain(given: Any) -> bool:
    """Whether numpy's own list of it is what JSON needs: the usual case, in a tenth of the time."""
    return (
        isinstance(given, np.ndarray)
        and given.ndim == 1
        and given.dtype.kind == "f"
        and given.dtype.itemsize <= 8
    )


def encode_records(
    fields: Mapping[str, Field], found: Mapping[str, Array], meta: Mapping[str, Any]
) -> bytes:
    """See `Codec.encode_records`."""
    names = tuple(fields)
    columns = [values_of(field, found[name]) for name, field in fields.items()]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return orjson.dumps({"outputs": rows, **meta})
