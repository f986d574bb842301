"""Requests and answers as a client writes and reads them: JSON records, and binary tensors of the
Open Inference Protocol."""

import math
import urllib.request
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

import aios
from aios.capacity.load import Target
from aios.contracts.datatypes import from_bytes, to_bytes

Array = np.ndarray[Any, Any]
LENGTH = "Inference-Header-Content-Length"


def records_body(contract: aios.Contract, columns: dict[str, Array]) -> bytes:
    """The body of a POST to `/predict`; NaN is null."""
    lists = [_plain(column, contract.inputs[name]) for name, column in columns.items()]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
    return orjson.dumps({"records": rows})


def _plain(column: Array, field: Any) -> list[Any]:
    whole = field.datatype == "INT64"
    return [None if value != value else int(value) if whole else value for value in column.tolist()]


def tensors_body(contract: aios.Contract, columns: dict[str, Array]) -> tuple[bytes, int]:
    """The body of a POST to `/infer`, all binary, and the length of its JSON header. It asks for
    a binary answer."""
    inputs, chunks = [], []
    for name, column in columns.items():
        datatype = contract.inputs[name].datatype
        chunks.append(to_bytes(datatype, column))
        size = {"binary_data_size": len(chunks[-1])}
        told = {"name": name, "shape": list(column.shape), "datatype": datatype}
        inputs.append({**told, "parameters": size})
    header = orjson.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return b"".join((header, *chunks)), len(header)


def ask(target: Target, body: bytes, timeout_s: float) -> dict[str, Array]:
    """The outputs by name, [rows, ...] each.

    Raises:
        OSError: nothing answers, or not with 200.
    """
    headers = {"Content-Type": "application/json", **target.headers}
    request = urllib.request.Request(target.url, data=body, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as answer:
        return outputs_of(answer.read(), answer.headers.get(LENGTH))


def outputs_of(body: bytes, header_length: str | None) -> dict[str, Array]:
    """What an answer says, of either kind."""
    if header_length is None:
        rows = orjson.loads(body)["outputs"]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}
    rest = memoryview(body)[int(header_length) :]
    found = {}
    for told in orjson.loads(body[: int(header_length)])["outputs"]:
        size, shape = told["parameters"]["binary_data_size"], told["shape"]
        elements = from_bytes(told["name"], told["datatype"], rest[:size], math.prod(shape))
        found[told["name"]] = elements.reshape(shape)
        rest = rest[size:]
    return found


def with_length(target: Target, header_length: int | None) -> Target:
    """The target for bodies whose JSON headers have this length; all of one shape have."""
    if header_length is None:
        return target
    return replace(target, headers={**target.headers, LENGTH: str(header_length)})
