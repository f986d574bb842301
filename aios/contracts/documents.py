"""Fields from their JSON descriptions."""

from typing import Any

from aios.contracts.fields import Boolean, Category, Field, Integer, Number, Text
from aios.contracts.tensor import Tensor
from aios.errors import UsageError

_ARGUMENTS: dict[str, tuple[type[Field], frozenset[str]]] = {
    "number": (Number, frozenset({"private", "min", "max", "nullable"})),
    "integer": (Integer, frozenset({"private", "min", "max", "nullable"})),
    "boolean": (Boolean, frozenset({"private", "nullable"})),
    "text": (Text, frozenset({"private", "max_length", "nullable"})),
    "category": (Category, frozenset({"private", "values", "nullable"})),
    "tensor": (Tensor, frozenset({"private", "shape", "dtype"})),
}


def field_from_json(name: str, document: Any) -> Field:
    """The field that `to_json` described.

    Raises:
        UsageError: the type or an argument is unknown; the message names the field.
    """
    if not isinstance(document, dict):
        raise UsageError(f'field "{name}": expected a JSON object, not {document!r}')
    arguments = {k: v for k, v in document.items() if k not in ("type", "name")}
    kind = document.get("type")
    if not isinstance(kind, str) or kind not in _ARGUMENTS:
        raise UsageError(f'field "{name}": no type {kind!r}; there are {", ".join(_ARGUMENTS)}')
    made, known = _ARGUMENTS[kind]
    unknown = arguments.keys() - known
    if unknown:
        raise UsageError(f'field "{name}": unknown {sorted(unknown)}; known: {sorted(known)}')
    try:
        return made(**arguments)
    except TypeError as error:
        raise UsageError(f'field "{name}": {error}') from None


def fields_from_json(part: str, document: dict[str, Any]) -> dict[str, Field]:
    """The fields under "inputs" or "outputs" of a contract's document, in their order.

    Raises:
        UsageError: an entry is no field; the message names it.
    """
    entries = document.get(part)
    if not isinstance(entries, list):
        raise UsageError(f"{part} of a contract must be a list of fields")
    found: dict[str, Field] = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise UsageError(f"{part}: each field needs a name; got {entry!r}")
        if name in found:
            raise UsageError(f'{part}: the field "{name}" is listed twice')
        found[name] = field_from_json(name, entry)
    return found
