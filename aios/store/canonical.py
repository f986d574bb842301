"""JSON with exactly one spelling, so that it can be hashed, compared and stored."""

import json
from typing import Any

from sqlalchemy import Dialect, Text, TypeDecorator

from aios.errors import UsageError


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and only ASCII, so every database can hold it.

    Raises:
        UsageError: the value has no JSON form (NaN, infinity, bytes, an object, a cycle).
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"this cannot be stored as JSON: {error}") from None


class JsonText(TypeDecorator[Any]):
    """A column of canonical JSON. Text and not the databases' own JSON types, which would
    respell it and, in PostgreSQL, refuse `\\u0000` in strings."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else canonical(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)
