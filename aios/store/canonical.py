"""Values in the one spelling that can be hashed and that every database holds."""

import json
import re
from typing import Any

import orjson

from aios.errors import UsageError

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and only ASCII, so every database can hold it.

    Raises:
        UsageError: the value has no JSON form (NaN, infinity, bytes, an object, a cycle).
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"this cannot be stored as JSON: {error}") from None


def plain(value: Any, what: str) -> bytes:
    """A plain value as JSON: None, booleans, whole numbers of 64 bits, finite numbers, texts, and
    lists and dicts of these with texts as keys. What flows and steps are given and give, and
    agents are told: it goes over HTTP, into every database and back, and is the same then.

    Raises:
        UsageError: it is not plain; says why, and of `what` it was a part.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        # The other encoder on the way, which takes no large numbers, half characters and odd keys.
        orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, ValueError, RecursionError) as error:
        why = f"{error!s:.200}"
    else:
        if not _NUL.search(text):
            return text.encode()
        why = "a text holds a NUL character"
    raise UsageError(
        f"{what} is not JSON ({why}); give plain values: None, booleans, whole numbers of 64 "
        "bits, finite numbers, texts, and lists and dicts of these"
    )
