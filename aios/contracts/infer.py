"""Fields taken from what already describes data: a DataFrame, a pydantic model, an ONNX graph."""

import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aios.contracts.fields import (
    Boolean,
    Category,
    Field,
    Integer,
    Number,
    Text,
)
from aios.contracts.tensor import Tensor
from aios.errors import Unsupported, UsageError

if TYPE_CHECKING:
    import pandas
    import pydantic

Fields = dict[str, Field]

_MOST_CATEGORIES = 32
"""A text column with more distinct values is taken as free text: a category list must stay
short enough to read in a message and to review in a change."""


def from_frame(
    frame: "pandas.DataFrame",
    outputs: Mapping[str, Field] | Sequence[str],
    key: str | None,
    ranges: bool,
) -> tuple[Fields, Fields]:
    """Inputs and outputs for the columns of a DataFrame; see `Contract.infer`."""
    columns = [str(name) for name in frame.columns]
    if len(frame) == 0 or not columns:
        raise UsageError("cannot infer a contract from an empty frame; give a few rows")
    if len(set(columns)) < len(columns):
        raise UsageError("the frame has two columns of one name; rename one")
    if isinstance(outputs, str):
        raise UsageError(f'outputs must be a list of names or a dict of fields: ["{outputs}"]')
    named = [name for name in (*outputs, key) if name is not None]
    given = isinstance(outputs, Mapping)
    missing = [name for name in named if name not in columns and not (given and name in outputs)]
    if missing:
        raise UsageError(f"the frame has no column {missing[0]!r}; it has {', '.join(columns)}")
    by_name = dict(zip(columns, (frame.iloc[:, i] for i in range(len(columns))), strict=True))
    inputs = {n: _of_series(n, s, ranges) for n, s in by_name.items() if n not in named}
    if isinstance(outputs, Mapping):
        return inputs, dict(outputs)
    return inputs, {name: _of_series(name, by_name[name], ranges) for name in outputs}


def _of_series(name: str, series: Any, ranges: bool) -> Field:
    import pandas

    present = series.dropna()
    nullable = len(present) < len(series)
    if len(present) == 0:
        raise Unsupported(f'column "{name}" holds only nulls; drop it or write its field by hand')
    dtype = series.dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return Category(dtype.categories.tolist(), nullable=nullable)
    checks = pandas.api.types
    if checks.is_bool_dtype(dtype):
        return Boolean(nullable=nullable)
    if checks.is_integer_dtype(dtype):
        return _integer(present, nullable, ranges)
    if checks.is_float_dtype(dtype):
        return _number(name, present, nullable, ranges)
    if checks.is_object_dtype(dtype) or checks.is_string_dtype(dtype):
        return _of_objects(name, present, nullable, ranges)
    raise Unsupported(
        f'column "{name}" has the type {dtype}; turn it into numbers, booleans or texts first'
    )


def _of_objects(name: str, present: Any, nullable: bool, ranges: bool) -> Field:
    values = present.tolist()
    kinds = set(map(type, values))
    if kinds == {bool}:
        return Boolean(nullable=nullable)
    if kinds <= {str} or kinds <= {int}:
        distinct = sorted(set(values))
        repeated = len(distinct) * 2 <= len(values)
        if repeated and len(distinct) <= _MOST_CATEGORIES:
            return Category(distinct, nullable=nullable)
        return Text(nullable=nullable) if kinds == {str} else _integer(present, nullable, ranges)
    if kinds <= {int, float}:
        return _number(name, present.astype(float), nullable, ranges)
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise Unsupported(f'column "{name}" holds {found}; a field holds one type')


def _integer(present: Any, nullable: bool, ranges: bool) -> Integer:
    if not ranges:
        return Integer(nullable=nullable)
    return Integer(min=int(present.min()), max=int(present.max()), nullable=nullable)


def _number(name: str, present: Any, nullable: bool, ranges: bool) -> Number:
    low, high = float(present.min()), float(present.max())
    if math.isinf(low) or math.isinf(high):
        raise Unsupported(f'column "{name}" holds infinite values; a Number is finite')
    return Number(min=low, max=high, nullable=nullable) if ranges else Number(nullable=nullable)


def from_pydantic(
    model: "type[pydantic.BaseModel]",
    outputs: "type[pydantic.BaseModel] | Mapping[str, Field]",
    key: str | None,
) -> tuple[Fields, Fields]:
    """Inputs and outputs for pydantic models; see `Contract.from_pydantic`."""
    inputs = _of_model(model, defaults=False)
    if key is not None:
        inputs.pop(key, None)
    if isinstance(outputs, Mapping):
        return inputs, dict(outputs)
    return inputs, _of_model(outputs, defaults=True)


def _of_model(model: Any, defaults: bool) -> Fields:
    if not hasattr(model, "model_fields"):
        raise UsageError(f"expected a pydantic model class, not {model!r}")
    decorators = model.__pydantic_decorators__
    if decorators.field_validators or decorators.model_validators or decorators.validators:
        raise Unsupported(
            f"{model.__name__} has validator functions, which a contract cannot run; "
            "write the contract by hand with ranges and categories"
        )
    found: Fields = {}
    for attribute, info in model.model_fields.items():
        name = info.alias or attribute
        found[name] = _of_annotation(name, info.annotation, list(info.metadata))
        fills = info.default_factory is not None or (
            not info.is_required() and info.default is not None
        )
        if fills and not defaults:
            raise Unsupported(
                f'field "{name}" has a default, which a contract does not fill in; '
                "make it required or nullable"
            )
    return found


def _of_annotation(name: str, annotation: Any, metadata: list[Any]) -> Field:
    nullable = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            metadata = [*more, *metadata]
        elif origin in (typing.Union, types.UnionType):
            options = [a for a in typing.get_args(annotation) if a is not type(None)]
            if len(options) != 1:
                raise Unsupported(f'field "{name}" may be several types; a field holds one')
            annotation, nullable = options[0], True
        else:
            break
    limits = _Limits.of(name, metadata)
    if annotation is bool:
        return limits.only((), Boolean(nullable=nullable))
    if annotation is int:
        return limits.only(("low", "high"), limits.integer(nullable))
    if annotation is float:
        return limits.only(("low", "high"), limits.number(nullable))
    if annotation is str:
        longest = 1024 if limits.longest is None else limits.longest
        return limits.only(("longest",), Text(max_length=longest, nullable=nullable))
    if origin is typing.Literal:
        return limits.only((), Category(typing.get_args(annotation), nullable=nullable))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return limits.only((), Category([m.value for m in annotation], nullable=nullable))
    if origin is list and not nullable:
        return _of_list(name, typing.get_args(annotation)[0], limits)
    raise Unsupported(
        f'field "{name}" has the type {annotation}; a contract holds float, int, bool, str, '
        "Literal, Enum and lists of fixed length"
    )


def _of_list(name: str, element: Any, limits: "_Limits") -> Field:
    datatype = {float: "FP64", int: "INT64", bool: "BOOL", str: "BYTES"}.get(element)
    if datatype is None or limits.longest is None or limits.shortest != limits.longest:
        raise Unsupported(
            f'field "{name}": a list needs float, int, bool or str elements and one fixed '
            "length (min_length equal to max_length)"
        )
    return limits.only(("longest", "shortest"), Tensor((limits.longest,), datatype))


class _Limits:
    """What the metadata of a pydantic field says, in a form that fields understand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.low: float | None = None
        self.high: float | None = None
        self.open_low = False
        self.open_high = False
        self.shortest: int | None = None
        self.longest: int | None = None

    @classmethod
    def of(cls, name: str, metadata: list[Any]) -> "_Limits":
        import annotated_types

        found = cls(name)
        constraints: list[Any] = []
        for item in metadata:
            grouped = isinstance(item, annotated_types.GroupedMetadata)
            constraints.extend(item if grouped else [item])
        for item in constraints:
            if isinstance(item, annotated_types.Ge):
                found.low = item.ge  # type: ignore[assignment]
            elif isinstance(item, annotated_types.Gt):
                found.low, found.open_low = item.gt, True  # type: ignore[assignment]
            elif isinstance(item, annotated_types.Le):
                found.high = item.le  # type: ignore[assignment]
            elif isinstance(item, annotated_types.Lt):
                found.high, found.open_high = item.lt, True  # type: ignore[assignment]
            elif isinstance(item, annotated_types.MinLen):
                found.shortest = item.min_length
            elif isinstance(item, annotated_types.MaxLen):
                found.longest = item.max_length
            else:
                found._note_general(item)
        return found

    def _note_general(self, item: Any) -> None:
        said = {k: v for k, v in vars(item).items() if v is not None} if vars_of(item) else {}
        allowed = {"strict", "allow_inf_nan"}
        if isinstance(item, type) or not said or not said.keys() <= allowed:
            raise Unsupported(
                f'field "{self.name}" has the constraint {item!r}, which a contract cannot '
                "check; use ge, gt, le, lt, max_length, or a Literal"
            )

    def only(self, known: tuple[str, ...], field: Field) -> Field:
        """The field, unless the model limits it in a way that the field cannot."""
        for limit in ("low", "high", "shortest", "longest"):
            if limit not in known and getattr(self, limit) is not None:
                raise Unsupported(
                    f'field "{self.name}" has a limit that {type(field).__name__} cannot check'
                )
        return field

    def number(self, nullable: bool) -> Number:
        low, high = self.low, self.high
        if low is not None and self.open_low:
            low = math.nextafter(low, math.inf)
        if high is not None and self.open_high:
            high = math.nextafter(high, -math.inf)
        return Number(min=low, max=high, nullable=nullable)

    def integer(self, nullable: bool) -> Integer:
        low = high = None
        if self.low is not None:
            low = math.floor(self.low) + 1 if self.open_low else math.ceil(self.low)
        if self.high is not None:
            high = math.ceil(self.high) - 1 if self.open_high else math.floor(self.high)
        return Integer(min=low, max=high, nullable=nullable)


def vars_of(item: Any) -> bool:
    """Whether the item has attributes to look into."""
    return hasattr(item, "__dict__")


_ONNX_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
"""onnx.TensorProto.DataType -> Open Inference Protocol."""


def from_onnx(path: Path) -> tuple[Fields, Fields]:
    """Inputs and outputs of an ONNX graph as tensors; see `Contract.from_onnx`."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load_model(str(path), load_external_data=False).graph
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except DecodeError:
        raise UsageError(f"{path} is not an ONNX file") from None
    weights = {tensor.name for tensor in graph.initializer}
    inputs = {v.name: _of_onnx_value("input", v) for v in graph.input if v.name not in weights}
    return inputs, {value.name: _of_onnx_value("output", value) for value in graph.output}


def _of_onnx_value(role: str, value: Any) -> Field:
    if value.type.WhichOneof("value") != "tensor_type":
        raise Unsupported(
            f'{role} "{value.name}" is no tensor; convert with zipmap=False, so that all '
            "outputs are tensors"
        )
    tensor = value.type.tensor_type
    datatype = _ONNX_DATATYPES.get(tensor.elem_type)
    if datatype is None:
        raise Unsupported(f'{role} "{value.name}" has an element type that has no wire format')
    if not tensor.HasField("shape") or not tensor.shape.dim:
        raise Unsupported(f'{role} "{value.name}" has no batch dimension')
    batch, *rest = tensor.shape.dim
    if batch.HasField("dim_value"):
        raise Unsupported(
            f'{role} "{value.name}" has a batch fixed at {batch.dim_value}; export the model '
            "with a dynamic first dimension"
        )
    if not all(dim.HasField("dim_value") for dim in rest):
        raise Unsupported(f'{role} "{value.name}" has a dynamic dimension besides the batch')
    return Tensor(tuple(dim.dim_value for dim in rest), datatype)
