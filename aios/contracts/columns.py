"""The vectorised path: a whole column is checked at once.

Each reader first tries numpy on the whole column. Where that says no, the same column goes
value by value through `Field.check`, the reference, which either names the faults or takes
the column after all. So this path accepts exactly what the reference accepts.
"""

from typing import Any

import numpy as np

from aios.contracts.fields import (
    EXACT_INTEGER_MAX,
    INT64_MAX,
    Boolean,
    Category,
    Field,
    Integer,
    Number,
    RefusedValue,
    Text,
    object_column,
    sound_text,
)
from aios.contracts.tensor import Tensor, tensor_rows
from aios.contracts.violations import MOST_TOLD, Faults

Array = np.ndarray[Any, Any]
_NULL = type(None)


def read_list(name: str, field: Field, values: list[Any], faults: Faults, order: int) -> Array:
    """A column of Python values as the field's array; what does not fit goes to `faults`.

    The result means nothing for a column with faults.
    """
    column = _fast_list(field, values)
    return _by_reference(name, field, values, faults, order) if column is None else column


def read_array(name: str, field: Field, array: Array, faults: Faults, order: int) -> Array:
    """A column that came as an array [rows] of another dtype, such as FP32 for a Number.

    NaN counts as null. The caller has checked that the dtype suits the field.
    """
    column = _fast_array(field, array)
    if column is not None:
        return column
    return _by_reference(name, field, array.tolist(), faults, order)


def _by_reference(name: str, field: Field, values: list[Any], faults: Faults, order: int) -> Array:
    taken: list[Any] = []
    refused = 0
    for row, value in enumerate(values):
        try:
            taken.append(field.check(value))
        except RefusedValue as refusal:
            refused += 1
            if refused > MOST_TOLD:
                faults.truncate()
                break
            faults.refuse(row, name, value, refusal, field.describe(), order)
    if refused:
        return np.empty(0)
    if field.shape:
        return np.stack(taken)
    dtype = field.column_dtype
    return object_column(taken) if dtype.kind == "O" else np.array(taken, dtype=dtype)


def _fast_list(field: Field, values: list[Any]) -> Array | None:
    if isinstance(field, Tensor):
        try:
            return tensor_rows(values, field.shape, field.dtype)
        except RefusedValue:
            return None
    kinds = set(map(type, values))
    nulls = _NULL in kinds
    if nulls:
        if not field.nullable:
            return None
        kinds.discard(_NULL)
    try:
        return _fast_scalars(field, values, kinds, nulls)
    except OverflowError:
        return None


def _fast_scalars(field: Field, values: list[Any], kinds: set[type], nulls: bool) -> Array | None:
    if isinstance(field, Number):
        if kinds <= {float, int}:
            return _within(field, np.array(values, dtype=np.float64))
    elif isinstance(field, Integer):
        if kinds == {int} and not nulls:
            return _whole_within(field, np.array(values, dtype=np.int64))
        if kinds <= {float, int}:
            return _integral_within(field, np.array(values, dtype=np.float64))
    elif isinstance(field, Boolean):
        if kinds <= {bool}:
            return np.array(values, dtype=field.column_dtype)
    elif isinstance(field, Text):
        if kinds <= {str}:
            return _texts(field, values)
    elif isinstance(field, Category) and kinds <= {field.value_type}:
        if not set(values) <= {*field.values, None}:
            return None
        if field.value_type is str:
            return object_column(values)
        return np.array(values, dtype=field.column_dtype)
    return None


def _fast_array(field: Field, array: Array) -> Array | None:
    kind = array.dtype.kind
    if kind == "O":
        return _fast_list(field, array.tolist())
    if kind == "b":
        if isinstance(field, Boolean):
            return array.astype(field.column_dtype, copy=False)
        return None
    if isinstance(field, Number):
        return _within(field, array.astype(np.float64, copy=False))
    if isinstance(field, Integer):
        if kind == "f":
            return _integral_within(field, array.astype(np.float64, copy=False))
        if kind == "u" and array.dtype.itemsize == 8 and array.max() > INT64_MAX:
            return None
        return _whole_within(field, array.astype(np.int64, copy=False))
    if not isinstance(field, Category) or field.value_type is not int or kind not in "iu":
        return None
    return array.astype(field.column_dtype) if np.isin(array, field.values).all() else None


def _within(field: Number, array: Array) -> Array | None:
    low, high = field.limits
    inside = (array >= low) & (array <= high)
    if inside.all() or (field.nullable and (inside | np.isnan(array)).all()):
        return array
    return None


def _whole_within(field: Integer, array: Array) -> Array | None:
    low, high = field.limits
    if array.min() < low or array.max() > high:
        return None
    return array.astype(field.column_dtype, copy=False)


def _integral_within(field: Integer, array: Array) -> Array | None:
    exact = (np.abs(array) <= EXACT_INTEGER_MAX) & (array == np.floor(array))
    low, high = field.limits
    inside = exact & (array >= low) & (array <= high)
    if field.nullable:
        return array if (inside | np.isnan(array)).all() else None
    return array.astype(np.int64) if inside.all() else None


def _texts(field: Text, values: list[Any]) -> Array | None:
    present = [value for value in values if value is not None] if field.nullable else values
    if present and max(map(len, present)) > field.max_length:
        return None
    return object_column(values) if sound_text("".join(present)) else None
