"""What can be read off a flow's function: what it is for, and what it is called with."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from aios.errors import UsageError
from aios.records.acting import Definition


def facts_of(function: Callable[..., Any]) -> dict[str, Any]:
    """`description`, and `arguments`: the JSON schema of an object with an argument of each name;
    None where one can only be given by its place. `places`: the names of those that can be, in
    order, then `"*"` where there may be more."""
    parameters = inspect.signature(function).parameters.values()
    places = [one.name for one in parameters if one.kind in _BY_PLACE]
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        places.append("*")
    arguments = _schema(function)
    return {
        "description": inspect.getdoc(function) or "",
        "arguments": arguments,
        "places": places,
    }


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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


def refuse_unfit_call(definition: Definition, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Raises:
    UsageError: a flow that is called by its name does not take these arguments.
    """
    schema, places = definition.facts.get("arguments"), definition.facts.get("places")
    if schema is None or places is None:
        return  # it takes some by their place alone, or an older version of aios sent it
    by_place = set(places[: len(args)])
    known = {*schema["properties"], *(kwargs if schema["additionalProperties"] else ())}
    faults = [f"it has no {name!r}" for name in kwargs if name not in known]
    faults += [f"{name!r} is given twice" for name in kwargs if name in by_place]
    missing = [one for one in schema["required"] if one not in by_place and one not in kwargs]
    faults += [f"{name!r} is missing" for name in missing]
    if "*" not in places and len(args) > len(places):
        faults.append(f"it takes {len(places)} arguments by their place, and got {len(args)}")
    if faults:
        raise UsageError(f"flow {definition.name!r}: {'; '.join(faults[:5])}")
