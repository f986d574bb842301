"""What can be read off a flow's function: what it is for, and what it is called with."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError


def facts_of(function: Callable[..., Any]) -> dict[str, Any]:
    """`description`, and `arguments`: the JSON schema of an object with an argument of each name;
    None where one can only be given by its place."""
    return {"description": inspect.getdoc(function) or "", "arguments": _schema(function)}


def _schema(function: Callable[..., Any]) -> dict[str, Any] | None:
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    required, more = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                return None
            found = _of_hint(hints.get(parameter.name, Any))
            definitions.update(found.pop("$defs", {}))
            properties[parameter.name] = found
            if parameter.default is parameter.empty:
                required.append(parameter.name)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    schema["additionalProperties"] = more
    return {**schema, "$defs": definitions} if definitions else schema


def _of_hint(hint: Any) -> dict[str, Any]:
    """An annotation as a schema; one that is none of pydantic's takes anything."""
    try:
        return TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        return {}
