"""What one field of a contract may hold.

Each field is a frozen value. `check` is the reference meaning of the field: the compiled
row path and the vectorised column path accept exactly what it accepts. In Python and in
tensors NaN stands for null, because pandas and binary tensors have no other way to say it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from aios.errors import UsageError

FLOAT32_MAX = float(np.finfo(np.float32).max)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EXACT_INTEGER_MAX = 2**53
"""The largest integer up to which a 64-bit float holds every integer exactly."""
Private = Literal["hash", "omit"]
"""What the prediction log, windows and training references keep of a private field: a keyed hash
of each value, so that equal ones stay equal and none can be guessed without the key, or nothing."""
PRIVATE = ("hash", "omit")


class Missing:
    """Stands for a field that a record does not have."""


MISSING = Missing()


FaultKind = Literal[
    "missing", "unknown", "wrong_type", "out_of_range", "unknown_category", "null", "malformed"
]
"""How a fault is counted: the field is not there, is not known, holds another type or shape, a
number or length beyond its limits, a category that is not listed, or a null (NaN stands for it)
where none is allowed. `malformed` is a body that cannot be read at all."""


class RefusedValue(Exception):
    """One value does not fit its field; the text completes "<value> ...".

    Caught inside this room, where it becomes a line of a `ContractViolation`.
    """

    def __init__(self, reason: str, kind: FaultKind = "wrong_type") -> None:
        super().__init__(reason)
        self.kind: FaultKind = kind


class Field:
    """Base of all fields.

    Attributes:
        private: "hash" or "omit" where values must not be kept as they are; see `Private`.
            The model is given them all the same.
    """

    kind: ClassVar[str]
    nullable: bool
    private: Private | None
    shape: tuple[int, ...] = ()
    """The shape of one row's value; () for scalars."""

    @property
    def datatype(self) -> str:
        """The Open Inference Protocol's name of the type on the wire."""
        raise NotImplementedError

    @property
    def column_dtype(self) -> np.dtype[Any]:
        """The dtype of a column; null needs a float (NaN) or an object (None)."""
        raise NotImplementedError

    def describe(self) -> str:
        """What is allowed, in words for a person."""
        raise NotImplementedError

    def fault(self) -> str | None:
        """What is wrong with the definition itself, or None."""
        return private_fault(self.private) or self._fault()

    def _fault(self) -> str | None:
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        """The value as stored, None for null.

        Raises:
            RefusedValue: the value does not fit.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or value is MISSING:
            if self.nullable:
                return None
            if value is MISSING:
                raise RefusedValue("is missing", "missing")
            raise RefusedValue("is not allowed", "null")
        return self._check(value)

    def _check(self, value: Any) -> Any:
        raise NotImplementedError

    def example(self) -> Any:
        """A value that the field takes, for warming up."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `field_from_json` turns back into the same field. Of a field that is
        not private it does not speak of that, so that digests of old contracts stay."""
        private = {} if self.private is None else {"private": self.private}
        return {**self._json(), **private}

    def _json(self) -> dict[str, Any]:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.describe()


def private_fault(private: Any) -> str | None:
    """What is wrong with a statement of privacy, or None."""
    if private is None or private in PRIVATE:
        return None
    return f'private must be "hash", "omit" or None, not {private!r}'


def _or_null(text: str, nullable: bool) -> str:
    return f"{text} or null" if nullable else text


def _range_text(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low:.15g} to {high:.15g}"
    if low is not None:
        return f" of at least {low:.15g}"
    if high is not None:
        return f" of at most {high:.15g}"
    return ""


def _refuse_outside(value: float, low: float, high: float) -> None:
    if value < low:
        raise RefusedValue(f"is below the minimum {low:.15g}", "out_of_range")
    if value > high:
        raise RefusedValue(f"is above the maximum {high:.15g}", "out_of_range")


@dataclass(frozen=True)
class Number(Field):
    """A finite real number, 64 bits on the wire.

    Without limits it takes what a 32-bit float can hold (3.4e38 either way), because
    engines compute in 32 bits; give `min` and `max` to widen or narrow that. Integers are
    accepted, booleans are not.

    >>> print(Number(min=0, max=100, nullable=True))
    a number from 0 to 100 or null
    """

    min: float | None = None
    max: float | None = None
    nullable: bool = False
    private: Private | None = None
    kind: ClassVar[str] = "number"

    @property
    def datatype(self) -> str:
        return "FP64"

    @property
    def column_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64)

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and highest value taken, both finite."""
        low = -FLOAT32_MAX if self.min is None else float(self.min)
        high = FLOAT32_MAX if self.max is None else float(self.max)
        return low, high

    def describe(self) -> str:
        return _or_null(f"a number{_range_text(self.min, self.max)}", self.nullable)

    def _fault(self) -> str | None:
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is None:
                continue
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                return f"{name} must be a number, not {bound!r}"
            if not math.isfinite(bound):
                return f"{name} must be finite, not {bound!r}; leave it out for no limit"
        return _order_fault(*self.limits)

    def _check(self, value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RefusedValue("is not a number")
        try:
            value = float(value)
        except OverflowError:
            raise RefusedValue("is too large for a number", "out_of_range") from None
        if math.isnan(value):
            if self.nullable:
                return None
            raise RefusedValue("is not a finite number", "null")
        if math.isinf(value):
            raise RefusedValue("is not a finite number", "out_of_range")
        _refuse_outside(value, *self.limits)
        return float(value)

    def example(self) -> float:
        low, high = self.limits
        return float(min(max(0.0, low), high))

    def _json(self) -> dict[str, Any]:
        bounds = (None if b is None else float(b) for b in (self.min, self.max))
        low, high = bounds
        return {"type": self.kind, "min": low, "max": high, "nullable": self.nullable}


def _order_fault(low: float, high: float) -> str | None:
    return f"min {low:.15g} is above max {high:.15g}" if low > high else None


def _integral(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedValue("is not an integer")
    if isinstance(value, float):
        if not value.is_integer():
            raise RefusedValue("is not an integer", "null" if math.isnan(value) else "wrong_type")
        if abs(value) > EXACT_INTEGER_MAX:
            raise RefusedValue(
                "is a float beyond 2^53, where integers are no longer exact", "out_of_range"
            )
    return int(value)


@dataclass(frozen=True)
class Integer(Field):
    """A whole number of 64 bits; 3.0 is taken as 3, booleans are not taken.

    Nullable integers travel in float columns, so they end at 2^53 either way.

    >>> print(Integer(min=0))
    an integer of at least 0
    """

    min: int | None = None
    max: int | None = None
    nullable: bool = False
    private: Private | None = None
    kind: ClassVar[str] = "integer"

    @property
    def datatype(self) -> str:
        return "INT64"

    @property
    def column_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.nullable else np.int64)

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and highest value taken."""
        widest = (
            (-EXACT_INTEGER_MAX, EXACT_INTEGER_MAX) if self.nullable else (INT64_MIN, INT64_MAX)
        )
        low = widest[0] if self.min is None else self.min
        high = widest[1] if self.max is None else self.max
        return low, high

    def describe(self) -> str:
        return _or_null(f"an integer{_range_text(self.min, self.max)}", self.nullable)

    def _fault(self) -> str | None:
        reach = EXACT_INTEGER_MAX if self.nullable else INT64_MAX
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is None:
                continue
            if isinstance(bound, bool) or not isinstance(bound, int):
                return f"{name} must be an integer, not {bound!r}"
            if not -reach - 1 <= bound <= reach:
                return f"{name} must lie within {reach} either way, not {bound}"
        return _order_fault(*self.limits)

    def _check(self, value: Any) -> int | None:
        if self.nullable and isinstance(value, float) and math.isnan(value):
            return None
        whole = _integral(value)
        _refuse_outside(whole, *self.limits)
        return whole

    def example(self) -> int:
        low, high = self.limits
        return min(max(0, low), high)

    def _json(self) -> dict[str, Any]:
        return {"type": self.kind, "min": self.min, "max": self.max, "nullable": self.nullable}


@dataclass(frozen=True)
class Boolean(Field):
    """true or false, nothing that merely looks like it.

    A column is bool, or float64 with NaN if the field is nullable.
    """

    nullable: bool = False
    private: Private | None = None
    kind: ClassVar[str] = "boolean"

    @property
    def datatype(self) -> str:
        return "BOOL"

    @property
    def column_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.nullable else np.bool_)

    def describe(self) -> str:
        return _or_null("true or false", self.nullable)

    def _fault(self) -> str | None:
        return None

    def _check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise RefusedValue("is not a boolean")
        return value

    def example(self) -> bool:
        return False

    def _json(self) -> dict[str, Any]:
        return {"type": self.kind, "nullable": self.nullable}


def sound_text(value: str) -> bool:
    """Whether the text can be stored everywhere: no NUL, no lone surrogate."""
    if "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Text(Field):
    """A string of at most `max_length` characters, without NUL and lone surrogates.

    The default of 1,024 characters holds a sentence or an id, and bounds what a single
    field can cost.
    """

    max_length: int = 1024
    nullable: bool = False
    private: Private | None = None
    kind: ClassVar[str] = "text"

    @property
    def datatype(self) -> str:
        return "BYTES"

    @property
    def column_dtype(self) -> np.dtype[Any]:
        return np.dtype(object)

    def describe(self) -> str:
        return _or_null(f"a text of at most {self.max_length} characters", self.nullable)

    def _fault(self) -> str | None:
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int):
            return f"max_length must be an integer, not {self.max_length!r}"
        return None if self.max_length >= 1 else "max_length must be at least 1"

    def _check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise RefusedValue("is not a text")
        if len(value) > self.max_length:
            raise RefusedValue(
                f"has {len(value)} characters, more than the {self.max_length} allowed",
                "out_of_range",
            )
        if not sound_text(value):
            raise RefusedValue("holds a NUL or a lone surrogate")
        return str(value)

    def example(self) -> str:
        return "a"

    def _json(self) -> dict[str, Any]:
        return {"type": self.kind, "max_length": self.max_length, "nullable": self.nullable}


@dataclass(frozen=True, init=False)
class Category(Field):
    """One of a fixed list of values: all integers, all texts, or all booleans.

    >>> print(Category(["self", "employed"]))
    one of "self", "employed"
    """

    values: tuple[int, ...] | tuple[str, ...] | tuple[bool, ...]
    nullable: bool = False
    private: Private | None = None
    kind: ClassVar[str] = "category"

    def __init__(
        self,
        values: Iterable[int | str | bool],
        nullable: bool = False,
        private: Private | None = None,
    ) -> None:
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UsageError(f"Category takes a list of values, not {values!r}")
        plain = (v.item() if isinstance(v, np.generic) else v for v in values)
        object.__setattr__(self, "values", tuple(plain))
        object.__setattr__(self, "nullable", nullable)
        object.__setattr__(self, "private", private)

    @property
    def value_type(self) -> type:
        """int, str or bool."""
        return type(self.values[0])

    @property
    def datatype(self) -> str:
        return {int: "INT64", bool: "BOOL"}.get(self.value_type, "BYTES")

    @property
    def column_dtype(self) -> np.dtype[Any]:
        if self.value_type is str:
            return np.dtype(object)
        if self.nullable:
            return np.dtype(np.float64)
        return np.dtype(np.bool_ if self.value_type is bool else np.int64)

    def describe(self) -> str:
        shown = [f'"{v}"' if isinstance(v, str) else str(v).lower() for v in self.values[:12]]
        more = len(self.values) - len(shown)
        ending = f" and {more} more" if more else ""
        return _or_null(f"one of {', '.join(shown)}{ending}", self.nullable)

    def _fault(self) -> str | None:
        if not self.values:
            return "a category needs at least one value"
        kinds = {type(v) for v in self.values}
        if len(kinds) > 1 or not kinds <= {int, str, bool}:
            return "the values of a category must be all integers, all texts or all booleans"
        if len(set(self.values)) < len(self.values):
            return "a category lists a value twice"
        for value in self.values:
            if isinstance(value, str) and not sound_text(value):
                return f"the category {value!r} holds a NUL or a lone surrogate"
            if isinstance(value, int) and abs(value) > EXACT_INTEGER_MAX:
                return f"the category {value} lies beyond 2^53"
        return None

    def _check(self, value: Any) -> Any:
        if self.value_type is int:
            if self.nullable and isinstance(value, float) and math.isnan(value):
                return None
            value = _integral(value)
        elif not isinstance(value, self.value_type):
            raise RefusedValue("is not one of the allowed values")
        if value not in self.values:
            raise RefusedValue("is not one of the allowed values", "unknown_category")
        return value

    def example(self) -> Any:
        return self.values[0]

    def _json(self) -> dict[str, Any]:
        return {"type": self.kind, "values": list(self.values), "nullable": self.nullable}


def object_column(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """A one-dimensional object array, without numpy looking into the values."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
