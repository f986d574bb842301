"""Open Inference Protocol v2 over HTTP: requests in, answers out, model metadata.

Source: https://github.com/kserve/open-inference-protocol, "HTTP/REST", and its binary
tensor data extension. A body is a JSON header, followed, where tensors say
`binary_data_size`, by their bytes in the order of the header.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import orjson

from aios.contracts import outputs as outputs_
from aios.contracts.batch import Batch, Layout
from aios.contracts.columns import read_array, read_list
from aios.contracts.contract import Contract
from aios.contracts.datatypes import DATATYPES, from_bytes, to_bytes
from aios.contracts.fields import (
    MISSING,
    FaultKind,
    Field,
    Number,
    RefusedValue,
)
from aios.contracts.inference_request import Received, V2Request, read_request, row_count
from aios.contracts.inference_rows import FEW_ROWS, FewRows
from aios.contracts.json_names import refuse_repeated_names
from aios.contracts.keys import KEY_ALLOWED, read_keys
from aios.contracts.tensor import Tensor, takes, tensor_elements
from aios.contracts.violations import Faults
from aios.errors import Unsupported

Array = np.ndarray[Any, Any]

MATRIX_NAME = "input-0"
"""The name of a single tensor that holds all inputs side by side, as KServe's and
scikit-learn's examples send it."""


def decode(
    contract: Contract,
    layout: Layout,
    few: FewRows,
    max_rows: int,
    body: bytes,
    header_length: int | None,
) -> tuple[Batch, V2Request]:
    """See `Codec.decode_v2`."""
    request, received, names = read_request(contract, body, header_length)
    rows = row_count(received, max_rows)
    batch = few.read(received, rows) if rows <= FEW_ROWS else None
    if batch is None:
        batch = _decode_columns(contract, layout, received, rows)
    refuse_repeated_names(body if header_length is None else body[:header_length], names)
    return batch, request


def _decode_columns(
    contract: Contract, layout: Layout, received: dict[str, Received], rows: int
) -> Batch:
    faults = Faults("")
    matrix = received.get(MATRIX_NAME)
    columns = (
        _matrix_columns(contract, matrix, rows, faults)
        if matrix is not None
        else _field_columns(contract, received, rows, faults)
    )
    keys = _key_column(contract, received, rows, faults)
    allowed = f"the inputs {', '.join(contract.inputs)}, or {MATRIX_NAME} alone"
    known = contract.inputs.keys() if matrix is None else {MATRIX_NAME}
    for name in received.keys() - known - {contract.key}:
        faults.add(None, name, MISSING, "is not known here", allowed, kind="unknown")
    faults.raise_if_any()
    return Batch(layout, rows, keys, columns=columns)


def _field_columns(
    contract: Contract, received: dict[str, Received], rows: int, faults: Faults
) -> dict[str, Array]:
    columns: dict[str, Array] = {}
    for order, (name, expected) in enumerate(contract.inputs.items()):
        tensor = received.get(name)
        if tensor is None:
            if expected.nullable:
                columns[name] = read_list(name, expected, [None] * rows, faults, order)
            else:
                told = expected.describe()
                faults.add(None, name, MISSING, "is missing", told, order, "missing")
            continue
        columns[name] = _read_column(tensor, name, expected, rows, faults, order)
    return columns


def _read_column(
    tensor: Received, name: str, expected: Field, rows: int, faults: Faults, order: int
) -> Array:
    shape = [rows, *expected.shape]
    if tensor.shape != shape and (expected.shape or tensor.shape != [rows, 1]):
        reason = f"has the shape {tensor.shape}"
        faults.add(None, name, MISSING, reason, f"the shape {shape}", order)
        return np.empty(0)
    if not takes(expected, tensor.datatype):
        fitting = [datatype for datatype in DATATYPES if takes(expected, datatype)]
        reason = f"has the datatype {tensor.datatype}"
        faults.add(None, name, MISSING, reason, " or ".join(fitting), order)
        return np.empty(0)
    try:
        elements = _elements(tensor, keep_null=expected.nullable)
    except RefusedValue as refusal:
        faults.refuse(None, name, MISSING, refusal, tensor.datatype, order)
        return np.empty(0)
    if isinstance(expected, Tensor):
        return _tensor_column(name, expected, elements, shape, faults, order)
    if isinstance(elements, list):
        return read_list(name, expected, elements, faults, order)
    if isinstance(expected, Number) and tensor.datatype in ("INT64", "UINT64"):
        exact = elements.astype(np.float64).astype(elements.dtype) == elements
        if not exact.all():
            row = int(np.argmin(exact))
            reason = "is not exact as a 64-bit float"
            told = expected.describe()
            faults.add(row, name, elements[row], reason, told, order, "out_of_range")
    return read_array(name, expected, elements, faults, order)


def _elements(tensor: Received, keep_null: bool) -> Array | list[Any]:
    """All elements, flat: an array, or a list where some are null."""
    if tensor.raw is not None:
        return from_bytes(tensor.name, tensor.datatype, tensor.raw, tensor.count)
    flat = _flatten(tensor)
    if keep_null and None in flat:
        present = tensor_elements([e for e in flat if e is not None], tensor.datatype).tolist()
        values = iter(present)
        return [None if element is None else next(values) for element in flat]
    return tensor_elements(flat, tensor.datatype)


def _flatten(tensor: Received) -> list[Any]:
    assert tensor.data is not None
    level = tensor.data
    if level and isinstance(level[0], list):
        for size in tensor.shape[1:]:
            if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
                raise RefusedValue(f"has data that is not nested like its shape {tensor.shape}")
            level = list(chain.from_iterable(level))
    if len(level) != tensor.count:
        raise RefusedValue(
            f"has {len(level)} elements, and its shape {tensor.shape} needs {tensor.count}"
        )
    return level


def _tensor_column(
    name: str,
    expected: Tensor,
    elements: Array | list[Any],
    shape: list[int],
    faults: Faults,
    order: int,
) -> Array:
    array = np.asarray(elements).reshape(shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        kind: FaultKind = "null" if np.isnan(array).any() else "out_of_range"
        told = expected.describe()
        faults.add(row, name, array[row], "holds NaN or infinity", told, order, kind)
    if array.dtype.kind == "O":
        return read_list(name, expected, array.tolist(), faults, order)
    return array.astype(expected.column_dtype, copy=False)


def _matrix_columns(
    contract: Contract, matrix: Received, rows: int, faults: Faults
) -> dict[str, Array]:
    inputs = contract.inputs
    if any(expected.shape or expected.datatype == "BYTES" for expected in inputs.values()):
        allowed = f"one tensor for each of {', '.join(inputs)}"
        faults.add(None, MATRIX_NAME, MISSING, "cannot hold texts or tensors", allowed)
        raise faults.error()
    if matrix.shape != [rows, len(inputs)]:
        allowed = f"the shape [rows, {len(inputs)}] in the order {', '.join(inputs)}"
        faults.add(None, MATRIX_NAME, MISSING, f"has the shape {matrix.shape}", allowed)
        raise faults.error()
    columns: dict[str, Array] = {}
    try:
        elements = _elements(matrix, keep_null=True)
    except RefusedValue as refusal:
        faults.refuse(None, MATRIX_NAME, MISSING, refusal, matrix.datatype)
        raise faults.error() from None
    width = len(inputs)
    for order, (name, expected) in enumerate(inputs.items()):
        if not takes(expected, matrix.datatype):
            reason = f"cannot come in a matrix of {matrix.datatype}"
            faults.add(None, name, MISSING, reason, expected.describe(), order)
        elif isinstance(elements, list):
            columns[name] = read_list(name, expected, elements[order::width], faults, order)
        else:
            columns[name] = read_array(name, expected, elements[order::width], faults, order)
    return columns


def _key_column(
    contract: Contract, received: dict[str, Received], rows: int, faults: Faults
) -> list[str | None] | None:
    tensor = received.get(contract.key) if contract.key is not None else None
    if tensor is None:
        return None
    name = tensor.name
    if tensor.shape not in ([rows], [rows, 1]):
        reason = f"has the shape {tensor.shape}"
        faults.add(None, name, MISSING, reason, f"the shape [{rows}]", -1)
        return None
    if DATATYPES[tensor.datatype].kind not in "Oiu":
        faults.add(None, name, MISSING, f"has the datatype {tensor.datatype}", KEY_ALLOWED, -1)
        return None
    try:
        elements = _elements(tensor, keep_null=True)
    except RefusedValue as refusal:
        faults.refuse(None, name, MISSING, refusal, KEY_ALLOWED, -1)
        return None
    return read_keys(name, elements if isinstance(elements, list) else elements.tolist(), faults)


def encode(
    contract: Contract,
    found: Mapping[str, Array],
    request: V2Request,
    model_name: str,
    model_version: str,
    request_id: str,
    parameters: Mapping[str, Any] | None,
    beside: Mapping[str, Array] | None,
) -> tuple[bytes, int | None]:
    """See `Codec.encode_v2`."""
    answers: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for name in request.outputs or tuple(contract.outputs):
        expected = contract.outputs[name]
        array = outputs_.conform(expected, found[name])
        entry: dict[str, Any] = {
            "name": name,
            "datatype": expected.datatype,
            "shape": list(array.shape),
        }
        if request.binary.get(name, request.binary_default):
            raw = _binary(name, expected, array)
            entry["parameters"] = {"binary_data_size": len(raw)}
            chunks.append(raw)
        else:
            entry["data"] = _json_data(expected, array)
        answers.append(entry)
    for name, array in (beside or {}).items():
        number: dict[str, Any] = {"name": name, "datatype": "FP64", "shape": list(array.shape)}
        if request.binary_default:
            chunks.append(to_bytes("FP64", array))
            number["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            number["data"] = array.tolist()
        answers.append(number)
    document: dict[str, Any] = {
        "model_name": model_name,
        "model_version": model_version,
        "id": request.id if request.id else request_id,
        "outputs": answers,
    }
    if parameters:
        document["parameters"] = dict(parameters)
    header = orjson.dumps(document)
    if not chunks:
        return header, None
    return b"".join((header, *chunks)), len(header)


def _json_data(expected: Field, array: Array) -> list[Any]:
    if expected.shape:
        flat: list[Any] = array.ravel().tolist()
        return flat
    return outputs_.values_of(expected, array)


def _binary(name: str, expected: Field, array: Array) -> bytes:
    values = outputs_.values_of(expected, array) if expected.nullable else []
    if None in values and expected.datatype != "FP64":
        raise Unsupported(
            f'the output "{name}" holds null, which a binary {expected.datatype} tensor cannot '
            "say; ask for it as JSON (binary_data false)"
        )
    return to_bytes(expected.datatype, array)


def metadata(contract: Contract, model_name: str, versions: list[str]) -> dict[str, Any]:
    """See `Codec.metadata`."""
    inputs = [_tensor_metadata(name, f) for name, f in contract.inputs.items()]
    if contract.key is not None:
        key = {"name": contract.key, "datatype": "BYTES", "shape": [-1]}
        inputs.append({**key, "parameters": {"optional": True, "allowed": KEY_ALLOWED}})
    return {
        "name": model_name,
        "versions": versions,
        "platform": "aios",
        "inputs": inputs,
        "outputs": [_tensor_metadata(name, f) for name, f in contract.outputs.items()],
    }


def _tensor_metadata(name: str, expected: Field) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": expected.datatype,
        "shape": [-1, *expected.shape],
        "parameters": {"allowed": expected.describe(), "optional": expected.nullable},
    }
