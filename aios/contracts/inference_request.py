"""The header of a v2 request, read before any tensor is."""

import math
from dataclasses import dataclass, field
from typing import Any

import orjson

from aios.contracts.contract import Contract
from aios.contracts.datatypes import DATATYPES
from aios.contracts.fields import MISSING
from aios.contracts.json_names import malformed_json
from aios.contracts.violations import Faults
from aios.errors import ContractViolation, Malformed, PayloadTooLarge, Unsupported

_MOST_DIMENSIONS = 10
_REQUEST_MEMBERS = frozenset({"id", "parameters", "inputs", "outputs"})
_TENSOR_MEMBERS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_MEMBERS = frozenset({"name", "parameters"})


@dataclass(frozen=True, slots=True)
class V2Request:
    """What a v2 request asks for besides its rows.

    Attributes:
        id: the caller's id, or None.
        parameters: as sent.
        outputs: the outputs wanted, in this order; None means all.
        binary: per wanted output, whether it said to be sent as binary.
        binary_default: for outputs that say nothing.
    """

    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    binary: dict[str, bool] = field(default_factory=dict)
    binary_default: bool = False


@dataclass(slots=True)
class Received:
    """One input tensor of a request; exactly one of `data` and `raw` is there."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None
    raw: memoryview | None

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def read_request(
    contract: Contract, body: bytes, header_length: int | None
) -> tuple[V2Request, dict[str, Received], int]:
    """What a body asks for, its tensors by name, not yet read, and how many names its
    objects hold, for `refuse_repeated_names` once the data is known to hold no objects.

    Raises:
        Malformed: it is no v2 request, or a tensor is cut off.
        Unsupported: it asks for an extension that is not spoken here.
        ContractViolation: it wants an output that the contract does not have.
    """
    header, rest = _split(body, header_length)
    try:
        document = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise malformed_json(error) from None
    if not isinstance(document, dict):
        raise Malformed("a v2 request is a JSON object with a list of inputs")
    _refuse_unknown("the request", document, _REQUEST_MEMBERS)
    request = _read_wishes(contract, document)
    received = _read_tensors(document.get("inputs"), rest, 2 * len(contract.inputs) + 16)
    entries = [document, *document["inputs"], *(document.get("outputs") or ())]
    names = sum(len(entry) + len(entry.get("parameters") or ()) for entry in entries)
    return request, received, names


def _split(body: bytes, header_length: int | None) -> tuple[Any, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not 0 < header_length <= len(body):
        raise Malformed(
            f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes"
        )
    view = memoryview(body)
    return view[:header_length], view[header_length:]


def _refuse_unknown(place: str, members: dict[str, Any], known: frozenset[str]) -> None:
    if not members.keys() <= known:
        unknown = min(members.keys() - known)
        raise Malformed(
            f"{place} has the unknown member {unknown[:60]!r}; known: {', '.join(sorted(known))}"
        )


def _parameters(place: str, members: dict[str, Any]) -> dict[str, Any]:
    found = members.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Malformed(f"the parameters of {place} must be an object")
    if any(isinstance(value, dict | list) for value in found.values()):
        raise Malformed(f"the parameters of {place} must be texts, numbers and booleans")
    if "shared_memory_region" in found:
        raise Unsupported(f"{place}: shared memory is not spoken here; send the data in the body")
    return found


def _flag(place: str, parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise Malformed(f"{name} of {place} must be true or false")
    return value


def _read_wishes(contract: Contract, document: dict[str, Any]) -> V2Request:
    caller_id = document.get("id")
    if caller_id is not None and not (isinstance(caller_id, str) and len(caller_id) <= 256):
        raise Malformed("id must be a text of at most 256 characters")
    parameters = _parameters("the request", document)
    default = _flag("the request", parameters, "binary_data_output")
    wanted = document.get("outputs")
    if wanted is None:
        return V2Request(caller_id, parameters, None, {}, default)
    if not isinstance(wanted, list):
        raise Malformed("outputs must be a list of objects with a name")
    binary: dict[str, bool] = {}
    names: list[str] = []
    for entry in wanted:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise Malformed("each wanted output is an object with a name")
        _refuse_unknown("a wanted output", entry, _OUTPUT_MEMBERS)
        if name in names:
            raise Malformed(f'the output "{name[:60]}" is wanted twice')
        if name not in contract.outputs:
            faults = Faults("")
            allowed = f"the outputs {', '.join(contract.outputs)}"
            faults.add(None, name, MISSING, "is no output", allowed, kind="unknown")
            raise faults.error()
        names.append(name)
        said = _parameters("a wanted output", entry)
        if said.get("classification"):
            raise Unsupported("the classification extension is not spoken here")
        if "binary_data" in said:
            binary[name] = _flag(f'the output "{name}"', said, "binary_data")
    return V2Request(caller_id, parameters, tuple(names) or None, binary, default)


def _read_tensors(inputs: Any, rest: memoryview, most: int) -> dict[str, Received]:
    if not isinstance(inputs, list) or not inputs:
        raise Malformed("inputs must be a list of at least one tensor")
    if len(inputs) > most:
        raise Malformed(f"{len(inputs)} inputs came, far more than the contract has")
    found: dict[str, Received] = {}
    position = 0
    for entry in inputs:
        tensor, used = _read_tensor(entry, rest[position:])
        if tensor.name in found:
            raise Malformed(f'the input "{tensor.name[:60]}" came twice')
        found[tensor.name] = tensor
        position += used
    if position != len(rest):
        raise Malformed(f"{len(rest) - position} bytes follow the last binary tensor")
    return found


def _read_tensor(entry: Any, rest: memoryview) -> tuple[Received, int]:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name:
        raise Malformed("each input is an object with name, shape, datatype and data")
    place = f'the input "{name[:60]}"'
    _refuse_unknown(place, entry, _TENSOR_MEMBERS)
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise Malformed(f"{place} has the datatype {str(datatype)[:20]!r}, of {list(DATATYPES)}")
    if not isinstance(shape, list) or not 1 <= len(shape) <= _MOST_DIMENSIONS:
        raise Malformed(f"{place} needs a shape of 1 to {_MOST_DIMENSIONS} dimensions")
    if any(type(size) is not int or size < 0 for size in shape):
        raise Malformed(f"{place}: the shape must hold whole numbers that are not negative")
    size = _parameters(place, entry).get("binary_data_size")
    data = entry.get("data")
    if size is None:
        if not isinstance(data, list):
            raise Malformed(f"{place} has neither a list of data nor a binary_data_size")
        return Received(name, datatype, shape, data, None), 0
    if data is not None:
        raise Malformed(f"{place} has both data and a binary_data_size")
    if type(size) is not int or not 0 <= size <= len(rest):
        raise Malformed(f"{place} says {str(size)[:20]} bytes, and {len(rest)} are left")
    return Received(name, datatype, shape, None, rest[:size]), size


def row_count(received: dict[str, Received], max_rows: int) -> int:
    counts = {tensor.shape[0] for tensor in received.values()}
    rows = max(counts)
    if rows > max_rows:
        raise PayloadTooLarge(
            f"{rows} rows are over the limit of {max_rows} in one request; split them",
            rows=rows,
            max_rows=max_rows,
        )
    if len(counts) > 1:
        shown = ", ".join(f"{name[:40]} {t.shape[0]}" for name, t in list(received.items())[:5])
        raise ContractViolation(f"the inputs differ in rows: {shown}", violations=[])
    if rows == 0:
        raise ContractViolation("the batch is empty; send at least one row", violations=[])
    return rows
