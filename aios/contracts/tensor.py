"""Tensors of fixed shape per row, and nested lists as arrays."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from aios.contracts.datatypes import DATATYPES, numpy_dtype, widens
from aios.contracts.fields import (
    Boolean,
    Category,
    Field,
    Integer,
    Number,
    Private,
    RefusedValue,
    object_column,
    sound_text,
)
from aios.errors import UsageError


@dataclass(frozen=True, init=False)
class Tensor(Field):
    """A tensor of fixed shape per row; a batch of it is [rows, *shape].

    Floats must be finite. `dtype` is an Open Inference Protocol name such as "FP32"; BF16
    is held as 32-bit floats.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "FP32"
    private: Private | None = None
    nullable: ClassVar[bool] = False  # type: ignore[misc]
    kind: ClassVar[str] = "tensor"

    def __init__(
        self, shape: Iterable[int], dtype: str = "FP32", private: Private | None = None
    ) -> None:
        if not isinstance(shape, Iterable):
            raise UsageError(f"Tensor takes the shape of one row such as (3, 224, 224): {shape!r}")
        object.__setattr__(self, "shape", tuple(shape))
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "private", private)

    def __repr__(self) -> str:
        private = "" if self.private is None else f", private={self.private!r}"
        return f"Tensor(shape={self.shape}, dtype={self.dtype!r}{private})"

    @property
    def datatype(self) -> str:
        return self.dtype

    @property
    def column_dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.dtype)

    def describe(self) -> str:
        return f"a tensor {self.dtype} of shape {list(self.shape)}"

    def _fault(self) -> str | None:
        if self.dtype not in DATATYPES:
            return f"no datatype {self.dtype!r}; there are {', '.join(DATATYPES)}"
        for size in self.shape:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                return f"shape must hold whole numbers of at least 1, not {size!r}"
        if len(self.shape) > 8 or math.prod(self.shape) > 2**31:
            return f"shape {list(self.shape)} has over 8 dimensions or over 2^31 elements"
        return None

    def _check(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = value.tolist()
        rows = tensor_rows([value], self.shape, self.dtype)
        return rows[0] if self.shape else rows.tolist()[0]

    def example(self) -> Any:
        filler: Any = {"BOOL": False, "BYTES": "a"}.get(self.dtype, 0)
        return np.full(self.shape, filler, dtype=self.column_dtype).tolist()

    def _json(self) -> dict[str, Any]:
        return {"type": self.kind, "shape": list(self.shape), "dtype": self.dtype}


def tensor_rows(rows: list[Any], shape: tuple[int, ...], datatype: str) -> np.ndarray[Any, Any]:
    """Nested lists as one array [len(rows), *shape] of the datatype.

    Raises:
        RefusedValue: the nesting differs from the shape, or an element does not fit.
    """
    level = rows
    for size in shape:
        if not set(map(type, level)) <= {list, tuple} or set(map(len, level)) != {size}:
            raise RefusedValue(f"is not nested lists of shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return tensor_elements(level, datatype).reshape(len(rows), *shape)


_ELEMENT_TYPES: dict[str, set[type]] = {
    "f": {int, float},
    "i": {int},
    "u": {int},
    "b": {bool},
    "O": {str},
}


def tensor_elements(flat: list[Any], datatype: str) -> np.ndarray[Any, Any]:
    """A flat list of scalars as an array [len(flat)] of the datatype.

    Raises:
        RefusedValue: an element has another type, is out of the type's range or not finite.
    """
    dtype = numpy_dtype(datatype)
    kinds = set(map(type, flat))
    expected: set[type] = _ELEMENT_TYPES[dtype.kind]
    if not kinds <= expected:
        raise RefusedValue(f"holds elements that are not {datatype}")
    if dtype.kind == "O":
        if not sound_text("".join(flat)):
            raise RefusedValue("holds a NUL or a lone surrogate")
        return object_column(flat)
    try:
        if dtype.kind != "f":
            return np.array(flat, dtype=dtype)
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype=np.float64).astype(dtype)
    except OverflowError:
        reason = f"holds elements outside the range of {datatype}"
        raise RefusedValue(reason, "out_of_range") from None
    if not np.isfinite(array).all():
        raise RefusedValue(
            "holds NaN or an infinite element",
            "null" if np.isnan(array).any() else "out_of_range",
        )
    return array


def takes(expected: Field, datatype: str) -> bool:
    """Whether tensors of the datatype can hold what the field takes; values decide further."""
    if isinstance(expected, Tensor):
        return widens(datatype, expected.dtype)
    kind = DATATYPES[datatype].kind
    if isinstance(expected, Number | Integer):
        return kind in "fiu"
    if isinstance(expected, Boolean):
        return kind == "b"
    if isinstance(expected, Category):
        return kind in {"INT64": "fiu", "BOOL": "b"}.get(expected.datatype, "O")
    return kind == "O"
