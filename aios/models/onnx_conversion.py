"""A user's ONNX file: taken byte for byte, with its inputs and outputs matched to a contract."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aios.contracts import Contract, Field
from aios.errors import Unsupported, UsageError
from aios.models.conversion import Converted, OutputChoice, chosen_outputs
from aios.models.manifest import (
    ONNX_FILE,
    ColumnInput,
    ColumnsInput,
    ColumnType,
    MatrixInput,
    MatrixType,
    OutputSource,
)
from aios.models.safety import MAX_FILE_BYTES, check_onnx

_TYPES: dict[str, ColumnType] = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "INT64": "int64",
    "INT32": "int32",
    "BOOL": "bool",
    "STRING": "str",
}
_MATRIX_TYPES: dict[str, MatrixType] = {"FLOAT": "float32", "DOUBLE": "float64", "INT64": "int64"}


def convert_file(
    path: Path, contract: Contract, outputs: Mapping[str, OutputChoice] | None
) -> Converted:
    """The file as it is, if it is safe and its inputs fit the contract.

    One numeric input [rows, n] takes all n inputs of the contract in their order; otherwise
    the graph's inputs must be called as the contract's.

    Raises:
        UsageError: no such file, or names or shapes do not fit the contract.
        Unsupported: an input or output is of a type that a contract cannot give or take.
        ArtifactRejected: the file is not safe; see `aios.models.safety.check_onnx`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error
    model = check_onnx(content, path.name)
    constants = {tensor.name for tensor in model.graph.initializer}
    wanted = [value for value in model.graph.input if value.name not in constants]
    return Converted(
        source="onnx file",
        engine="onnx",
        inputs=_match_inputs(wanted, contract, path.name),
        outputs=_match_outputs(model.graph.output, contract, outputs, path.name),
        files={ONNX_FILE: content},
        notes={"producer": f"{model.producer_name} {model.producer_version}".strip()},
    )


def _match_inputs(values: list[Any], contract: Contract, what: str) -> MatrixInput | ColumnsInput:
    tensors = {value.name: _tensor(value, what) for value in values}
    if len(tensors) == 1:
        ((name, (kind, shape)),) = tensors.items()
        scalar = not any(field.shape for field in contract.inputs.values())
        if scalar and kind in _MATRIX_TYPES and shape in ((len(contract.inputs),), (None,)):
            return MatrixInput(
                name=name, features=tuple(contract.inputs), dtype=_MATRIX_TYPES[kind]
            )
        if len(contract.inputs) == 1:
            ((field_name, field),) = contract.inputs.items()
            return ColumnsInput(columns=(_column(field_name, field, name, kind, shape, what),))
    if set(tensors) != set(contract.inputs):
        raise UsageError(
            f"{what} takes {', '.join(sorted(tensors)) or 'nothing'}, and the contract gives "
            f"{', '.join(contract.inputs)}: name them alike, or give the graph one input "
            f"[rows, {len(contract.inputs)}]"
        )
    return ColumnsInput(
        columns=tuple(
            _column(name, contract.inputs[name], name, *tensors[name], what) for name in tensors
        )
    )


def _tensor(value: Any, what: str) -> tuple[str, tuple[int | None, ...]]:
    """Element type and the sizes after the rows, None where they are not fixed."""
    import onnx

    if not value.type.HasField("tensor_type"):
        raise Unsupported(f"{what}: {value.name!r} is not a tensor; export with zipmap off")
    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    sizes = value.type.tensor_type.shape.dim
    if not sizes:
        raise UsageError(f"{what}: {value.name!r} has no shape that begins with the rows")
    if sizes[0].HasField("dim_value"):
        raise UsageError(
            f"{what}: {value.name!r} is fixed to {sizes[0].dim_value} rows; export it with a "
            "dynamic first dimension"
        )
    rest = tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes[1:])
    return kind, rest


def _column(
    field_name: str,
    field: Field,
    name: str,
    kind: str,
    shape: tuple[int | None, ...],
    what: str,
) -> ColumnInput:
    dtype = _TYPES.get(kind)
    if dtype is None:
        raise Unsupported(f"{what}: input {name!r} is of {kind}; taken are {', '.join(_TYPES)}")
    if (dtype == "str") != (field.column_dtype.kind == "O"):
        raise UsageError(f"{what}: input {name!r} is of {kind}, the contract: {field.describe()}")
    if field.column_dtype.kind == "f" and dtype in ("int64", "int32", "bool"):
        raise UsageError(
            f"{what}: input {name!r} is of {kind}, which cannot hold {field.describe()}"
        )
    target = tuple(field.shape) if field.shape else (1,) * len(shape)
    fits = len(target) == len(shape) and all(
        given is None or given == size for given, size in zip(shape, target, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{what}: input {name!r} has the shape [rows, {', '.join(map(str, shape))}], the "
            f"contract's field has {list(target)} per row"
        )
    return ColumnInput(field=field_name, name=name, dtype=dtype, shape=target)


def _match_outputs(
    values: Any,
    contract: Contract,
    outputs: Mapping[str, OutputChoice] | None,
    what: str,
) -> dict[str, OutputSource]:
    widths = {value.name: _width(value) for value in values}
    if outputs is not None:
        found = chosen_outputs(outputs, contract, widths)
    elif set(contract.outputs) <= set(widths):
        found = {name: OutputSource(name=name) for name in contract.outputs}
    elif len(contract.outputs) == len(widths) == 1:
        found = {name: OutputSource(name=only) for name in contract.outputs for only in widths}
    else:
        raise UsageError(
            f"{what} gives {', '.join(widths)}, and the contract promises "
            f"{', '.join(contract.outputs)}: say which is which with "
            'outputs={"contract output": "graph output"} or ("graph output", column)'
        )
    for value in values:
        needed = any(source.name == value.name for source in found.values())
        if needed and not value.type.HasField("tensor_type"):
            raise Unsupported(
                f"{what}: output {value.name!r} is not a tensor; export with zipmap off"
            )
    for name, source in found.items():
        width = widths[source.name]
        if source.column is None and width not in (None, 1) and not contract.outputs[name].shape:
            raise UsageError(
                f"{what}: output {source.name!r} has {width} columns; say which with "
                f"outputs={{{name!r}: ({source.name!r}, column)}}"
            )
    return found


def _width(value: Any) -> int | None:
    """The columns of a matrix output; None where it is not a matrix or they are not fixed."""
    sizes = value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else []
    if len(sizes) != 2 or not sizes[1].HasField("dim_value"):
        return None
    return int(sizes[1].dim_value)
