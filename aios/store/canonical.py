"""Values in the one spelling that can be hashed and that every database holds."""

import json
from typing import Any

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
